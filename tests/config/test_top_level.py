"""The small modules at the top: errors, paths, processes, and the front door's way from a recipe to a model's folder."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from magistral_core import api
from magistral_core.config import load_recipe
from magistral_core.errors import InfrastructureError, InputError, MagistralError
from magistral_core.paths import cache_folder
from magistral_core.processes import free_port

_ROOT = Path(__file__).parents[2]
_SLEEPER = "import sys, time; from magistral_core.processes import die_with_parent; {call}; print('alive', flush=True); time.sleep(60)"


def sleeper(call: str) -> list[str]:
    return [sys.executable, "-c", _SLEEPER.format(call=call)]


def test_exit_codes() -> None:
    assert [error.exit_code for error in (MagistralError, InputError, InfrastructureError)] == [1, 2, 3]


def test_cache_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("MAGISTRAL_CACHE", str(tmp_path))
    assert cache_folder() == tmp_path
    monkeypatch.setenv("MAGISTRAL_CACHE", "")
    monkeypatch.setenv("HOME", "/home/someone")
    assert cache_folder() == Path("/home/someone/.cache/magistral")


def test_a_free_port_can_be_had() -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", free_port()))
        listener.listen()


def test_a_child_ends_with_its_killed_parent() -> None:
    child_command = sleeper("die_with_parent()")
    code = f"import subprocess; child = subprocess.Popen({child_command!r}); print(child.pid, flush=True); child.wait()"
    parent = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, cwd=_ROOT)
    assert parent.stdout is not None
    child = psutil.Process(int(parent.stdout.readline()))
    try:
        assert parent.stdout.readline() == "alive\n"
        parent.kill()
        parent.wait()
        assert psutil.wait_procs([child], timeout=60)[1] == []
    finally:
        if child.is_running():
            child.kill()


def test_a_child_whose_parent_is_gone_already_ends_at_once() -> None:
    gone = subprocess.run([sys.executable, "-c", "import os; print(os.getpid())"], capture_output=True, text=True, check=True).stdout
    late = subprocess.run(sleeper(f"die_with_parent(parent={int(gone)})"), cwd=_ROOT, capture_output=True, text=True, timeout=120)
    assert (late.returncode, late.stdout) == (-signal.SIGKILL, "")


def test_a_child_of_the_named_parent_lives() -> None:
    child = subprocess.Popen(sleeper(f"die_with_parent(parent={os.getpid()})"), stdout=subprocess.PIPE, text=True, cwd=_ROOT)
    try:
        assert child.stdout is not None
        assert child.stdout.readline() == "alive\n"
        time.sleep(0.1)
        assert child.poll() is None
    finally:
        child.kill()
        child.wait()


def test_a_model_folder_is_taken_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    assert api.model_folder(load_recipe("tiny", [f"model.path={tmp_path}"])) == tmp_path


def test_a_folder_that_is_no_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=rf"^model\.path {tmp_path}: no config\.json there"):
        api.model_folder(load_recipe("tiny", [f"model.path={tmp_path}"]))


def test_an_adapter_alone_is_named_as_such(tmp_path: Path) -> None:
    (tmp_path / "adapter_config.json").write_text("{}")
    with pytest.raises(InputError, match=rf"^model\.path {tmp_path}: an adapter \(LoRA\) alone; merge it"):
        api.model_folder(load_recipe("tiny", [f"model.path={tmp_path}"]))


def test_of_a_gated_model_the_licence_is_named_and_what_the_hub_said(monkeypatch: pytest.MonkeyPatch) -> None:
    import httpx
    import huggingface_hub
    from huggingface_hub.errors import GatedRepoError

    def refuse(*_: object, **__: object) -> str:
        answer = httpx.Response(403, request=httpx.Request("GET", "https://hub.example"))
        raise GatedRepoError("Access to model x/y is restricted.", response=answer)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", refuse)
    with pytest.raises(InputError, match=r"accept its licence on the hub, and set HF_TOKEN \(.*Access to model x/y is restricted\.\)$"):
        api.model_folder(load_recipe("tiny", ["model.path=x/y"]))


@pytest.mark.parametrize("name", ["no/such/folder", "not a name"])
def test_a_name_that_the_hub_cannot_know_is_refused(name: str) -> None:
    with pytest.raises(InputError, match=rf"^model\.path {name}: neither a folder here nor a model that the hub gives out") as caught:
        api.model_folder(load_recipe("tiny", [f"model.path={name}"]))
    assert "\n" not in str(caught.value)


def test_problems_are_read_and_checked(tmp_path: Path) -> None:
    path = tmp_path / "problems.jsonl"
    path.write_text('{"question": "1 + 1?", "answer": "2"}\n')
    assert [problem.answer for problem in api.problems(load_recipe("tiny", [f"problems.path={path}"]))] == ["2"]
    path.write_text('{"question": "1 + 1?", "answer": "2"}\nnot JSON\n')
    with pytest.raises(InputError, match=rf"{path}:2"):
        api.problems(load_recipe("tiny", [f"problems.path={path}"]))
