"""What the filters let through, call by call, for both architectures."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from magistral_core.sandbox.seccomp import ALLOW, ARCHITECTURES, ERRNO, KILL, Profile, build
from tests.sandbox.bpf_simulator import simulate

EPERM, ENOSYS = ERRNO | 1, ERRNO | 38
MACHINES = list(ARCHITECTURES)
OWN = 4321
#: Calls that nothing confined may make, by both architectures' numbers.
FORBIDDEN = {
    "x86_64": {
        "socket": 41, "connect": 42, "accept": 43, "sendmsg": 46, "recvmsg": 47, "bind": 49, "listen": 50, "ptrace": 101, "syslog": 103,
        "setuid": 105, "setpgid": 109, "setsid": 112, "capset": 126, "rt_sigqueueinfo": 129, "personality": 135, "mlock": 149,
        "mlockall": 151, "pivot_root": 155, "chroot": 161, "mount": 165, "umount2": 166, "reboot": 169, "init_module": 175, "tkill": 200,
        "mq_open": 240, "add_key": 248, "keyctl": 250, "symlink": 88, "link": 86, "chown": 92, "mknod": 133, "shmget": 29, "utime": 132,
        "unshare": 272, "splice": 275, "utimensat": 280, "perf_event_open": 298, "rt_tgsigqueueinfo": 297, "open_by_handle_at": 304,
        "setns": 308, "process_vm_readv": 310, "process_vm_writev": 311, "kcmp": 312, "finit_module": 313, "seccomp": 317,
        "memfd_create": 319, "bpf": 321, "execveat": 322, "userfaultfd": 323, "pidfd_send_signal": 424, "io_uring_setup": 425,
        "io_uring_enter": 426, "io_uring_register": 427, "open_tree": 428, "move_mount": 429, "fsopen": 430, "pidfd_open": 434,
        "clone3": 435, "openat2": 437, "pidfd_getfd": 438, "process_madvise": 440, "mount_setattr": 442, "landlock_create_ruleset": 444,
        "memfd_secret": 447, "fchmodat2": 452, "setpriority": 141, "sched_setscheduler": 144, "sched_setaffinity": 203,
        "a call of the future": 999,
    },
    "aarch64": {
        "socket": 198, "connect": 203, "sendmsg": 211, "bind": 200, "listen": 201, "ptrace": 117, "setuid": 146, "setpgid": 154,
        "setsid": 157, "capset": 91, "rt_sigqueueinfo": 138, "personality": 92, "mlock": 228, "chroot": 51, "mount": 40, "umount2": 39,
        "tkill": 130, "mq_open": 180, "add_key": 217, "symlinkat": 36, "linkat": 37, "fchownat": 54, "mknodat": 33, "shmget": 194,
        "unshare": 97, "utimensat": 88, "perf_event_open": 241, "open_by_handle_at": 265, "setns": 268, "process_vm_readv": 270,
        "process_vm_writev": 271, "kcmp": 272, "seccomp": 277, "memfd_create": 279, "bpf": 280, "execveat": 281, "userfaultfd": 282,
        "pidfd_send_signal": 424, "io_uring_setup": 425, "io_uring_enter": 426, "clone3": 435, "openat2": 437, "pidfd_getfd": 438,
        "landlock_create_ruleset": 444, "fchmodat2": 452, "a call of the future": 999,
    },
}  # fmt: skip
HIGH = 0xABCD << 32


def answer(profile: Profile, machine: str, call: str | int, *arguments: int) -> int:
    made, architecture = build(profile, machine), ARCHITECTURES[machine]
    code = bytearray(made.code)
    for at in made.own_pid:
        struct.pack_into("<I", code, 8 * at + 4, OWN)
    return simulate(bytes(code), architecture.audit, architecture.calls[call] if isinstance(call, str) else call, arguments)


@pytest.mark.parametrize("profile", ["run", "compile"])
@pytest.mark.parametrize(("machine", "name"), [(machine, name) for machine in MACHINES for name in FORBIDDEN[machine]])
def test_forbidden_calls_do_not_exist(profile: Profile, machine: str, name: str) -> None:
    assert answer(profile, machine, FORBIDDEN[machine][name]) == ENOSYS


@pytest.mark.parametrize("machine", MACHINES)
@pytest.mark.parametrize(
    ("call", "arguments", "expected"),
    [
        ("read", (0, 0, 10), ALLOW),
        ("exit_group", (0,), ALLOW),
        ("openat", (-100, 0, 0), ALLOW),
        ("openat", (-100, 0, 1 | 0o100 | 0o1000 | 0o2000000), ALLOW),
        ("openat", (-100, 0, 0o1000), EPERM),
        ("openat", (-100, 0, 0o1000 | HIGH), EPERM),
        ("openat", (-100, 0, 3), EPERM),
        ("openat", (-100, 0, 3 | 0o1000), EPERM),
        ("kill", (OWN, 9), ALLOW),
        ("kill", (OWN | HIGH, 9), ALLOW),
        ("kill", (OWN + 1, 9), EPERM),
        ("kill", (0, 9), EPERM),
        ("kill", (-1, 9), EPERM),
        ("kill", (-OWN, 9), EPERM),
        ("kill", (1, 0), EPERM),
        ("tgkill", (OWN, OWN + 5, 6), ALLOW),
        ("tgkill", (1, 1, 6), EPERM),
        ("prlimit64", (0, 3, 0, 0), ALLOW),
        ("prlimit64", (OWN, 3, 0, 0), ALLOW),
        ("prlimit64", (OWN + 1, 3, 0, 0), EPERM),
        ("clone", (0x3D0F00,), ALLOW),  # a thread, as glibc starts one
        ("clone", (0x01200011,), EPERM),  # fork
        ("clone", (0x4111,), EPERM),  # vfork
        ("clone", (0x3D0F00 | 0x10000000,), EPERM),
        ("clone", (0x3D0F00 | 0x80,), EPERM),
        ("fcntl", (1, 3), ALLOW),
        ("fcntl", (1, 8, 1), EPERM),
        ("fcntl", (1, 10, 9), EPERM),
        ("fcntl", (1, 15, 0), EPERM),
        ("fcntl", (1, 1024, 1), EPERM),
        ("ioctl", (0, 0x5401), ALLOW),
        ("ioctl", (0, 0x5412), EPERM),  # TIOCSTI
        ("ioctl", (0, 0x8901), EPERM),  # FIOSETOWN
        ("prctl", (15, 0), ALLOW),
        ("prctl", (22, 2), EPERM),
        ("prctl", (4, 1), EPERM),
        ("socketpair", (1, 1 | 0o2000000, 0), ALLOW),
        ("socketpair", (1, 2, 0), EPERM),
        ("socketpair", (2, 1, 0), EPERM),
        ("sendto", (3, 0, 1, 0, 0, 0), ALLOW),
        ("sendto", (3, 0, 1, 0, 0x7FFE0000, 16), EPERM),
        ("sendto", (3, 0, 1, 0, HIGH, 16), EPERM),
    ],
)  # fmt: skip
def test_arguments(machine: str, call: str, arguments: tuple[int, ...], expected: int) -> None:
    assert answer("run", machine, call, *arguments) == expected


@pytest.mark.parametrize("machine", MACHINES)
def test_only_the_compiler_has_children_and_nothing_changes_modes(machine: str) -> None:
    for call in ("fork", "vfork"):
        if call in ARCHITECTURES[machine].calls:
            assert (answer("run", machine, call), answer("compile", machine, call)) == (EPERM, ALLOW)
    for call in ("chmod", "fchmod", "fchmodat", "truncate"):
        if call in ARCHITECTURES[machine].calls:
            assert answer("run", machine, call) == answer("compile", machine, call) == EPERM
    assert answer("compile", machine, "clone", 0x01200011) == answer("compile", machine, "clone", 0x4111) == ALLOW
    assert answer("compile", machine, "clone", 0x01200011 | 0x10000000) == EPERM
    assert answer("compile", machine, "kill", -1, 9) == EPERM
    assert (answer("run", machine, "wait4"), answer("compile", machine, "wait4")) == (ENOSYS, ALLOW)


@pytest.mark.parametrize("machine", MACHINES)
def test_other_architectures_are_killed(machine: str) -> None:
    made = build("run", machine)
    for other in (0x40000003, 0x40000028, *(found.audit for name, found in ARCHITECTURES.items() if name != machine)):
        assert simulate(made.code, other, 1) == KILL
    if machine == "x86_64":
        assert simulate(made.code, ARCHITECTURES[machine].audit, 0x40000000 | 39) == KILL


@given(st.sampled_from(MACHINES), st.integers(0, 2**32 - 1), st.lists(st.integers(0, 2**64 - 1), max_size=6))
def test_every_call_gets_an_answer(machine: str, number: int, arguments: list[int]) -> None:
    for profile in ("run", "compile"):
        assert answer(profile, machine, number, *arguments) in {ALLOW, EPERM, ENOSYS, KILL}


def test_the_tables_agree_with_the_headers() -> None:
    """Spot checks that were looked up by hand; numbers of one architecture are unique."""
    x86, arm = (ARCHITECTURES[machine].calls for machine in ("x86_64", "aarch64"))
    assert (x86["execve"], x86["openat"], x86["clone"], x86["prlimit64"], x86["getrandom"]) == (59, 257, 56, 302, 318)
    assert (arm["execve"], arm["openat"], arm["clone"], arm["prlimit64"], arm["getrandom"]) == (221, 56, 220, 261, 278)
    for calls in (x86, arm):
        assert len(set(calls.values())) == len(calls)
