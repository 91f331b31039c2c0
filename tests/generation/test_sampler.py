"""The sampler: one and several engines, and a journal that survives what kills the engines."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import numpy as np
import pytest
from random_model import GENERATION, MAX_MODEL_LEN, make_model, make_requests

from magistral_core.errors import InfrastructureError, InputError
from magistral_core.generation import sampler as sampler_module
from magistral_core.generation.journal import Journal
from magistral_core.generation.sampler import Sampler
from magistral_core.generation.tokens import Sampling
from magistral_core.records import Completion, FinishReason, Request

REQUESTS = [request for group in range(12) for request in make_requests(10, 30, group=group)]
SAMPLING = Sampling(temperature=0.9)


def open_sampler(folder: Path, **options) -> Sampler:
    return Sampler(folder, GENERATION, max_model_len=MAX_MODEL_LEN, **options)


def keys(items) -> list[tuple[int, int]]:
    return sorted((item.group_id, item.index) for item in items)


def test_samples_everything_once_and_resumes_from_the_journal(model_folder: Path, tmp_path: Path) -> None:
    progress: list[int] = []
    with open_sampler(model_folder, journal=tmp_path / "journal") as sampler:
        first = list(sampler.sample(iter(REQUESTS[:60]), SAMPLING, progress.append))
        assert keys(first) == keys(REQUESTS[:60]) and progress == list(range(1, 61))
        second = list(sampler.sample(iter(REQUESTS), SAMPLING))
        assert keys(second) == keys(REQUESTS)
    with open_sampler(model_folder, journal=tmp_path / "journal") as resumed:
        third = list(resumed.sample(iter(REQUESTS), SAMPLING))
        assert resumed._backend is None, "a complete journal needs no engine"
    for a, b in zip(sorted(second, key=lambda c: (c.group_id, c.index)), sorted(third, key=lambda c: (c.group_id, c.index)), strict=True):
        assert a.token_ids.tolist() == b.token_ids.tolist() and a.logprobs.tolist() == b.logprobs.tolist()
        assert (a.text, a.finish_reason, a.versions.tolist()) == (b.text, b.finish_reason, b.versions.tolist())


def test_several_engines_and_a_killed_one(model_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sampler_module, "_JOURNAL_COMPLETIONS", 8)
    requests = [Request(r.group_id, r.index, r.prompt, r.seed, 200) for r in REQUESTS]
    sampler = open_sampler(model_folder, engines=2, journal=tmp_path / "journal")
    seen = []

    def sample_until_killed() -> None:
        with sampler:
            for completion in sampler.sample(iter(requests), SAMPLING):
                seen.append(completion)
                if len(seen) == 20:
                    os.kill(sampler._backend._children[0][0].pid, signal.SIGKILL)

    with pytest.raises(InfrastructureError, match=r"sampler-\d: exit code -9"):
        sample_until_killed()
    assert 20 <= len(seen) < len(requests)

    kept = len(list((tmp_path / "journal").glob("part-*.parquet")))
    with open_sampler(model_folder, journal=tmp_path / "journal") as again:
        everything = list(again.sample(iter(requests), SAMPLING))
    assert kept >= 2 and keys(everything) == keys(requests)
    before = {(c.group_id, c.index): c.token_ids.tolist() for c in seen}
    after = {(c.group_id, c.index): c.token_ids.tolist() for c in everything}
    assert all(after[key] == tokens for key, tokens in before.items()), "finished work was sampled again"


def test_stopping_early_leaves_nothing_for_the_next_call(model_folder: Path) -> None:
    with open_sampler(model_folder) as sampler:
        stream = sampler.sample(iter(REQUESTS), SAMPLING)
        next(stream)
        stream.close()
        assert keys(sampler.sample(iter(REQUESTS[:5]), SAMPLING)) == keys(REQUESTS[:5])


def test_a_part_that_was_removed_from_a_journal_costs_no_other(tmp_path: Path) -> None:
    def finished(number: int) -> list[tuple[Request, Completion]]:
        request = REQUESTS[number]
        tokens = np.arange(3, dtype=np.int32)
        done = Completion(request.group_id, request.index, request.prompt.token_ids, tokens, tokens / 2, tokens * 0, "x", FinishReason.STOP)
        return [(request, done)]

    journal = Journal(tmp_path, {})
    for number in range(3):
        journal.write(finished(number))
    (tmp_path / "part-000001.parquet").unlink()
    again = Journal(tmp_path, {})
    again.write(finished(3))
    assert [Journal(tmp_path, {}).get(REQUESTS[number]) is not None for number in range(4)] == [True, False, True, True]


def test_journal_of_another_sampling_is_refused(model_folder: Path, tmp_path: Path) -> None:
    journal = tmp_path / "journal"
    with open_sampler(model_folder, journal=journal) as sampler:
        list(sampler.sample(iter(REQUESTS[:4]), SAMPLING))
        with pytest.raises(InputError, match=r"temperature = 0\.9, this is 0\.7"):
            next(sampler.sample(iter(REQUESTS[:4]), Sampling(temperature=0.7)))
        other = [Request(r.group_id, r.index, r.prompt, r.seed + 1, r.max_tokens) for r in REQUESTS[:4]]
        with pytest.raises(InputError, match="another prompt or seed"):
            next(sampler.sample(iter(other), SAMPLING))
    make_model(tmp_path / "other", seed=5)
    with open_sampler(tmp_path / "other", journal=journal) as sampler, pytest.raises(InputError, match="model = "):
        next(sampler.sample(iter(REQUESTS[:4]), SAMPLING))


def test_half_written_part_does_not_count_and_a_broken_one_is_named(model_folder: Path, tmp_path: Path) -> None:
    journal = Journal(tmp_path, {"a": 1})
    (tmp_path / "part-000000.tmp").write_bytes(b"half")
    assert len(Journal(tmp_path, {"a": 1})) == 0 == len(journal)
    (tmp_path / "part-000000.parquet").write_bytes(b"PAR1 broken")
    with pytest.raises(InputError, match=r"part-000000\.parquet cannot be read.*remove this file"):
        Journal(tmp_path, {"a": 1})
