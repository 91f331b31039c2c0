"""The seccomp filters: which system calls a confined process may make, and their assembly into classic BPF. Pure.

A filter is an allow list. What it does not name fails with ENOSYS, so that libraries fall back (`clone3` to `clone`). A call that it
names, but whose arguments it refuses, fails with EPERM. Another architecture's calls, and those of the x32 ABI, kill the process.

Arguments are looked at only where the kernel reads them as 32 bits (file flags, commands, process ids) or where they must be null, so a
high half that is not zero changes nothing. Memory behind pointers is never looked at: it could change after the check.

Two profiles:

    run      one process: no child, no signal to any other, no socket but a connected pair, no change of modes, owners or times
    compile  the same with children, for the compiler and its parts
"""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal

from magistral_core.sandbox.syscalls import AARCH64, X86_64

Profile = Literal["run", "compile"]

#: Stands for the confined process's own id, which is known only after the fork: `Filter.own_pid` says where to write it.
OWN_PID = -1

_ENOSYS, _EPERM = 38, 1
ALLOW, KILL, ERRNO = 0x7FFF0000, 0x80000000, 0x00050000
_LOAD, _JEQ, _JGE, _AND, _RETURN = 0x20, 0x15, 0x35, 0x54, 0x06
_X32_BIT = 0x40000000
_LOW = 0xFFFFFFFF

_O_WRONLY, _O_RDWR, _O_ACCMODE, _O_TRUNC = 1, 2, 3, 0o1000
# Only O_WRONLY and O_RDWR ask for write access; with the others O_TRUNC would truncate behind Landlock's back before its version 3.
_OPEN_FLAGS = tuple(mode | trunc for mode, trunc in ((0, 0), (_O_WRONLY, 0), (_O_RDWR, 0), (_O_WRONLY, _O_TRUNC), (_O_RDWR, _O_TRUNC)))
_CLONE_THREAD = 0x00010000
#: Namespaces of all kinds (time included), tracing, and a parent's place.
_CLONE_REFUSED = 0x7E000000 | 0x00020000 | 0x80 | 0x2000 | 0x8000
# Duplicating, flags and locks; not the calls that send signals (owner, signal, notification, leases).
_FCNTL = (0, 1, 2, 3, 4, 5, 6, 7, 1030, 1032, 36, 37, 38)
# TCGETS, TIOCGWINSZ, FIONREAD, FIONBIO, FIONCLEX, FIOCLEX.
_IOCTL = (0x5401, 0x5413, 0x541B, 0x5421, 0x5450, 0x5451)
# PR_GET_DUMPABLE, PR_SET_NAME, PR_GET_NAME, PR_CAPBSET_READ, PR_GET_NO_NEW_PRIVS, PR_SET_VMA.
_PRCTL = (3, 15, 16, 23, 39, 0x53564D41)


@dataclass(frozen=True, slots=True)
class Test:
    """`argument & mask` must be one of `values`. `high`: look at the upper 32 bits."""

    __test__ = False

    argument: int
    values: tuple[int, ...]
    mask: int = _LOW
    high: bool = False


@dataclass(frozen=True, slots=True)
class Filter:
    """A filter, assembled: `code` is an array of `struct sock_filter`; the instructions at `own_pid` take the process's id as constant."""

    code: bytes
    own_pid: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Architecture:
    """AUDIT_ARCH number and call numbers."""

    audit: int
    calls: Mapping[str, int]
    x32: bool = False


ARCHITECTURES: Mapping[str, Architecture] = MappingProxyType(
    {"x86_64": Architecture(0xC000003E, X86_64, x32=True), "aarch64": Architecture(0xC00000B7, AARCH64)}
)

_PLAIN = """
    read write readv writev pread64 pwrite64 preadv pwritev preadv2 pwritev2 close close_range lseek fstat newfstatat stat lstat statx
    access faccessat faccessat2 readlink readlinkat getcwd chdir fchdir getdents getdents64 dup dup2 dup3 pipe pipe2 poll ppoll select
    pselect6 epoll_create epoll_create1 epoll_ctl epoll_wait epoll_pwait epoll_pwait2 eventfd eventfd2 fsync fdatasync ftruncate
    fallocate flock umask fadvise64 sendfile creat mkdir mkdirat unlink unlinkat rmdir rename renameat renameat2 statfs fstatfs mmap
    munmap mremap mprotect madvise brk msync mincore membarrier exit exit_group getpid gettid getppid getuid geteuid getgid getegid
    getresuid getresgid getgroups getpgrp getpgid getsid set_tid_address set_robust_list get_robust_list futex futex_waitv rseq
    arch_prctl sched_yield sched_getaffinity sched_getparam sched_getscheduler sched_get_priority_max sched_get_priority_min
    getpriority getcpu uname sysinfo getrusage times getrlimit setrlimit rt_sigaction rt_sigprocmask rt_sigreturn rt_sigpending
    rt_sigsuspend rt_sigtimedwait sigaltstack pause restart_syscall nanosleep clock_nanosleep clock_gettime clock_getres gettimeofday
    time alarm setitimer getitimer timer_create timer_settime timer_gettime timer_delete timer_getoverrun timerfd_create
    timerfd_settime timerfd_gettime getrandom recvfrom shutdown execve
""".split()  # noqa: SIM905  (a list of words)

