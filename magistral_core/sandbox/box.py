"""A sandbox for one solution, as its caller sees it: put files in, run programs one after the other, take results out."""

from __future__ import annotations

import ast
import marshal
import os
import select
import struct
import time
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Any, Literal, Self

from magistral_core.sandbox.launch import STACK_BYTES, BackEnd, launch
from magistral_core.sandbox.result import MIB, Limits, RunResult, RunStatus, SandboxError
from magistral_core.sandbox.watch import Watch

_HEADER = struct.Struct("<II")
#: Four threads with stacks of 256 MB and memory arenas of their own; untouched stacks are address space, not memory.
_ADDRESS_SLACK = 4 * (STACK_BYTES + 64 * MIB) + 128 * MIB
#: Beyond a run's own limits, until the supervisor must have answered.
_GRACE_S = 60.0
_TICK_S = 0.05
#: A reply is never larger: standard output and error at their limits, or a program.
_LARGEST_REPLY = 1024 * MIB
_LARGEST_HEAD = 64 * 1024
#: The supervisor stops a run after so many times its fair wall time; then the machine was too slow to judge anything.
_STARVED = 10


class Box:
    """One sandbox. Not thread-safe; use as a context manager, in the thread that made it: the sandbox ends with that thread."""

    def __init__(self, back_end: BackEnd, handles: Sequence[int] = (), readable: Sequence[str] = (), preload: Sequence[str] = ()) -> None:
        """Start it. See `launch` for the arguments; `preload` are modules that its Python programs all import. Raises SandboxError."""
        self._back_end = back_end
        self._launched = launch(back_end, handles, readable)
        self._process = self._launched.process
        self._watch = Watch(self._process.pid, 2 if back_end is BackEnd.BUBBLEWRAP else 1)
        try:
            reply, _ = self._ask(self._launched.setup | {"preload": list(preload)}, b"", _GRACE_S)
        except BaseException:
            self.close()
            raise
        self.landlock = int(reply["landlock"])
        if back_end is BackEnd.LANDLOCK and not self.landlock:
            self.close()
            raise SandboxError("the kernel has no Landlock (Linux 5.13 or later, enabled at boot)")

    @property
    def folder(self) -> str:
        """The folder of put files, by its name inside."""
        return self._launched.box

    @property
    def work(self) -> str:
        """The folder that a program may write to, by its name inside; empty before each run."""
        return self._launched.work

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """End everything inside, at once. May be called again."""
        if self._process.returncode is not None:
            return
        for stream in (self._process.stdin, self._process.stdout, self._process.stderr):
            if stream is not None:
                stream.close()
        programs = self._watch.programs() if self._back_end is BackEnd.LANDLOCK else []
        self._process.kill()
        self._watch.kill(programs)
        self._process.wait()
        self._launched.cleanup.close()

    def put(self, name: str, content: bytes, executable: bool = False) -> None:
        """Put a read-only file into the box."""
        self._ask({"do": "put", "name": name, "mode": 0o555 if executable else 0o444}, content, _GRACE_S)

    def get(self, name: str) -> bytes:
        """A file of the box."""
        return self._ask({"do": "get", "name": name}, b"", _GRACE_S)[1]

    def run(
        self,
        limits: Limits,
        *,
        argv: Sequence[str] = (),
        program: str = "",
        source: str = "solution.py",
        arguments: Sequence[str] = (),
        stdin: bytes = b"",
        profile: Literal["run", "compile"] = "run",
        keep: Mapping[str, int] | None = None,
        folders: Sequence[str] = (),
        writable: bool = False,
        handles: Sequence[int] = (),
    ) -> RunResult:
        """Run one program confined, and wait for it.

        Args:
            limits: what it may use.
            argv: a command line inside, for programs that are executed; or
            program: a compiled Python program of the box, which is run in a fork of an interpreter.
            source, arguments: for Python programs: the file that `sys.argv[0]` names, and the other arguments.
            stdin: its standard input.
            profile: which system calls it may make.
            keep: files of the work folder to move to the box if it ends well, with their modes.
            folders: folders to make in the work folder first.
            writable: let it write to the work folder also where that is a folder on disk.
            handles: descriptors that become its 3, 4, ...

        Raises:
            SandboxError: it was not run, or its end is not known.
        """
        hard = _STARVED * limits.wall_s if self._watch.works else limits.wall_s
        request = {
            "do": "run",
            "profile": profile,
            "argv": list(argv),
            "program": program,
            "source": source,
            "arguments": list(arguments),
            "cpu_s": limits.cpu_s,
            "wall_s": hard,
            "address_bytes": limits.memory_bytes + _ADDRESS_SLACK,
            "stack_bytes": STACK_BYTES,
            "output_bytes": limits.output_bytes,
            "file_bytes": limits.output_bytes + 1,
            "keep": dict(keep or {}),
            "folders": list(folders),
            "writable": writable or profile == "compile",
            "handles": list(handles),
        }
        stopped: list[RunStatus] = []
        self._watch.start()
        reply, payload = self._ask(request, stdin, hard + _GRACE_S, limits, stopped)
        if "fault" in reply:
            raise SandboxError(f"the sandbox could not confine a program: {reply['fault']}")
        return _result(reply, payload, limits, stopped[0] if stopped else None, fair=not self._watch.works)

    def _ask(
        self,
        request: Mapping[str, Any],
        payload: bytes,
        timeout_s: float,
        limits: Limits | None = None,
        stopped: list[RunStatus] | None = None,
    ) -> tuple[dict[str, Any], bytes]:
        """One request and its reply. With `limits`, what runs meanwhile is watched; `stopped` gets the reason if it had to be ended."""
        text = marshal.dumps(dict(request))
        stdin, stdout = self._process.stdin, self._process.stdout
        assert stdin is not None
        assert stdout is not None
        deadline = time.monotonic() + timeout_s
        try:
            view = memoryview(_HEADER.pack(len(text), len(payload)) + text + payload)
            while view:
                view = view[stdin.write(view) :]
            header = self._read(_HEADER.size, deadline, limits, stopped)
            sizes = _HEADER.unpack(header)
            if sizes[0] > _LARGEST_HEAD or sizes[1] > _LARGEST_REPLY:
                raise SandboxError(f"the sandbox's reply claims {max(sizes)} bytes")
            reply = ast.literal_eval(self._read(sizes[0], deadline).decode())
            return reply, self._read(sizes[1], deadline)
        except (OSError, ValueError, SyntaxError) as error:
            raise SandboxError(f"the sandbox's reply cannot be read ({type(error).__name__}: {error})") from error

    def _read(self, count: int, deadline: float, limits: Limits | None = None, stopped: list[RunStatus] | None = None) -> bytes:
        assert self._process.stdout is not None
        handle, parts, started = self._process.stdout.fileno(), [], time.monotonic()
        while count:
            left = deadline - time.monotonic()
            if left <= 0:
                raise SandboxError("the sandbox does not answer")
            if not select.select([handle], [], [], min(left, _TICK_S) if limits else left)[0]:
                if limits is not None and stopped is not None and not stopped:
                    self._look(limits, time.monotonic() - started, stopped)
                continue
            part = os.read(handle, min(count, MIB))
            if not part:
                raise SandboxError(f"the sandbox ended: {self._last_words()}")
            parts.append(part)
            count -= len(part)
        return b"".join(parts)

    def _look(self, limits: Limits, elapsed_s: float, stopped: list[RunStatus]) -> None:
        programs = self._watch.programs()
        if not programs:
            return
        if self._watch.resident_bytes(programs) > limits.memory_bytes:
            stopped.append(RunStatus.MEMORY)
        elif elapsed_s - self._watch.waited_s(programs) > limits.wall_s:
            stopped.append(RunStatus.TIMEOUT)
        if stopped:
            self._watch.kill(programs)

    def _last_words(self) -> str:
        assert self._process.stderr is not None
        handle = self._process.stderr.fileno()
        words = os.read(handle, 65536) if select.select([handle], [], [], 1.0)[0] else b""
        lines = words.decode(errors="replace").strip().splitlines()
        return lines[-1][:300] if lines else f"exit code {self._process.poll()}"


