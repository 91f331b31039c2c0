"""Which run does a command belong to: the same command again goes on with what it began.

A run's id is `{name}-{first 8 digits of the recipe's digest}-{attempt}`; below `runs/{id}/` lie `run.json` (the resolved
recipe, written once), `lease.json`, `checkpoints/`, `generators.json` where a number was asked for, and at the end `finished.json`.
"""

from __future__ import annotations

import hashlib
import json
import re
import secrets
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from magistral_core.errors import InfrastructureError, InputError
from magistral_core.storage.checkpoints import CheckpointStore
from magistral_core.storage.lease import TTL_S, Lease
from magistral_core.storage.objects import MissingObjectError, ObjectStore

_ID = re.compile(r"(?P<name>.+)-(?P<digest>[0-9a-f]{8})-(?P<attempt>\d{3,})")


def recipe_digest(recipe: Mapping[str, Any]) -> str:
    """SHA-256 in hex of a resolved recipe: the same settings, the same digest."""
    return hashlib.sha256(json.dumps(recipe, sort_keys=True, ensure_ascii=False).encode()).hexdigest()


@dataclass(frozen=True, slots=True)
class RunHandle:
    """A run in a store. `resumed`: it had begun before."""

    store: ObjectStore
    run_id: str
    resumed: bool

    @property
    def name(self) -> str:
        """Of its recipe."""
        return self.run_id.rsplit("-", 2)[0]

    @property
    def attempt(self) -> int:
        """Which try at this recipe, from 1."""
        return int(self.run_id.rpartition("-")[2])

    @property
    def uri(self) -> str:
        """`{store}/runs/{run_id}`."""
        return f"{self.store.uri}/runs/{self.run_id}"

    @property
    def finished(self) -> bool:
        """Whether it came to its end."""
        return self.store.exists(f"runs/{self.run_id}/finished.json")

    def lease(self, ttl: float = TTL_S, on_wait: Callable[[str], None] | None = None) -> Lease:
        """The right to write for it; acquire it before anything else. Arguments as of Lease."""
        return Lease(self.store, self.run_id, ttl, on_wait)

    def checkpoints(self, lease: Lease | None = None) -> CheckpointStore:
        """Its checkpoints; with a lease, every commit checks it first."""
        return CheckpointStore(self.store, self.run_id, lease.check if lease else None)

    def begin(self, recipe: Mapping[str, Any]) -> None:
        """Write `run.json` on the first start. Needs the lease."""
        if not self.store.exists(f"runs/{self.run_id}/run.json"):
            content = {"run_id": self.run_id, "key": secrets.token_hex(16), "digest": recipe_digest(recipe), "recipe": dict(recipe)}
            self._put("run.json", content)

    @property
    def key(self) -> str:
        """What no other run has, in no store: an id counts the attempts of one store. Empty for a run of before there were keys."""
        return str(self._begun().get("key", ""))

    def recipe(self) -> dict[str, Any]:
        """The resolved recipe that it began with. Raises InputError if it never began."""
        return dict(self._begun()["recipe"])

    def ask_for_generators(self, count: int) -> None:
        """Have the run go on with so many generators, now or when it is resumed. Needs no lease."""
        self._put("generators.json", {"generators": count})

    def wanted_generators(self) -> int | None:
        """What was asked for last, None if nothing ever was."""
        try:
            return int(json.loads(self.store.get_bytes(f"runs/{self.run_id}/generators.json"))["generators"])
        except MissingObjectError:
            return None
        except (ValueError, KeyError, TypeError) as error:
            raise InputError(f"{self.store.uri}/runs/{self.run_id}/generators.json: no number of generators; ask for one again") from error

    def finish(self, summary: Mapping[str, Any] | None = None) -> None:
        """Mark it finished: the same command then starts a new attempt."""
        try:
            self._put("finished.json", dict(summary or {}))
        except InfrastructureError:
            if not self.finished:  # else only the answer was lost, and a second try would be a new attempt
                raise

    def _begun(self) -> dict[str, Any]:
        try:
            return dict(json.loads(self.store.get_bytes(f"runs/{self.run_id}/run.json")))
        except MissingObjectError as error:
            raise InputError(f"{self.uri}: no run.json; this run never began") from error

    def _put(self, name: str, content: Mapping[str, Any]) -> None:
        stamped = {**content, "time": datetime.now(UTC).isoformat(timespec="seconds")}
        self.store.put_bytes(json.dumps(stamped, indent=1, ensure_ascii=False).encode(), f"runs/{self.run_id}/{name}")


class RunIndex:
    """The runs in a store."""

    def __init__(self, store: ObjectStore) -> None:
        self.store = store

    def list(self) -> list[RunHandle]:
        """Every run, by name, recipe and attempt."""
        found = [match for name in self.store.folders("runs/") if (match := _ID.fullmatch(name))]
        found.sort(key=lambda match: (match["name"], match["digest"], int(match["attempt"])))
        return [RunHandle(self.store, match[0], resumed=True) for match in found]

    def open(self, run_id: str) -> RunHandle:
        """A run that exists; its id, or a name that only one run has. Raises InputError with those that exist."""
        runs = {handle.run_id: handle for handle in self.list()}
        if run_id in runs:
            return runs[run_id]
        # By whole parts of an id: `tiny` is no name of `tiny-staged-...`.
        named = [handle for handle in runs.values() if run_id in {handle.name, handle.run_id.rpartition("-")[0]}]
        if len(named) == 1:
            return named[0]
        have = ", ".join(handle.run_id for handle in named) or ", ".join(runs) or "none"
        raise InputError(f"{self.store.uri}: {'several runs are' if named else 'no run is'} called {run_id}; there are: {have}")

    def resolve(self, name: str, digest: str, fresh: bool = False) -> RunHandle:
        """The run that a command with this name and recipe digest belongs to.

        The newest run of both goes on if it is unfinished. If it is finished, or `fresh`, or there is none, a new attempt
        starts: nothing is written before `RunHandle.begin`.
        """
        prefix = f"{name}-{digest[:8]}-"
        same = [handle for handle in self.list() if re.fullmatch(re.escape(prefix) + r"\d{3,}", handle.run_id)]
        if same and not fresh and not same[-1].finished:
            return same[-1]
        attempt = same[-1].attempt + 1 if same else 1
        return RunHandle(self.store, f"{prefix}{attempt:03d}", resumed=False)
