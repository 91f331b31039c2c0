"""How a sandbox's first process is started: bubblewrap or plain, with which identity, folders and command line.

    bubblewrap  namespaces of its own for users, processes, network, mounts and the rest; no /proc; folders in memory, of bounded size
    landlock    for places that forbid user namespaces: the same process confined by Landlock, seccomp and limits alone

Root first becomes a user id that nobody else has: kernel uid 0 could write to /proc/sys from inside a user namespace.
"""

from __future__ import annotations

import os
import platform
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from enum import StrEnum
from functools import lru_cache
from pathlib import Path
from typing import Any

from magistral_core.sandbox.result import MIB, SandboxError
from magistral_core.sandbox.seccomp import ARCHITECTURES, build

#: Interpreters under a home directory are out of reach after the change of user.
PYTHON = "/usr/bin/python3"
STACK_BYTES = 256 * MIB
#: Processes and threads of one sandbox.
PROCESSES = 128

_SUPERVISOR = Path(__file__).with_name("supervisor.py")
_SYSTEM = ("/usr/bin", "/usr/lib", "/usr/lib32", "/usr/lib64", "/usr/libx32", "/usr/libexec", "/usr/include")
_LINKS = ("/bin", "/lib", "/lib32", "/lib64", "/libx32")
_LIBRARIES = ("/usr/lib", "/usr/lib64", "/lib", "/lib64")
_LOADERS = ("/lib64/ld-linux-x86-64.so.2", "/lib/ld-linux-aarch64.so.1")
#: Debian gives the ids from 60000 to packages on demand and uses few; these are taken one sandbox at a time.
_SLOTS = range(60100, 61000)
_LOADER = "import os,marshal\nn,b={size},b''\nwhile len(b)<n:b+=os.read(0,n-len(b))\nexec(marshal.loads(b),{{'__name__':'__main__'}})"
_WORK_BYTES, _WORK_FILES, _IO_BYTES = 128 * MIB, 512, 1024 * MIB
#: Since then RLIMIT_NPROC counts within a user namespace.
_COUNTS_BY_NAMESPACE = (5, 14)


class BackEnd(StrEnum):
    """How a sandbox isolates."""

    BUBBLEWRAP = "bubblewrap"
    LANDLOCK = "landlock"


@dataclass(slots=True)
class Launched:
    """A sandbox's first process, with what the caller must send it first and knows about it."""

    process: subprocess.Popen[bytes]
    setup: dict[str, Any]
    box: str
    work: str
    cleanup: ExitStack = field(repr=False)


def launch(back_end: BackEnd, handles: Sequence[int] = (), readable: Sequence[str] = ()) -> Launched:
    """Start a supervisor.

    Args:
        back_end: how to isolate.
        handles: descriptors that it inherits under their own numbers, for `Box.run(handles=...)`.
        readable: folders beside the system's that the compiler may read.

    Raises:
        SandboxError: it does not start.
    """
    machine = platform.machine()
    if machine not in ARCHITECTURES or sys.platform != "linux":
        raise SandboxError(f"no sandbox for {sys.platform} on {machine}; only Linux on {', '.join(ARCHITECTURES)}")
    code = system_code(_SUPERVISOR.read_text(encoding="utf-8"), "supervisor")
    cleanup = ExitStack()
    try:
        uid = cleanup.enter_context(_slot()) if os.geteuid() == 0 else None
        if back_end is BackEnd.BUBBLEWRAP:
            box, io, work = "/box", "/io", "/tmp"  # noqa: S108  (folders of the sandbox's own)
            isolate = _bubblewrap(readable)
        else:
            root = cleanup.enter_context(_folders(uid))
            box, io, work = (f"{root}/{name}" for name in ("box", "io", "work"))
            isolate = []
        become = [] if uid is None else [_tool("setpriv"), f"--reuid={uid}", f"--regid={uid}", "--clear-groups", "--"]
        # The main thread's stack can grow as far as the limit that holds when a program starts.
        stack = ["/bin/sh", "-c", f'ulimit -s {STACK_BYTES // 1024} 2>/dev/null; exec "$@"', "sh"]
        python = [PYTHON, "-I", "-S", "-X", "utf8", "-c", _LOADER.format(size=len(code))]
        environment = {"PATH": "/usr/bin:/bin", "LANG": "C.UTF-8", "HOME": work, "TMPDIR": work}
        process = subprocess.Popen(
            [*become, *stack, *isolate, *python],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            cwd="/",
            env=environment,
            pass_fds=handles,
            bufsize=0,
        )
        assert process.stdin is not None
        with suppress(OSError):  # it died: the first request tells why
            process.stdin.write(code)
    except BaseException as error:
        cleanup.close()
        if isinstance(error, OSError):
            raise SandboxError(f"the sandbox does not start: {error}") from error
        raise
    system = [path for path in (*_SYSTEM, "/etc/ld.so.cache", *_LINKS) if os.path.exists(path)]
    libraries = [path for path in (*_LIBRARIES, "/etc/ld.so.cache") if os.path.exists(path)]
    setup = {
        "do": "setup",
        "box": box,
        "io": io,
        "work": work,
        "mounts": back_end is BackEnd.BUBBLEWRAP,
        "writable": back_end is BackEnd.BUBBLEWRAP,
        "io_bytes": _IO_BYTES,
        "work_bytes": _WORK_BYTES,
        "work_files": _WORK_FILES,
        "processes": _process_limit(back_end),
        "environment": environment,
        "filters": _filters(machine),
        "readable": {"run": libraries, "compile": [*system, *readable]},
        "executable": {"run": [path for path in _LOADERS if os.path.exists(path)], "compile": system},
    }
    return Launched(process, setup, box, work, cleanup)


