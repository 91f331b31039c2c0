"""The sampler: one and several engines, and a journal that survives what kills the engines."""

from __future__ import annotations

import os
import shutil
import signal
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from random_model import GENERATION, MAX_MODEL_LEN, make_model, make_requests

from magistral_core.config.schema import PromptSettings
from magistral_core.errors import InfrastructureError, InputError
from magistral_core.generation import sampler as sampler_module
from magistral_core.generation.journal import Journal, journal_until_done
from magistral_core.generation.sampler import Sampler, device_shares, sampling_identity
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
    assert all(after[key] == tokens for key, tokens in before.items())
    written = sum(pq.read_metadata(part).num_rows for part in (tmp_path / "journal").glob("part-*.parquet"))
    assert written == len(requests), "finished work was sampled again"


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
        for other in ({"seed": REQUESTS[0].seed + 1}, {"max_tokens": REQUESTS[0].max_tokens + 1}):
            with pytest.raises(InputError, match="another prompt, seed or limit of tokens"):
                next(sampler.sample(iter([replace(REQUESTS[0], **other)]), SAMPLING))
    make_model(tmp_path / "other", seed=5)
    with open_sampler(tmp_path / "other", journal=journal) as sampler, pytest.raises(InputError, match="model = "):
        next(sampler.sample(iter(REQUESTS[:4]), SAMPLING))


@pytest.mark.parametrize(
    ("engines", "parallel", "devices", "visible", "shares"),
    [
        (2, 1, 0, None, [None, None]),
        (2, 1, 8, None, ["0", "1"]),
        (4, 2, 4, "4,5,6,7", ["4,5", "6,7"]),
        (2, 1, 1, "3", ["3"]),  # one engine, and not two on one GPU
        (3, 4, 2, None, ["0,1"]),  # vLLM says what it lacks
    ],
)
def test_no_two_engines_share_a_gpu(engines: int, parallel: int, devices: int, visible: str | None, shares: list[str | None]) -> None:
    assert device_shares(engines, parallel, devices, visible) == shares


def test_what_an_engine_cannot_do_is_said_by_several_as_well(model_folder: Path) -> None:
    none = GENERATION.model_copy(update={"kv_cache_gib": 1e-6})
    with (
        Sampler(model_folder, none, max_model_len=MAX_MODEL_LEN, engines=2) as sampler,
        pytest.raises(InputError, match=r"an engine has generation\.kv_cache_gib=1e-06; raise it"),
    ):
        next(sampler.sample(iter(REQUESTS), SAMPLING))


def test_what_vllm_stumbles_over_is_said_by_several_as_well(model_folder: Path, tmp_path: Path) -> None:
    shutil.copytree(model_folder, tmp_path / "cut")
    [weights] = (tmp_path / "cut").glob("*.safetensors")
    os.truncate(weights, weights.stat().st_size // 2)
    with (
        Sampler(tmp_path / "cut", GENERATION, max_model_len=MAX_MODEL_LEN, engines=2) as sampler,
        pytest.raises(InfrastructureError, match=r"(an engine failed \(SafetensorError: |vLLM did not start with .*cut: )"),
    ):
        next(sampler.sample(iter(REQUESTS), SAMPLING))


def test_what_a_journal_must_agree_on(tmp_path: Path) -> None:
    make_model(tmp_path, seed=0)

    def identity(prompt: PromptSettings = PromptSettings()) -> dict[str, Any]:  # noqa: B008
        return sampling_identity(tmp_path, GENERATION, SAMPLING, prompt, MAX_MODEL_LEN)

    first = identity()
    assert identity() == first
    assert identity(PromptSettings(think_open="<thought>")) != first
    (tmp_path / "pytorch_model.bin").write_bytes(b"weights in another format")
    assert identity() != first
    (tmp_path / "pytorch_model.bin").unlink()
    assert identity() == first
    (tmp_path / "generation_config.json").write_text('{"eos_token_id": 5}')  # where a completion ends
    assert identity() != first


def test_half_written_part_does_not_count_and_a_broken_one_is_named(model_folder: Path, tmp_path: Path) -> None:
    journal = Journal(tmp_path, {"a": 1})
    (tmp_path / "part-000000.tmp").write_bytes(b"half")
    assert len(Journal(tmp_path, {"a": 1})) == 0 == len(journal)
    (tmp_path / "part-000000.parquet").write_bytes(b"PAR1 broken")
    with pytest.raises(InputError, match=r"part-000000\.parquet cannot be read.*remove this file"):
        Journal(tmp_path, {"a": 1})
    (tmp_path / "journal.json").write_bytes(b"")
    with pytest.raises(InputError, match=r"journal\.json cannot be read.*remove the folder"):
        Journal(tmp_path, {"a": 1})


def test_a_journal_until_done_belongs_to_one_piece_of_work(tmp_path: Path) -> None:
    def stopped() -> None:
        with journal_until_done(tmp_path, {"a": 1}) as folder:
            (folder / "part").touch()
            with journal_until_done(tmp_path, {"a": 1}) as same, journal_until_done(tmp_path, {"a": 2}) as other:
                assert same is None and other not in (None, folder)
            assert not other.exists() and (folder / "part").exists()
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        stopped()
    with journal_until_done(tmp_path, {"a": 1}) as again:
        assert (again / "part").exists()
    assert not list(tmp_path.iterdir())


def test_a_journal_that_nobody_goes_on_with_is_removed_after_a_month(tmp_path: Path) -> None:
    for age_days in (29, 31):
        (tmp_path / str(age_days)).mkdir()
        os.utime(tmp_path / str(age_days), (time.time() - age_days * 86400,) * 2)
    (tmp_path / "file").touch()
    os.utime(tmp_path / "file", (0, 0))
    with journal_until_done(tmp_path, 0) as folder:
        (tmp_path / "file").unlink()  # an old file is none of ours: it neither goes nor stops anybody
        assert {path.name for path in tmp_path.iterdir()} == {"29", folder.name}


def test_a_cache_that_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="cannot be written .*; set MAGISTRAL_CACHE"), journal_until_done(tmp_path / "file" / "x", 0):
        pass
    with journal_until_done(tmp_path, 0) as folder:
        name = folder.name
    (tmp_path / name).touch()
    with pytest.raises(InputError, match="cannot be written .*; set MAGISTRAL_CACHE"), journal_until_done(tmp_path, 0):
        pass
