"""Where this project keeps what it can make again."""

from __future__ import annotations

import os
from pathlib import Path


def cache_folder() -> Path:
    """Base models made here, checkpoints and samples on their way: MAGISTRAL_CACHE, or ~/.cache/magistral."""
    return Path(os.environ.get("MAGISTRAL_CACHE") or Path.home() / ".cache" / "magistral").absolute()