@lru_cache(maxsize=32)
def system_code(source: str, name: str) -> bytes:
    """Python source compiled by the interpreter that will run it, marshalled. Raises SandboxError."""
    command = "import sys,marshal;sys.stdout.buffer.write(marshal.dumps(compile(sys.stdin.buffer.read(),sys.argv[1],'exec')))"
    try:
        done = subprocess.run([PYTHON, "-I", "-S", "-c", command, f"<{name}>"], input=source.encode(), capture_output=True, timeout=60)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise SandboxError(f"{PYTHON} does not run ({error}); apt-get install python3") from error
    if done.returncode:
        raise SandboxError(f"{PYTHON} cannot compile the {name}: {done.stderr.decode(errors='replace')[-300:]}")
    return done.stdout


@lru_cache(maxsize=1)
def _filters(machine: str) -> dict[str, tuple[str, tuple[int, ...]]]:
    built = {profile: build(profile, machine) for profile in ("run", "compile")}
    return {profile: (made.code.hex(), made.own_pid) for profile, made in built.items()}


def _bubblewrap(readable: Sequence[str]) -> list[str]:
    """Bubblewrap's command line. The capabilities are for the supervisor: it mounts folders of bounded size; its children have none."""
    command = [_tool("bwrap"), "--unshare-all", "--as-pid-1", "--die-with-parent", "--new-session", "--hostname", "sandbox"]
    command += ["--uid", "1000", "--gid", "1000", "--cap-add", "CAP_SYS_ADMIN", "--cap-add", "CAP_DAC_OVERRIDE"]
    for path in _SYSTEM:
        if os.path.exists(path):
            command += ["--ro-bind", path, path]
    for path in _LINKS:
        if os.path.islink(path):
            command += ["--symlink", os.path.realpath(path), path]
        elif os.path.isdir(path):
            command += ["--ro-bind", path, path]
    if os.path.exists("/etc/ld.so.cache"):
        command += ["--ro-bind", "/etc/ld.so.cache", "/etc/ld.so.cache"]
    for path in readable:
        command += ["--ro-bind", path, path]
    for name in ("null", "zero", "random", "urandom"):
        command += ["--dev-bind", f"/dev/{name}", f"/dev/{name}"]
    for name in ("stdin", "stdout", "stderr"):
        command += ["--symlink", f"/io/{name}", f"/dev/{name}"]
    command += ["--dir", "/box", "--dir", "/io", "--dir", "/tmp", "--symlink", "/tmp", "/dev/shm"]  # noqa: S108
    return [*command, "--chdir", "/", "--remount-ro", "/", "--"]


def _tool(name: str) -> str:
    path = shutil.which(name)
    if path is None:
        package = {"bwrap": "bubblewrap", "setpriv": "util-linux"}[name]
        raise SandboxError(f"{name} is missing; apt-get install {package}")
    return path


@contextmanager
def _slot() -> Iterator[int]:
    """A user id that no other sandbox of this machine has meanwhile.

    The claim is an abstract socket's name: it is atomic, holds across processes, and ends with this process however that ends.
    """
    for uid in _SLOTS:
        claim = socket.socket(socket.AF_UNIX)
        try:
            claim.bind(f"\0magistral-sandbox-{uid}")
        except OSError:
            claim.close()
            continue
        with claim:
            yield uid
        return
    raise SandboxError(f"all {len(_SLOTS)} user ids for sandboxes are taken")


@contextmanager
def _folders(uid: int | None) -> Iterator[str]:
    """Folders on disk for a sandbox without mounts of its own; nobody else may look into them."""
    with tempfile.TemporaryDirectory(prefix="magistral-sandbox-", ignore_cleanup_errors=True) as root:
        for name in ("box", "io", "work"):
            Path(root, name).mkdir(mode=0o700)
        for path in (root, *(f"{root}/{name}" for name in ("box", "io", "work"))):
            if uid is not None:
                os.chown(path, uid, uid)
        yield root


def _process_limit(back_end: BackEnd) -> int:
    """RLIMIT_NPROC. Where it counts all processes of the user instead of the sandbox's, those that are there already are added."""
    release = tuple(int(part) for part in platform.release().split(".")[:2] if part.isdigit())
    if os.geteuid() == 0 or (back_end is BackEnd.BUBBLEWRAP and release >= _COUNTS_BY_NAMESPACE):
        return PROCESSES
    return PROCESSES + sum(_threads(entry) for entry in Path("/proc").iterdir() if entry.name.isdigit())


def _threads(entry: Path) -> int:
    try:
        return len(os.listdir(entry / "task")) if entry.stat().st_uid == os.geteuid() else 0
    except OSError:
        return 0  # it ended meanwhile