def _result(reply: Mapping[str, Any], payload: bytes, limits: Limits, stopped: RunStatus | None, fair: bool) -> RunResult:
    """Judge how a run ended. What a program says about its own end (a MemoryError) can only make it fail, which it could anyway."""
    code, cpu, peak = int(reply["exit_code"]), float(reply["cpu_s"]), int(reply["peak_bytes"])
    out, err = payload[: reply["out"]], payload[reply["out"] :]
    status, detail = RunStatus.OK, ""
    if stopped is RunStatus.MEMORY or peak > limits.memory_bytes:
        status, detail = RunStatus.MEMORY, f"more than {limits.memory_bytes // MIB} MiB"
    elif reply["stopped"] == "cpu":
        status, detail = RunStatus.TIMEOUT, f"more than {limits.cpu_s:g} s of CPU time"
    elif stopped is RunStatus.TIMEOUT or (reply["stopped"] == "wall" and fair):
        status, detail = RunStatus.TIMEOUT, f"more than {limits.wall_s:g} s, most of them idle"
    elif reply["stopped"] == "wall":
        raise SandboxError(f"the machine is overloaded: {cpu:.1f} s of CPU time in {reply['wall_s']:.0f} s")
    elif reply["stopped"] == "output" or code == -25:  # SIGXFSZ
        status, detail = RunStatus.OUTPUT_LIMIT, f"more than {limits.output_bytes} bytes of output, or in a file"
    elif code != 0:
        memory = b"MemoryError" in err[-2000:] or b"bad_alloc" in err[-2000:]
        status = RunStatus.MEMORY if memory else RunStatus.RUNTIME_ERROR
        detail = "no more memory" if memory else ""
    return RunResult(status, code, out, err, cpu, float(reply["wall_s"]), peak, detail)
