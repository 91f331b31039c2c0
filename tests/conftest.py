"""Settings of every test."""

from __future__ import annotations

from hypothesis import settings

# A deadline for one example measures how busy the machine is, not the code.
settings.register_profile("suite", deadline=None)
settings.load_profile("suite")