_CHECKED: Mapping[str, tuple[Test, ...]] = MappingProxyType(
    {
        "open": (Test(1, _OPEN_FLAGS, _O_ACCMODE | _O_TRUNC),),
        "openat": (Test(2, _OPEN_FLAGS, _O_ACCMODE | _O_TRUNC),),
        "kill": (Test(0, (OWN_PID,)),),
        "tgkill": (Test(0, (OWN_PID,)),),
        "prlimit64": (Test(0, (0, OWN_PID)),),
        "clone": (Test(0, (_CLONE_THREAD,), _CLONE_THREAD | _CLONE_REFUSED),),
        "fcntl": (Test(1, _FCNTL),),
        "ioctl": (Test(1, _IOCTL),),
        "prctl": (Test(0, _PRCTL),),
        # asyncio wakes itself through a pair; a datagram pair could send to other addresses, and sendmsg could pass descriptors.
        "socketpair": (Test(0, (1,)), Test(1, (1,), 0xF)),
        "sendto": (Test(4, (0,)), Test(4, (0,), high=True)),
    }
)
_COMPILE_PLAIN = ("fork", "vfork", "wait4", "waitid")
# Named so that they fail with EPERM, which programs report better than ENOSYS.
_REFUSED = ("fork", "vfork", "chmod", "fchmod", "fchmodat", "truncate")


def build(profile: Profile, machine: str) -> Filter:
    """The filter of a profile for a machine (`platform.machine()`). Raises KeyError for one that is not in ARCHITECTURES."""
    architecture = ARCHITECTURES[machine]
    checked, plain = dict(_CHECKED), set(_PLAIN)
    refused = set(_REFUSED)
    if profile == "compile":
        plain |= set(_COMPILE_PLAIN)
        checked["clone"] = (Test(0, (0,), _CLONE_REFUSED),)
    program = _Program()
    program.add(_LOAD, 4)
    program.add(_JEQ, architecture.audit, 1, 0)
    program.add(_RETURN, KILL)
    program.add(_LOAD, 0)
    if architecture.x32:
        program.add(_JGE, _X32_BIT, 0, 1)
        program.add(_RETURN, KILL)
    answers = {
        number: ALLOW if name in plain else ERRNO | _EPERM  # the compiler's calls are in both
        for name, number in architecture.calls.items()
        if name not in checked and (name in plain or name in refused)
    }
    tests = {architecture.calls[name]: found for name, found in checked.items() if name in architecture.calls}
    done = 0  # every number below is dealt with
    for number in sorted(answers.keys() | tests.keys()):
        if number < done:
            continue
        if number > done:
            program.add(_JGE, number, 1, 0)
            program.add(_RETURN, ERRNO | _ENOSYS)
        done = number + 1
        if number in tests:
            body = _checks(tests[number])
            program.add(_JGE, done, len(body.instructions), 0)
            program.extend(body)
            continue
        # The kernel walks through a filter for every number when it is installed: runs of calls with one answer keep that short.
        while answers.get(done) == answers[number]:
            done += 1
        program.add(_JGE, done, 1, 0)
        program.add(_RETURN, answers[number])
    program.add(_RETURN, ERRNO | _ENOSYS)
    return program.filter()


def _checks(tests: Sequence[Test]) -> _Program:
    """Allow a call if every test holds, else EPERM."""
    body = _Program()
    for test in tests:
        body.add(_LOAD, 16 + 8 * test.argument + 4 * test.high)
        if test.mask != _LOW:
            body.add(_AND, test.mask)
        for position, value in enumerate(test.values):
            body.add(_JEQ, value, len(test.values) - position, 0)  # to the next test, over the refusal
        body.add(_RETURN, ERRNO | _EPERM)
    body.add(_RETURN, ALLOW)
    return body


class _Program:
    """Instructions in the making."""

    def __init__(self) -> None:
        self.instructions: list[tuple[int, int, int, int]] = []

    def add(self, code: int, constant: int, if_true: int = 0, if_false: int = 0) -> None:
        self.instructions.append((code, if_true, if_false, constant))

    def extend(self, other: _Program) -> None:
        self.instructions.extend(other.instructions)

    def filter(self) -> Filter:
        own = tuple(at for at, (code, _, _, constant) in enumerate(self.instructions) if code == _JEQ and constant == OWN_PID)
        code = b"".join(struct.pack("<HBBI", op, yes, no, constant & _LOW) for op, yes, no, constant in self.instructions)
        return Filter(code, own)
