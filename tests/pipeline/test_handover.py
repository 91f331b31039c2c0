"""The hand-overs' order of calls, with processes that only take notes; files themselves are tested by real runs."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from magistral_core.config import load_recipe
from magistral_core.errors import InputError
from magistral_core.generation.transfer import Contents
from magistral_core.pipeline.handover import FileHandover, HandoverFolder, WeightFile, handover_kind
from magistral_core.pipeline.handover_nccl import NcclHandover
from magistral_core.pipeline.supervision import GeneratorError

CONTENTS = Contents(("a",), ("float32",), ((2,),))


class Notes:
    """Two trainer ranks and some generators. `join` and its like return only when the other side is there too, as in NCCL."""

    def __init__(self, dead: frozenset[int] = frozenset()) -> None:
        self.calls: list[tuple[Any, ...]] = []
        self._dead = dead
        self._meeting: dict[tuple[str, int], asyncio.Barrier] = {}

    async def ask_trainers(self, method: str, *arguments: Any) -> list[Any]:
        self.calls.append(("trainers", method, *arguments))
        return {"publish": ["checksum", ""], "stage": [CONTENTS, None]}[method]

    async def ask_trainer(self, rank: int, method: str, *arguments: Any) -> Any:
        self.calls.append((f"trainer {rank}", method, *arguments))
        if method == "address":
            return "10.0.0.1", 1234
        if method in {"join", "send"}:
            await self._meet({"join": "join", "send": "receive"}[method], arguments[0])
        return None

    async def ask_generator(self, generator: int, method: str, *arguments: Any) -> Any:
        self.calls.append((f"generator {generator}", method, *arguments))
        if generator in self._dead:
            raise GeneratorError(f"generator {generator} died")
        if method in {"join", "receive"}:
            await self._meet(method, generator)
        return 3

    async def _meet(self, method: str, generator: int) -> None:
        await self._meeting.setdefault((method, generator), asyncio.Barrier(2)).wait()


def run(work: Any) -> Any:
    return asyncio.run(asyncio.wait_for(work, 10))


def test_a_file_is_written_once_and_read_by_each_generator(tmp_path: Path) -> None:
    notes, folder = Notes(), HandoverFolder(str(tmp_path))

    async def work() -> None:
        handover = FileHandover(folder, notes)
        weights = await handover.publish(4)
        assert weights == WeightFile(str(folder.path / "4.safetensors"), 4, "checksum")
        assert await asyncio.gather(*(handover.deliver(generator, weights) for generator in range(2))) == [3, 3]
        Path(weights.path).touch()
        await handover.discard(weights)
        assert not Path(weights.path).exists()
        handover.close()

    run(work())
    assert [call[:2] for call in notes.calls] == [("trainers", "publish"), ("generator 0", "update"), ("generator 1", "update")]
    assert list(tmp_path.iterdir()) == []


def test_over_nccl_both_ends_join_once_and_then_send_and_receive(tmp_path: Path) -> None:
    notes = Notes()

    async def work() -> None:
        handover = NcclHandover(notes, HandoverFolder(str(tmp_path)), ranks=2)
        for version in (1, 2):
            weights = await handover.publish(version)
            assert await asyncio.gather(*(handover.deliver(generator, weights) for generator in range(2))) == [3, 3]
            await handover.discard(weights)
        handover.forget(1)  # started anew
        weights = await handover.publish(3)
        assert await handover.deliver(1, weights) == 3
        handover.close()

    run(work())
    assert notes.calls.count(("trainer 0", "join", 0, "10.0.0.1", 1234, 2)) == 1
    assert notes.calls.count(("generator 1", "join", "10.0.0.1", 1234)) == 2
    assert [call[2] for call in notes.calls if call[1] == "unstage"] == [1, 2]
    for generator, versions in ((0, [1, 2]), (1, [1, 2, 3])):
        received = [call for call in notes.calls if call[:2] == (f"generator {generator}", "receive")]
        assert received == [(f"generator {generator}", "receive", version, CONTENTS) for version in versions]
        assert [call[3] for call in notes.calls if call[:3] == ("trainer 0", "send", generator)] == versions
    assert list(tmp_path.iterdir()) == []


def test_a_generator_that_dies_is_told_of_at_once(tmp_path: Path) -> None:
    """Though the trainer's end waits for it."""

    async def work() -> None:
        handover = NcclHandover(Notes(dead=frozenset({1})), HandoverFolder(str(tmp_path)), ranks=1)
        weights = await handover.publish(1)
        try:
            with pytest.raises(GeneratorError, match="generator 1 died"):
                await handover.deliver(1, weights)
            assert await handover.deliver(0, weights) == 3
        finally:
            handover.close()

    run(work())


@pytest.mark.parametrize(
    ("overrides", "kind"),
    [
        ([], "shared_memory"),
        (["pipeline.weights_folder=/mnt/weights"], "files"),
        (["pipeline.handover=files", "pipeline.weights_folder=/mnt/weights"], "files"),
        (["pipeline.handover=nccl"], "nccl"),
    ],
)
def test_the_way_that_a_recipe_asks_for(overrides: list[str], kind: str) -> None:
    assert handover_kind(load_recipe("tiny", overrides).pipeline) == kind


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["pipeline.handover=files"], "files needs weights_folder"),
        (["pipeline.handover=nccl", "pipeline.weights_folder=/mnt"], "nccl uses no weights_folder"),
        (["pipeline.handover=shared_memory", "pipeline.weights_folder=/mnt"], "shared_memory uses no weights_folder"),
        (["pipeline.handover=nccl", "pipeline.placement=colocated"], "nccl needs placement: split"),
        (["pipeline.handover=nccl", "pipeline.runtime=local", "pipeline.schedule=sync"], "nccl needs placement: split and runtime: ray"),
        (["rewards.workers=4", "rewards.max_workers=3"], "max_workers (3) must be at least workers (4)"),
    ],
)
def test_what_does_not_fit_together_is_refused(overrides: list[str], message: str) -> None:
    with pytest.raises(InputError) as caught:
        load_recipe("tiny", overrides)
    assert message in str(caught.value)
