"""The soft length penalty (Magistral, section 2.2). Pure."""

from __future__ import annotations

from magistral_core.config.schema import LengthReward


def length_penalty(tokens: int, settings: LengthReward) -> float:
    """Penalty of a completion of `tokens` generated tokens, in [-penalty, 0].

    0 up to `l_max - l_cache`, then linear down to `-penalty` at `l_max`, and `-penalty` beyond.
    """
    over = tokens - (settings.l_max - settings.l_cache)
    return -settings.penalty * min(max(over / settings.l_cache, 0.0), 1.0) if over > 0 else 0.0
