"""What the canary tries inside the sandbox. Arguments: a file with a secret, a file that anyone may write, numbers of system calls as JSON.

It is run from its code alone, like the supervisor. It prints one JSON object: an attempt's name to what it was refused with; null where it
succeeded.
"""

import ctypes
import json
import os
import resource
import socket
import sys

SECRET, WRITABLE, CALLS = sys.argv[1], sys.argv[2], json.loads(sys.argv[3])
LIBC = ctypes.CDLL(None, use_errno=True)


def call(name: str, *arguments: int) -> None:
    if LIBC.syscall(CALLS[name], *map(ctypes.c_long, arguments)) < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


def fork() -> None:
    if os.fork() == 0:
        os._exit(0)
    os.wait()


def raise_limit() -> None:
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard + 1))
    except ValueError as error:
        raise OSError(1, str(error)) from error


def replace_source() -> None:
    os.unlink(sys.argv[0])


ATTEMPTS = {
    "network": lambda: socket.socket(socket.AF_INET, socket.SOCK_STREAM),
    "unix socket": lambda: socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM),
    "read a secret": lambda: open(SECRET).read(),
    "read its environment": lambda: open("/proc/self/environ").read(),
    "read a process's memory": lambda: open("/proc/1/mem", "rb"),
    "write outside": lambda: open(WRITABLE, "a"),
    "write to /proc/sys": lambda: open("/proc/sys/kernel/core_pattern", "w"),
    "write to the system": lambda: open("/usr/lib/magistral-canary", "w"),
    "change its source": lambda: open(sys.argv[0], "a"),
    "remove its source": replace_source,
    "fork": fork,
    "signal its parent": lambda: os.kill(os.getppid(), 0),
    "signal the first process": lambda: os.kill(1, 0),
    "signal everybody": lambda: os.kill(-1, 0),
    "raise a hard limit": raise_limit,
    "change a mode": lambda: os.chmod(WRITABLE, 0o600),
    "ptrace": lambda: call("ptrace", 0, 0, 0, 0),
    "new user namespace": lambda: call("unshare", 0x10000000),
    "mount": lambda: call("mount", 0, 0, 0, 0, 0),
    "io_uring": lambda: call("io_uring_setup", 1, 0),
    "keyring": lambda: call("add_key", 0, 0, 0, 0, 0),
    "bpf": lambda: call("bpf", 0, 0, 0),
}


def main() -> None:
    found = {}
    for name, attempt in ATTEMPTS.items():
        try:
            attempt()
        except OSError as error:
            # EFAULT and EINVAL mean that the kernel began to do it.
            found[name] = None if error.errno in (14, 22) else str(error)
        else:
            found[name] = None
    print(json.dumps(found))


main()
