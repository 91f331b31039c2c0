"""The embedded default: generated problems, a small tokenizer and a small base model made here, so that nothing is downloaded.

Importing this package loads no torch (building a model does), and lets `problems.path` be `tiny` or `tiny-multilingual`.
"""

from magistral_core.problems import register_source
from magistral_core.tiny.base import base_model_path, ensure_base_model
from magistral_core.tiny.problems import Split, generate, load_multilingual, load_quick
from magistral_core.tiny.version import VERSION

register_source("tiny", load_quick)
register_source("tiny-multilingual", load_multilingual)

__all__ = ["VERSION", "Split", "base_model_path", "ensure_base_model", "generate"]
