"""Weights from trainer rank 0 into the generators' GPUs over NCCL, without a file. Never run: it needs GPUs.

    publish:  every rank gathers parameter by parameter; rank 0 keeps whole copies on its GPU
    deliver:  [join, once an incarnation]  rank 0 and the generator's workers meet at an address of rank 0's
              send and receive at the same time; the generator's answer is the acknowledgement
    discard:  rank 0 drops its copies

There is no checksum: NCCL's transports have their own, and each tensor is checked by name, dtype and shape before it is sent. What
is missing: when a generator dies while it receives, rank 0 waits in NCCL for ever, and so do the generators that it sends to after; the
run's stall watch ends it.
"""

from __future__ import annotations

import asyncio
from typing import Any

from magistral_core.generation.transfer import Contents
from magistral_core.pipeline.handover import HandoverFolder, Peers, WeightFile

_FIRST = 0  # the trainer rank that sends


class NcclHandover:
    """Hand-over over NCCL; see Handover.

    Args:
        peers: the processes on both sides.
        folder: nothing is written there; its reaper guards the run's processes.
        ranks: tensor-parallel ranks of a generator.
    """

    def __init__(self, peers: Peers, folder: HandoverFolder, ranks: int) -> None:
        self._peers = peers
        self._folder = folder
        self._ranks = ranks
        self._contents: dict[int, Contents] = {}
        self._joined: set[int] = set()

    async def publish(self, version: int) -> WeightFile:
        """See Handover."""
        self._contents[version] = (await self._peers.ask_trainers("stage", version))[_FIRST]
        return WeightFile("nccl", version, "")

    async def deliver(self, generator: int, weights: WeightFile) -> int:
        """See Handover."""
        if generator not in self._joined:
            address, port = await self._peers.ask_trainer(_FIRST, "address")
            await self._both(
                self._peers.ask_trainer(_FIRST, "join", generator, address, port, self._ranks),
                self._peers.ask_generator(generator, "join", address, port),
            )
            self._joined.add(generator)
        _, in_flight = await self._both(
            self._peers.ask_trainer(_FIRST, "send", generator, weights.version),
            self._peers.ask_generator(generator, "receive", weights.version, self._contents[weights.version]),
        )
        return int(in_flight)

    async def discard(self, weights: WeightFile) -> None:
        """See Handover."""
        del self._contents[weights.version]
        await self._peers.ask_trainer(_FIRST, "unstage", weights.version)

    def forget(self, generator: int) -> None:
        """See Handover."""
        self._joined.discard(generator)

    def close(self) -> None:
        """See Handover. Communicators and copies end with the processes that hold them."""
        self._folder.close()

    async def _both(self, trainer: Any, generator: Any) -> tuple[Any, Any]:
        """Two ends of one exchange. What fails first is raised at once: the other end may wait for it for ever."""
        ends = [asyncio.ensure_future(end) for end in (trainer, generator)]
        try:
            answers = await asyncio.gather(*ends)
        finally:
            for end in ends:
                end.cancel()
        return answers[0], answers[1]
