"""A Ray cluster of two nodes, each with processes of its own, on this machine: it trains, and loses a node without losing data."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from marked_processes import describe, program
from ray.cluster_utils import Cluster
from test_ray_run import logged_steps, whole

_STORE = 128 * 2**20


@pytest.fixture
def cluster() -> Iterator[Cluster]:
    made = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "object_store_memory": _STORE, "include_dashboard": False})
    try:
        yield made
    finally:
        made.shutdown()


@pytest.mark.faults
def test_a_cluster_trains_and_loses_a_node_without_losing_data(cluster: Cluster, writer_model: Path, tmp_path: Path) -> None:
    node = cluster.add_node(num_cpus=1, object_store_memory=_STORE)
    weights = tmp_path / "weights"
    weights.mkdir()
    changes = {"pipeline.ray_address": cluster.address, "pipeline.weights_folder": str(weights)}
    with program(whole(writer_model, tmp_path, **changes), tmp_path / "log") as run:
        events = run.until("checkpoint")
        assert list(weights.iterdir()), "weights go through the folder"
        cluster.remove_node(node, allow_graceful=False)
        events += run.until("end")
        assert run.end() == 0
        assert [describe(process) for process in run.family()] == []
    assert [event["role"] for event in events if event["event"] == "restart"], "nothing of the run was on the lost node"
    end = events[-1]
    ledger = end["ledger"]
    assert ledger["submitted"] == ledger["trained"] + ledger["filtered"] + ledger["failed"] + ledger["in_flight"]
    assert ledger["trained"] == 14 * 8
    assert logged_steps(tmp_path / "mlflow.db", end["mlflow_run_id"]) == list(range(1, 15))
    assert list(weights.iterdir()) == []
