"""A Ray cluster whose nodes have processes of their own, on this machine: it trains, and loses a node without losing data."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from marked_processes import describe, program
from ray.cluster_utils import Cluster
from test_ray_run import logged_steps, whole

_STORE = 128 * 2**20


@pytest.fixture
def cluster() -> Iterator[Cluster]:
    """A head and two more nodes: roles are spread at random, and one of the two will have its share."""
    made = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "object_store_memory": _STORE, "include_dashboard": False})
    try:
        for _ in range(2):
            made.add_node(num_cpus=1, object_store_memory=_STORE)
        yield made
    finally:
        made.shutdown()


def roles_on(node: object) -> list[str]:
    """The run's generators and trainer ranks on a node."""
    [raylet] = node.all_processes["raylet"]  # type: ignore[attr-defined]
    names = [describe(process) for process in psutil.Process(raylet.process.pid).children(recursive=True)]
    return [role for role in ("GeneratorActor", "TrainerActor") for name in names if f"ray::{role}" in name]


@pytest.mark.faults
def test_a_cluster_trains_and_loses_a_node_without_losing_data(cluster: Cluster, writer_model: Path, tmp_path: Path) -> None:
    weights = tmp_path / "weights"
    weights.mkdir()
    changes = {"pipeline.ray_address": cluster.address, "pipeline.weights_folder": str(weights), "training.max_steps": 60}
    with program(whole(writer_model, tmp_path, **changes), tmp_path / "log") as run:
        events = run.until("checkpoint")
        assert list(weights.iterdir()), "weights go through the folder"
        node = max(cluster.worker_nodes, key=lambda node: len(roles_on(node)))
        lost = roles_on(node)
        assert lost, "all roles are on the head"
        cluster.remove_node(node, allow_graceful=False)
        events += run.until("end")
        assert run.end() == 0
        assert [describe(process) for process in run.family()] == []
    restarted = {event["role"].split()[0] for event in events if event["event"] == "restart"}
    # Where trainers went with generators, both are replaced together.
    assert restarted & ({"trainers"} if "TrainerActor" in lost else {"generator"}), lost
    end = events[-1]
    ledger = end["ledger"]
    assert ledger["submitted"] == ledger["trained"] + ledger["filtered"] + ledger["failed"] + ledger["in_flight"]
    assert ledger["trained"] == 60 * 8
    assert logged_steps(tmp_path / "mlflow.db", end["mlflow_run_id"]) == list(range(1, 61))
    assert list(weights.iterdir()) == []
