"""A byte-level BPE tokenizer trained here on traces, with a chat template of its own.

Every text round-trips, since all bytes are tokens. Each digit is a token by itself. The thinking tags are single tokens that are not
special, so that decoding without special tokens keeps them; the markers of turns are special.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers

from magistral_core.tiny.traces import THINK_CLOSE, THINK_OPEN, curriculum

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

VOCABULARY = {"quick": 384, "multilingual": 1024}
BOS, EOS, PAD = "<s>", "</s>", "<pad>"
SYSTEM, USER, ASSISTANT = "<|system|>", "<|user|>", "<|assistant|>"
#: Keeps the thoughts of earlier turns: what the model wrote is what it reads.
#: A system prompt is left out: the model never saw one, and in its small vocabulary ours would have some thousand tokens.
CHAT_TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}"
    "{% if message['role'] not in ['system', 'user', 'assistant'] %}{{ raise_exception('unknown role ' ~ message['role']) }}{% endif %}"
    "{% if message['role'] != 'system' %}{{ '<|' ~ message['role'] ~ '|>' ~ message['content'] }}{% endif %}"
    "{% if message['role'] == 'assistant' %}{{ eos_token }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)
#: Traces that the vocabulary is made from.
SAMPLE = 4000


def train_tokenizer(world: str, seed: int = 0) -> PreTrainedTokenizerFast:
    """A tokenizer for one world, deterministic in its arguments."""
    return make_tokenizer(_corpus(world, seed), VOCABULARY[world])


def make_tokenizer(texts: Iterable[str], vocabulary: int) -> PreTrainedTokenizerFast:
    """A tokenizer of at most `vocabulary` tokens, made from texts without thinking tags; deterministic in its arguments."""
    from transformers import PreTrainedTokenizerFast

    special = [PAD, BOS, EOS, SYSTEM, USER, ASSISTANT]
    tags = [THINK_OPEN, THINK_CLOSE]
    tokenizer = Tokenizer(models.BPE())
    # no splitting into words: a phrase that always recurs becomes a token, which keeps traces short
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary - len(tags),
        special_tokens=special,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.add_tokens([AddedToken(tag, special=False, normalized=False) for tag in tags])
    wrapped = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=BOS,
        eos_token=EOS,
        pad_token=PAD,
        additional_special_tokens=[SYSTEM, USER, ASSISTANT],
        clean_up_tokenization_spaces=False,
        model_max_length=4096,
    )
    wrapped.chat_template = CHAT_TEMPLATE
    return wrapped


def _corpus(world: str, seed: int) -> Iterable[str]:
    for trace in curriculum(world, SAMPLE, 1, seed):
        yield trace.exercise.question
        yield from trace.response.replace(THINK_OPEN, "").split(THINK_CLOSE)
