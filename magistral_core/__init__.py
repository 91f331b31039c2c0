"""Magistral: reinforcement learning on verifiable problems (arXiv 2506.10910), in the open.

Importing this package loads no engine: torch, vllm, ray, prefect and mlflow are imported by the
rooms that need them, when they need them.
"""

__version__ = "0.1.0"
