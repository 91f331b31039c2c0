"""The embedded default: generated problems, a small tokenizer and a small base model made here, so that nothing is downloaded.

Importing this package loads no torch; `magistral_core.tiny.base` and `.model` do when they build a model.
"""

from magistral_core.tiny.problems import Split, generate, load
from magistral_core.tiny.version import VERSION

__all__ = ["VERSION", "Split", "generate", "load"]
