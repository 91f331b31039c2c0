"""Which problems the next stage of a curriculum takes, as the core decides from the run's last checkpoint."""

from __future__ import annotations

import json
import uuid
from typing import Any

import yaml
from prefect import get_run_logger, task
from prefect.client.orchestration import get_client

from tasks.artifacts import publish_stages
from tasks.child import run_command, showing, work_folder
from tasks.training import broken_not_wrong


@task(name="select data", retries=1, retry_delay_seconds=5, retry_condition_fn=broken_not_wrong)
def select_data(recipe: dict[str, Any], flow_run_id: str, fresh: bool = False) -> list[dict[str, Any]]:
    """The stages' rows as an artifact; the flow run is named after the stage that comes next.

    Args:
        recipe: all settings.
        flow_run_id: of the stage's flow run; also names the folder of logs.
        fresh: pass over an unfinished run of the recipe.
    """
    folder, name = work_folder(flow_run_id), f"stages-{uuid.uuid4().hex[:6]}"
    settings, output = folder / f"{name}.yaml", folder / f"{name}.json"
    settings.write_text(yaml.safe_dump(recipe, sort_keys=False))
    arguments = ["run", str(settings), "--stages", "--json"]
    run_command([*arguments, "--fresh"] if fresh else arguments, folder / f"{name}.log", output)
    rows: list[dict[str, Any]] = json.loads(output.read_text())["stages"]
    with showing(get_run_logger()):
        publish_stages(rows)
    now = next((row for row in rows if row["state"] == "now"), rows[-1])
    get_run_logger().info(
        "stage %d of %d: %d problems active of %d, %d retired, %d deferred, %d waiting",
        *(now["stage"], len(rows), now["active"], now["problems"], now["retired"], now["deferred"], now["waiting"]),
    )
    with showing(get_run_logger()), get_client(sync_client=True) as client:
        client.update_flow_run(uuid.UUID(flow_run_id), name=f"stage {now['stage']} of {len(rows)}")
    return rows
