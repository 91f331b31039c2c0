"""The trusted process inside a sandbox: it keeps one solution and runs it in one confined child after the other.

It is run by the system's Python from its code alone, so it imports nothing of ours and nothing outside the standard library.

    caller --request--> supervisor --fork--> child: limits, no capabilities, Landlock, seccomp, then the program
           <--reply----            <--wait--

A request and a reply are frames: two 32-bit lengths, a dictionary (marshalled in, as Python source out, because the caller does not trust
it), then bytes. Requests, by `do`:

    setup  folders, filters and paths of this sandbox; must come first
    put    bytes -> a read-only file of the box
    run    bytes -> standard input of a child; the reply tells how it ended and carries what it wrote
    get    a file of the box -> bytes

It never sees an expected output, so that neither a leak nor a break-in can tell one. What a child wrote to its folder is gone before the
next one starts. A child that could not be confined does not run: the reply has a `fault`, which is no verdict.
"""

from __future__ import annotations

import _sitebuiltins
import atexit
import bisect  # noqa: F401  (these are here for the children, which are forked with them loaded)
import builtins
import collections  # noqa: F401
import contextlib
import ctypes
import functools  # noqa: F401
import gc
import heapq  # noqa: F401
import io
import itertools  # noqa: F401
import marshal
import math
import os
import random  # noqa: F401
import re  # noqa: F401
import resource
import select
import signal
import struct
import sys
import time
import types

TYPE_CHECKING = False
if TYPE_CHECKING:  # importing typing costs more than a test
    from typing import Any, NoReturn

_HEADER = struct.Struct("<II")
_LIBC = ctypes.CDLL(None, use_errno=True)
_LIBC.syscall.restype = ctypes.c_long

_MS_NOSUID, _MS_NODEV, _MNT_DETACH = 2, 4, 2
_PR_SET_PDEATHSIG, _PR_SET_DUMPABLE, _PR_CAPBSET_DROP, _PR_SET_NO_NEW_PRIVS = 1, 4, 24, 38
_PR_SET_SECCOMP, _PR_CAP_AMBIENT, _SECCOMP_MODE_FILTER, _CAP_AMBIENT_CLEAR_ALL = 22, 47, 2, 4
_PR_SET_CHILD_SUBREAPER = 36
_CAPABILITY_VERSION_3 = 0x20080522

# Landlock (include/uapi/linux/landlock.h); its system calls have the same numbers everywhere.
_CREATE_RULESET, _ADD_RULE, _RESTRICT_SELF = 444, 445, 446
_EXECUTE, _WRITE_FILE, _READ_FILE, _READ_DIR = 1, 2, 4, 8
_REMOVE_DIR, _REMOVE_FILE, _MAKE_DIR, _MAKE_REG, _REFER, _TRUNCATE = 1 << 4, 1 << 5, 1 << 7, 1 << 8, 1 << 13, 1 << 14
_ON_FILES = _EXECUTE | _WRITE_FILE | _READ_FILE | _TRUNCATE
_READ = _READ_FILE | _READ_DIR
_CHANGE = _READ | _WRITE_FILE | _REMOVE_DIR | _REMOVE_FILE | _MAKE_DIR | _MAKE_REG | _REFER | _TRUNCATE
#: File rights that each version of Landlock knows; from 4 on it also knows TCP ports, from 6 on signals and abstract sockets.
_FS_RIGHTS = {1: (1 << 13) - 1, 2: (1 << 14) - 1, 3: (1 << 15) - 1, 4: (1 << 15) - 1}
_FS_RIGHTS_NOW = (1 << 16) - 1

_STDERR_KEPT = 64 * 1024
_LONGEST_POLL_S = 0.25


