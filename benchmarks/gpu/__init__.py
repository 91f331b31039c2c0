"""What only a machine with an NVIDIA GPU can tell: `python -m benchmarks.gpu.run`."""
