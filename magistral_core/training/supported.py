"""Which models the trainer computes as the generators do, told from their configuration. Light: asked before anything is loaded."""

from __future__ import annotations

from typing import Any

from magistral_core.errors import InputError

#: A row holds several sequences, which attention alone keeps apart.
_LAYERS = frozenset({"full_attention", "sliding_attention"})
#: What models call a factor on the logits or a cap of them. The trainer's log-probabilities are computed in chunks, without either.
_SCALES = (
    "final_logit_softcapping",
    "logit_scale",
    "logits_scaling",
    "lm_head_multiplier",
    "logits_soft_cap",
    "logits_mup_width_multiplier",
)


def refuse_unsupported(config: Any, name: str) -> None:
    """Raise InputError for a model whose log-probabilities would be wrong.

    Args:
        config: transformers' of the model; where it describes several modalities, that of the text counts as well.
        name: of the model, for the message.
    """
    text = config.get_text_config()
    others = sorted(set(getattr(text, "layer_types", None) or ()) - _LAYERS)
    if others:
        raise InputError(
            f"model.path {name}: it has layers of {others[0]}; only models whose layers all attend, fully or within a sliding window, are "
            "supported: nothing else keeps the sequences of a packed row apart as the generators do"
        )
    odd = [key for key in _SCALES for each in (config, text) if getattr(each, key, None) not in (None, 1, 1.0)]
    if odd:
        raise InputError(f"model.path {name}: its config scales the logits ({odd[0]}); such models are not supported")