class Supervisor:
    """Answers requests until its input closes."""

    def __init__(self) -> None:
        self._setup: dict[str, Any] = {}
        self._cores = os.cpu_count() or 1
        self._rulesets: dict[tuple[str, bool], int] = {}
        self._hard = {what: resource.getrlimit(what)[1] for what in range(16)}  # RLIM_NLIMITS

    def serve(self) -> None:
        while (frame := _read_frame()) is not None:
            request, payload = frame
            reply, answer = getattr(self, "do_" + request["do"])(request, payload)
            _write_frame(reply, answer)

    def do_setup(self, request: dict[str, Any], _payload: bytes) -> tuple[dict[str, Any], bytes]:
        self._setup = request
        self._box, self._io, self._work = (request[name] for name in ("box", "io", "work"))
        for name in request["preload"]:
            __import__(name)
        _call(_LIBC.prctl, _PR_SET_DUMPABLE, 0, 0, 0, 0)
        if request["mounts"]:
            # Files and folders belong to the children's uid too, so what keeps these is the mode, and that nothing inside may change modes.
            _mount(self._box, "size=256m,nr_inodes=256,mode=555")
            _mount(self._io, f"size={request['io_bytes']},nr_inodes=16,mode=555")
            _mount(self._work, self._work_options())
        else:
            # In a process-id namespace everything ends with its first process, and orphans come to it.
            _call(_LIBC.prctl, _PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
            _call(_LIBC.prctl, _PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC
        self._streams = [
            os.open(f"{self._io}/{name}", flags, mode) for name, mode in (("stdin", 0o444), ("stdout", 0o600), ("stderr", 0o600))
        ]
        self._landlock = _LIBC.syscall(_CREATE_RULESET, None, 0, 1)
        gc.collect()
        gc.freeze()
        return {"pid": os.getpid(), "landlock": max(self._landlock, 0), "python": sys.version.split()[0]}, b""

    def do_put(self, request: dict[str, Any], payload: bytes) -> tuple[dict[str, Any], bytes]:
        self._store(request["name"], payload, request.get("mode", 0o444))
        return {}, b""

    def do_get(self, request: dict[str, Any], _payload: bytes) -> tuple[dict[str, Any], bytes]:
        with open(f"{self._box}/{request['name']}", "rb") as file:
            return {}, file.read()

    def do_run(self, request: dict[str, Any], payload: bytes) -> tuple[dict[str, Any], bytes]:
        stdin, stdout, stderr = self._streams
        for stream in self._streams:
            os.ftruncate(stream, 0)
        os.lseek(stdin, 0, os.SEEK_SET)
        _write_all(stdin, payload)
        writable = self._setup["writable"] or request["writable"]
        ruleset = self._ruleset(request["profile"], writable) if self._landlock > 0 else None
        started = time.monotonic()
        report, report_end = os.pipe()
        parent = os.getpid()
        pid = os.fork()
        if pid == 0:
            self._be_child(request, writable, report_end, ruleset, parent)
        for handle in (report_end, *request.get("handles", [])):
            os.close(handle)  # so that the child's end is the other side's end of file
        fault = b"".join(iter(lambda: os.read(report, 4096), b"")).decode(errors="replace")  # ends when the child is confined
        os.close(report)
        status, usage, stopped = self._wait(pid, request["cpu_s"], request["wall_s"])
        wall = time.monotonic() - started
        self._end_all(pid)
        kept = self._keep(request.get("keep", {})) if status == 0 and not stopped else []
        self._clear_work()
        if fault:
            return {"fault": fault}, b""
        cap = request["output_bytes"]
        sizes = os.fstat(stdout).st_size, os.fstat(stderr).st_size
        out = os.pread(stdout, min(sizes[0], cap), 0)
        err = os.pread(stderr, _STDERR_KEPT, max(0, sizes[1] - _STDERR_KEPT))
        return {
            "exit_code": os.waitstatus_to_exitcode(status),  # minus the signal's number, if one ended it
            "stopped": stopped or ("output" if max(sizes) > cap else ""),
            "cpu_s": usage.ru_utime + usage.ru_stime,
            "wall_s": wall,
            "peak_bytes": usage.ru_maxrss * 1024,
            "out": len(out),
            "kept": kept,
        }, out + err

    def _store(self, name: str, content: bytes, mode: int) -> None:
        self._forget_rulesets()
        path = f"{self._box}/{name}"
        if os.path.exists(path):
            os.unlink(path)
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        try:
            _write_all(handle, content)
            os.fchmod(handle, mode)
        finally:
            os.close(handle)

    def _keep(self, names: dict[str, int]) -> list[str]:
        """Move files that a child made from its folder to the box, where no later child can change them."""
        kept = []
        for name, mode in names.items():
            try:
                handle = os.open(f"{self._work}/{name}", os.O_RDONLY | os.O_NOFOLLOW)
            except OSError:
                continue
            with open(handle, "rb") as file:
                self._store(name, file.read(), mode)
            kept.append(name)
        return kept

    def _wait(self, pid: int, cpu_s: float, wall_s: float) -> tuple[int, Any, str]:
        """Wait for the child, stop it at a limit; its wait status, its use of resources, and which limit stopped it."""
        clock = (~pid << 3) | 2  # the CPU clock of a process, as clock_getcpuclockid makes it
        poller, handle, stopped = select.poll(), os.pidfd_open(pid), ""
        poller.register(handle, select.POLLIN)
        started = time.monotonic()
        while not stopped:
            try:
                cpu_left = cpu_s - time.clock_gettime(clock)
            except OSError:
                break  # it has ended
            wall_left = wall_s - (time.monotonic() - started)
            if cpu_left < 0 or wall_left < 0:
                stopped = "cpu" if cpu_left < 0 else "wall"
                os.kill(pid, signal.SIGKILL)
            elif poller.poll(1000 * min(wall_left, cpu_left / self._cores + 0.005, _LONGEST_POLL_S)):
                break
        os.close(handle)
        _, status, usage = os.wait4(pid, 0)
        used = usage.ru_utime + usage.ru_stime
        if not stopped and (used > cpu_s or (os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGXCPU)):
            stopped = "cpu"
        return status, usage, stopped

    def _end_all(self, pid: int) -> None:
        """End whatever the child left. Only the compiler can have left anything."""
        try:
            if self._setup["mounts"]:
                os.kill(-1, signal.SIGKILL)  # all of this namespace but its first process, which is this one
            else:
                os.killpg(pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
        while True:
            try:
                os.waitpid(-1, 0)
            except ChildProcessError:
                return

    def _clear_work(self) -> None:
        if not os.listdir(self._work):
            return
        if self._setup["mounts"]:
            self._forget_rulesets()
            _call(_LIBC.umount2, self._work.encode(), _MNT_DETACH)
            _mount(self._work, self._work_options())
            return
        for folder, folders, files in os.walk(self._work, topdown=False):
            for name in files:
                os.unlink(f"{folder}/{name}")
            for name in folders:
                os.rmdir(f"{folder}/{name}")

    def _work_options(self) -> str:
        return f"size={self._setup['work_bytes']},nr_inodes={self._setup['work_files']},mode=755"

    def _be_child(self, request: dict[str, Any], writable: bool, report: int, ruleset: int | None, parent: int) -> NoReturn:
        """In the child: confine itself, then become the program. Never returns; what goes wrong before is reported."""
        code = 70
        try:
            os.setsid()
            handles = [os.open(f"{self._io}/stdin", os.O_RDONLY)]
            handles += [os.open(f"{self._io}/{name}", os.O_WRONLY | os.O_APPEND) for name in ("stdout", "stderr")]
            report, ruleset = _place_handles([*handles, *request.get("handles", [])], report, ruleset)
            for name in request.get("folders", []):
                os.mkdir(f"{self._work}/{name}")
            os.chdir(self._work if writable else self._box)
            program, argv = request.get("program"), request.get("argv")
            self._limit(request)
            _drop_capabilities()
            if os.getppid() != parent:  # it died before its death was a signal here
                raise ChildProcessError("the supervisor died")
            if ruleset is not None:
                _call(_LIBC.syscall, _RESTRICT_SELF, ruleset, 0)
                os.close(ruleset)
            _filter_calls(self._setup["filters"][request["profile"]])
            if argv:
                os.execve(argv[0], argv, self._setup["environment"])
            os.close(report)
            code = _run_python(f"{self._box}/{program}", [f"{self._box}/{request['source']}", *request.get("arguments", [])])
        except BaseException as error:
            try:
                os.write(report, f"{type(error).__name__}: {error}".encode()[:4000])
            except OSError:
                code = 71
        finally:
            os._exit(code)

    def _limit(self, request: dict[str, Any]) -> None:
        """Resource limits, hard ones too: nobody inside can raise them."""
        limits = {
            resource.RLIMIT_CPU: math.ceil(request["cpu_s"]) + 1,
            resource.RLIMIT_AS: request["address_bytes"],
            resource.RLIMIT_STACK: request["stack_bytes"],
            resource.RLIMIT_FSIZE: request["file_bytes"],
            resource.RLIMIT_NPROC: self._setup["processes"],
            resource.RLIMIT_NOFILE: 128,
            resource.RLIMIT_CORE: 0,
            resource.RLIMIT_MEMLOCK: 0,
            resource.RLIMIT_MSGQUEUE: 0,
            resource.RLIMIT_SIGPENDING: 256,
            resource.RLIMIT_NICE: 0,
            resource.RLIMIT_RTPRIO: 0,
        }
        for what, wanted in limits.items():
            hard = self._hard[what]
            limit = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
            resource.setrlimit(what, (limit, limit))

    def _forget_rulesets(self) -> None:
        """What they name is about to be replaced."""
        for ruleset in self._rulesets.values():
            os.close(ruleset)
        self._rulesets.clear()

    def _ruleset(self, profile: str, writable: bool) -> int:
        """Landlock: what a profile may read, execute and change; everything else is refused, whatever its mode."""
        if (profile, writable) not in self._rulesets:
            self._rulesets[profile, writable] = self._make_ruleset(profile, writable)
        return self._rulesets[profile, writable]

    def _make_ruleset(self, profile: str, writable: bool) -> int:
        version = self._landlock
        attributes = struct.pack("<QQQ", _FS_RIGHTS.get(version, _FS_RIGHTS_NOW), 3 if version >= 4 else 0, 3 if version >= 6 else 0)[
            : 8 if version < 4 else 16 if version < 6 else 24
        ]
        ruleset = _call(_LIBC.syscall, _CREATE_RULESET, attributes, len(attributes), 0)
        known = _FS_RIGHTS.get(version, _FS_RIGHTS_NOW)
        rules = [*((path, _READ) for path in self._setup["readable"][profile]), (self._box, _READ)]
        rules += [(path, _READ | _EXECUTE) for path in self._setup["executable"][profile]]
        rules += [(f"{self._io}/stdin", _READ_FILE), (f"{self._io}/stdout", _WRITE_FILE), (f"{self._io}/stderr", _WRITE_FILE)]
        rules += [("/dev/null", _READ_FILE | _WRITE_FILE), *((f"/dev/{name}", _READ_FILE) for name in ("zero", "random", "urandom"))]
        if writable:
            rules.append((self._work, _CHANGE))
        if os.path.exists(program := f"{self._box}/program"):
            rules.append((program, _READ_FILE | _EXECUTE))
        for path, rights in rules:
            try:
                handle = os.open(path, os.O_PATH | os.O_CLOEXEC)
            except FileNotFoundError:
                continue
            rights &= known if os.path.isdir(path) else known & _ON_FILES
            _call(_LIBC.syscall, _ADD_RULE, ruleset, 1, struct.pack("<Qi", rights, handle), 0)
            os.close(handle)
        return ruleset


def _place_handles(handles: list[int], report: int, ruleset: int | None) -> tuple[int, int | None]:
    """Make `handles` descriptors 0, 1, 2, ... and close everything else but the last two, whose new numbers are returned."""
    count = len(handles)
    high = [os.dup2(handle, 200 + number, inheritable=True) for number, handle in enumerate(handles)]
    os.dup2(report, 200 + count, inheritable=False)
    if ruleset is not None:
        os.dup2(ruleset, 201 + count, inheritable=False)
    for number, handle in enumerate(high):
        os.dup2(handle, number, inheritable=True)
    os.dup2(200 + count, count, inheritable=False)
    if ruleset is not None:
        ruleset = os.dup2(201 + count, count + 1, inheritable=False)
    os.closerange(count + 1 + (ruleset is not None), 1024)
    return count, ruleset


def _drop_capabilities() -> None:
    """No capability is left, in no set, and none can come back."""
    _call(_LIBC.prctl, _PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    _call(_LIBC.prctl, _PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    _call(_LIBC.prctl, _PR_CAP_AMBIENT, _CAP_AMBIENT_CLEAR_ALL, 0, 0, 0)
    header, data = struct.pack("<Ii", _CAPABILITY_VERSION_3, 0), ctypes.create_string_buffer(24)
    _call(_LIBC.capset, header, data)
    _call(_LIBC.capget, header, data)
    if any(data.raw):
        raise PermissionError("capabilities are left")


def _filter_calls(filter_: list[Any]) -> None:
    """Install the seccomp filter, with this process's id where it stands for it."""
    text, own = filter_
    code = bytearray.fromhex(text)
    for at in own:
        struct.pack_into("<I", code, 8 * at + 4, os.getpid())
    buffer = (ctypes.c_char * len(code)).from_buffer(code)
    program = struct.pack("@HxxxxxxP", len(code) // 8, ctypes.addressof(buffer))
    _call(_LIBC.prctl, _PR_SET_SECCOMP, _SECCOMP_MODE_FILTER, program, 0, 0)


def _run_python(code_path: str, arguments: list[str]) -> int:
    """Run a compiled program in this forked interpreter as if it had been started with `arguments`; returns the exit code."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    for name in ("exit", "quit"):
        setattr(builtins, name, _sitebuiltins.Quitter(name, "Ctrl-D (i.e. EOF)"))
    sys.argv = arguments
    sys.path.insert(0, os.path.dirname(arguments[0]))
    sys.stdin = sys.__stdin__ = open(0, encoding="utf-8", errors="surrogateescape", closefd=False)  # type: ignore[misc]
    sys.stdout = sys.__stdout__ = io.TextIOWrapper(open(1, "wb", closefd=False), encoding="utf-8", errors="surrogateescape")  # type: ignore[misc]
    sys.stderr = sys.__stderr__ = io.TextIOWrapper(  # type: ignore[misc]
        open(2, "wb", closefd=False), encoding="utf-8", errors="backslashreplace", line_buffering=True
    )
    main = types.ModuleType("__main__")
    main.__dict__.update(__builtins__=builtins, __file__=arguments[0])
    sys.modules["__main__"] = main
    sys.setrecursionlimit(1000 + 8)  # for the frames below the program's own
    gc.enable()
    code = 0
    try:
        with open(code_path, "rb") as file:
            program = marshal.load(file)  # noqa: S302  (confined already)
        exec(program, main.__dict__)  # noqa: S102
    except SystemExit as error:
        code = _exit_code(error)
    except BaseException as error:
        code = 1
        trace = error.__traceback__.tb_next if error.__traceback__ else None
        sys.excepthook(type(error), error.with_traceback(trace), trace)
    if "threading" in sys.modules:
        sys.modules["threading"]._shutdown()  # waits for threads that are no daemons
    atexit._run_exitfuncs()
    try:
        if sys.stdout is not None and not getattr(sys.stdout, "closed", False):
            sys.stdout.flush()
    except Exception:
        code = code or 120  # what the interpreter ends with then
    with contextlib.suppress(Exception):  # a program may have put another in its place, or detached it
        sys.__stdout__.flush()  # type: ignore[union-attr]
    return code


def _exit_code(error: SystemExit) -> int:
    if error.code is None:
        return 0
    if isinstance(error.code, int):
        return error.code & 0xFF
    print(error.code, file=sys.stderr)  # noqa: T201
    return 1


def _mount(target: str, options: str) -> None:
    _call(_LIBC.mount, b"tmpfs", target.encode(), b"tmpfs", _MS_NOSUID | _MS_NODEV, options.encode())


def _call(function: Any, *arguments: Any) -> int:
    result = function(*(ctypes.c_long(value) if isinstance(value, int) else value for value in arguments))
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{getattr(function, '__name__', 'call')} {arguments[:1]!r:.40}: {os.strerror(number)}")
    return int(result)


def _write_all(handle: int, content: bytes) -> None:
    view = memoryview(content)
    while view:
        view = view[os.write(handle, view) :]


def _read_exactly(count: int) -> bytes | None:
    parts = []
    while count:
        part = os.read(0, min(count, 1 << 20))
        if not part:
            return None
        parts.append(part)
        count -= len(part)
    return b"".join(parts)


def _read_frame() -> tuple[dict[str, Any], bytes] | None:
    header = _read_exactly(_HEADER.size)
    if header is None:
        return None
    sizes = _HEADER.unpack(header)
    request, payload = _read_exactly(sizes[0]), _read_exactly(sizes[1])
    return None if request is None or payload is None else (marshal.loads(request), payload)  # noqa: S302  (the caller's)


def _write_frame(reply: dict[str, Any], payload: bytes) -> None:
    text = repr(reply).encode()
    _write_all(1, _HEADER.pack(len(text), len(payload)) + text + payload)


if __name__ == "__main__":
    Supervisor().serve()
