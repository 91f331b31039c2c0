"""Cold start: supervised fine-tuning on traces, with the optimiser step that RL uses."""

from magistral_core.sft.train import SftExample, train_sft

__all__ = ["SftExample", "train_sft"]
