"""Between our records and vLLM's: sampling parameters in, completions out, and the one place where tokens become text."""

from __future__ import annotations

import copy
import functools
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from magistral_core.errors import InfrastructureError, InputError
from magistral_core.records import Completion, FinishReason, Request

if TYPE_CHECKING:
    from vllm import SamplingParams
    from vllm.outputs import RequestOutput


_TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model", "tekken.json", "vocab.json")


@dataclass(frozen=True, slots=True)
class Sampling:
    """How tokens are drawn. Training samples the full distribution; `top_p` below 1 is for evaluation only.

    Attributes:
        temperature: 0 takes the likeliest token.
        top_p: share of the probability that is sampled from.
    """

    temperature: float = 1.0
    top_p: float = 1.0


def load_tokenizer(model_path: str | Path) -> Any:
    """The tokenizer of a model folder or hub name.

    Raises:
        InputError: there is none.
    """
    from transformers import AutoTokenizer

    folder = Path(model_path)
    if folder.exists() and not any((folder / name).is_file() for name in _TOKENIZER_FILES):
        raise InputError(f"{folder} has no tokenizer (no {_TOKENIZER_FILES[0]}): copy its files there, or save it with save_pretrained")
    try:
        return AutoTokenizer.from_pretrained(str(model_path))
    except Exception as error:  # tokenizers raises no class of its own
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise InputError(f"{model_path}: the tokenizer cannot be loaded ({reason})") from error


class Decoder:
    """Decodes completions and knows which tokens end one.

    Special tokens are left out, except those in `keep`: a model may have its thinking tags as special tokens, and
    verifiers must see them.
    """

    def __init__(self, model_path: str | Path, keep: Sequence[str] = ()) -> None:
        self.tokenizer = load_tokenizer(model_path)
        ids = {tag: self.tokenizer.convert_tokens_to_ids(tag) for tag in keep}  # of a tag that is no token: that of the unknown token
        kept = {i for tag, i in ids.items() if i is not None and self.tokenizer.convert_ids_to_tokens(i) == tag}
        self._dropped = frozenset(self.tokenizer.all_special_ids) - kept
        self.stop_ids = tuple(sorted(_stop_ids(self.tokenizer, Path(model_path))))
        if not self.stop_ids:
            raise InputError(f"{model_path}: the tokenizer has no end-of-sequence token, completions would never end; set eos_token")

    def __call__(self, token_ids: Sequence[int]) -> str:
        """Text of some tokens."""
        return self.tokenizer.decode([i for i in token_ids if i not in self._dropped], clean_up_tokenization_spaces=False)


def _stop_ids(tokenizer: Any, folder: Path) -> set[int]:
    """The tokenizer's end-of-sequence token and those that the model's generation config adds."""
    ids = set() if tokenizer.eos_token_id is None else {int(tokenizer.eos_token_id)}
    path = folder / "generation_config.json"
    if path.is_file():
        try:
            extra = json.loads(path.read_text(encoding="utf-8")).get("eos_token_id")
        except (OSError, ValueError, AttributeError) as error:
            raise InputError(f"{path}: cannot be read ({error}); copy it again, or delete it") from error
        ids.update([] if extra is None else [extra] if isinstance(extra, int) else extra)
    return ids


def sampling_params(request: Request, sampling: Sampling, stop_ids: tuple[int, ...]) -> SamplingParams:
    """Parameters of one request for vLLM: one completion, its sampled tokens' log-probabilities, no text."""
    params = copy.copy(_common_params(sampling, stop_ids))
    params.max_tokens, params.seed = request.max_tokens, request.seed % 2**63
    return params


@functools.lru_cache
def _common_params(sampling: Sampling, stop_ids: tuple[int, ...]) -> SamplingParams:
    """What all requests of a run share; to check it anew for each took a fifth of the time of handing it in."""
    from vllm import SamplingParams
    from vllm.sampling_params import RequestOutputKind

    return SamplingParams(
        temperature=sampling.temperature,
        top_p=sampling.top_p,
        logprobs=0,
        flat_logprobs=True,
        stop_token_ids=list(stop_ids),
        detokenize=False,
        output_kind=RequestOutputKind.FINAL_ONLY,
        skip_clone=True,
    )


def cache_salt(request: Request, version: int) -> str:
    """Names the prefix cache of a prompt. What a validation leaves there must not touch the last bits of a sequence that is trained."""
    return f"{version}" if request.group_id >= 0 else f"{version} held out"


def to_completion(request: Request, output: RequestOutput, decoder: Decoder) -> Completion:
    """The record of a finished output.

    Raises:
        InfrastructureError: vLLM ended the request for another reason than its end or its length.
    """
    (result,) = output.outputs
    name = f"completion {request.index} of group {request.group_id}"
    token_ids = np.asarray(result.token_ids, dtype=np.int32)
    if result.finish_reason not in ("stop", "length"):
        raise InfrastructureError(f"{name} was ended by the engine ({result.finish_reason})")
    versions = np.empty(len(token_ids), dtype=np.int32)
    for span in result.weight_versions:
        versions[span.start : span.end] = int(span.version)
    return Completion(
        group_id=request.group_id,
        index=request.index,
        prompt_ids=request.prompt.token_ids,
        token_ids=token_ids,
        logprobs=np.asarray(result.logprobs.logprobs, dtype=np.float32),
        versions=versions,
        text=request.prompt.prefill + decoder(token_ids.tolist()),
        finish_reason=FinishReason(result.finish_reason),
    )
