"""Programs that attack the sandbox, by what they are after and the layers that hold them.

Each prints `refused ...` for an attempt that failed and `BREACH ...` for one that succeeded, or is ended by a limit. They are bounded (memory, children,
files), so that they would do no harm if the sandbox did not hold; files outside are ones that the test planted. Signals go to processes that exist only
because the canary has passed before.
"""

from __future__ import annotations

from dataclasses import dataclass

#: How an attack must end: it says itself that it was refused, or a limit ends it.
REFUSED, TIMEOUT, MEMORY, OUTPUT, ERROR, COMPILE = "refused", "timeout", "memory", "output_limit", "runtime_error", "compile_error"

PRELUDE = """
import ctypes, fcntl, os, resource, signal, socket, struct, subprocess, sys, threading, time
SECRET, WRITABLE, MARK = {secret!r}, {writable!r}, {mark!r}
LIBC = ctypes.CDLL(None, use_errno=True)
LIBC.syscall.restype = ctypes.c_long

def attempt(action):
    try:
        result = action()
    except (Exception, SystemExit) as error:
        print("refused", type(error).__name__, error)
    else:
        print("BREACH", result)

def call(number, *arguments):
    result = LIBC.syscall(number, *(ctypes.c_long(a) if isinstance(a, int) else a for a in arguments))
    if result < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return result

def is_open(number):
    try:
        os.fstat(number)
    except OSError:
        return False
    return True

def bounded(name, count, most):
    print("BREACH" if count > most else "refused", name, count)
"""


@dataclass(frozen=True)
class Attack:
    """`layers`: what holds it, the first one first. `ends`: every way in which it may end."""

    name: str
    after: str
    layers: str
    ends: tuple[str, ...]
    source: str
    cpp: bool = False


def _refused(after: str, layers: str, **sources: str) -> list[Attack]:
    return [Attack(name.replace("_", " "), after, layers, (REFUSED,), source) for name, source in sources.items()]


ATTACKS = [
    *_refused(
        "network",
        "seccomp, network namespace",
        tcp_connection="attempt(lambda: socket.create_connection(('127.0.0.1', 22), 1))",
        udp_packet="attempt(lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b'x', ('127.0.0.1', 53)))",
        listening="attempt(lambda: socket.create_server(('127.0.0.1', 0)))",
        raw_and_netlink_sockets="for family, kind in ((socket.AF_INET, 3), (16, 3), (17, 3), (40, 1)): attempt(lambda: socket.socket(family, kind))",
        unix_socket="attempt(lambda: socket.socket(socket.AF_UNIX).connect('/run/systemd/private'))",
        name_lookup="attempt(lambda: socket.getaddrinfo('localhost.example', 80))",
        datagram_pair_to_another_address="attempt(lambda: socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)[0].sendto(b'x', '\\0magistral-test'))",
    ),
    Attack(
        "stream pair passes descriptors",
        "network",
        "seccomp",
        (REFUSED,),
        "a, b = socket.socketpair()\na.send(b'x')\nassert b.recv(1) == b'x'\nattempt(lambda: socket.send_fds(a, [b'x'], [0]))\nattempt(lambda: a.sendto(b'x', '\\0magistral-test'))",
    ),
    *_refused(
        "files",
        "mounts, Landlock",
        password_file="attempt(lambda: open('/etc/passwd').read())",
        shadow_file="attempt(lambda: open('/etc/shadow').read())",
        planted_secret="attempt(lambda: open(SECRET).read())",
        secret_through_dots="attempt(lambda: open('/usr/lib/../..' + SECRET).read())",
        listing_homes="for place in ('/root', '/home', '/etc', '/var', '/opt', '/srv'): attempt(lambda: os.listdir(place))",
        writing_a_planted_file="attempt(lambda: open(WRITABLE, 'a').write('x'))",
        truncating_without_write_access="attempt(lambda: os.open(WRITABLE, os.O_RDONLY | os.O_TRUNC))\nattempt(lambda: os.open(WRITABLE, 3 | os.O_TRUNC))",
        writing_to_the_system="for place in ('/usr/lib/x', '/usr/bin/x', '/x', '/dev/x', '/box/x', '/io/x'): attempt(lambda: open(place, 'w'))",
        replacing_the_source="attempt(lambda: open(__file__, 'a').write('x'))\nattempt(lambda: os.rename(__file__, __file__ + 'x'))\nattempt(lambda: os.unlink(__file__))",
        the_next_tests_input="attempt(lambda: open('/io/stdin', 'w'))\nattempt(lambda: os.write(0, b'x'))\nattempt(lambda: os.unlink('/io/stdin'))",
        devices="attempt(lambda: open('/dev/vda', 'rb'))\nattempt(lambda: open('/dev/mem', 'rb'))\nattempt(lambda: open('/dev/kmsg', 'w'))\nattempt(lambda: os.mknod('d', 0o20666, os.makedev(1, 1)))",
    ),
    *_refused(
        "files",
        "seccomp",
        links="attempt(lambda: os.symlink('/etc/passwd', '/tmp/link'))\nattempt(lambda: os.link(WRITABLE, '/tmp/link'))",
        modes_owners_times_and_attributes=(
            "for action in (lambda: os.chmod(WRITABLE, 0), lambda: os.chmod(__file__, 0o777), lambda: os.chown(WRITABLE, 0, 0), lambda: os.utime(WRITABLE),\n"
            "               lambda: os.setxattr(WRITABLE, 'user.x', b'x'), lambda: os.truncate(WRITABLE, 0)): attempt(action)"
        ),
        chroot="attempt(lambda: os.chroot('/tmp'))",
        open_by_handle="attempt(lambda: call(304, 0, 0, 0))",
        openat2="attempt(lambda: call(437, -100, b'/etc/passwd', bytes(24), 24))",
    ),
    Attack(
        "filling the disk",
        "files",
        "size of the tmpfs; no writable folder without one",
        (REFUSED, OUTPUT),
        "count = 0\ntry:\n    for number in range(64):\n        with open(f'f{number}', 'wb') as file:\n            for _ in range(8):\n                count += file.write(bytes(1 << 20))\n"
        "except OSError as error:\n    print(error)\nbounded('MiB', count >> 20, 160)",
    ),
    Attack(
        "endless small files",
        "files",
        "inodes of the tmpfs; no writable folder without one",
        (REFUSED,),
        "count = 0\ntry:\n    while count < 20000:\n        open(f'f{count}', 'w').close()\n        count += 1\nexcept OSError as error:\n    print(error)\nbounded('files', count, 1000)",
    ),
    Attack(
        "endless folders",
        "files",
        "inodes of the tmpfs; no writable folder without one",
        (REFUSED,),
        "count = 0\ntry:\n    while count < 20000:\n        os.mkdir('d')\n        os.chdir('d')\n        count += 1\nexcept OSError as error:\n    print(error)\nbounded('folders', count, 1000)",
    ),
    Attack(
        "leaving a file for the next test",
        "surviving",
        "supervisor",
        (REFUSED,),
        "try:\n    open('left', 'w').write('x')\n    open('/dev/shm/left', 'w').write('x')\n    os.mkdir('folder')\nexcept OSError:\n    pass\nprint('refused later, by the probe')",
    ),
    *_refused(
        "environment",
        "supervisor",
        environment_variables="bounded('secrets', sum(MARK in value for value in os.environ.values()), 0)",
        inherited_descriptors="bounded('descriptors', sum(is_open(number) for number in range(3, 1024)), 0)",
        the_supervisors_memory=(
            "import gc\nfound = sum(MARK in text for item in gc.get_objects() for text in ([item] if isinstance(item, str) else item.values() if isinstance(item, dict) else ())"
            " if isinstance(text, str) and text is not MARK)\nbounded('copies of the mark', found, 0)"
        ),
    ),
    *_refused(
        "/proc",
        "no /proc, Landlock",
        own_memory="attempt(lambda: open('/proc/self/mem', 'r+b'))",
        first_process="for name in ('mem', 'environ', 'root/etc/passwd', 'cwd', 'maps'): attempt(lambda: open('/proc/1/' + name, 'rb').read(1))",
        core_pattern="attempt(lambda: open('/proc/sys/kernel/core_pattern', 'w'))",
        other_processes="attempt(lambda: os.listdir('/proc'))\nattempt(lambda: open('/proc/%d/environ' % os.getppid()).read())",
        sysrq_and_sysfs="attempt(lambda: open('/proc/sysrq-trigger', 'w'))\nattempt(lambda: os.listdir('/sys'))",
    ),
    *_refused(
        "processes",
        "seccomp",
        fork="attempt(lambda: os.fork() or os._exit(0))",
        raw_fork_and_vfork="attempt(lambda: call(57) or os._exit(0))\nattempt(lambda: call(56, 17, 0, 0, 0, 0) or os._exit(0))",
        clone3="attempt(lambda: call(435, struct.pack('<8Q', 0, 0, 0, 0, 17, 0, 0, 0), 64) or os._exit(0))",
        clone_that_shares_memory="attempt(lambda: call(56, 0x100 | 17, 0, 0, 0, 0) or os._exit(0))",
        spawning_a_shell="attempt(lambda: subprocess.run(['/bin/sh', '-c', 'echo hi']))\nattempt(lambda: os.posix_spawn('/bin/sh', ['sh'], {}))",
        multiprocessing="import multiprocessing\nattempt(lambda: multiprocessing.Process(target=print).start())",
        a_daemon_that_survives="attempt(lambda: os.fork() and os._exit(0) or os.setsid() or os.fork())",
    ),
    Attack(
        "executing another program",
        "processes",
        "Landlock; confined like its caller without it",
        (REFUSED,),
        "attempt(lambda: os.execv('/bin/sh', ['sh', '-c', 'echo BREACH']))",
    ),
    *_refused(
        "memory",
        "seccomp",
        memory_file="attempt(lambda: os.memfd_create('x'))",
        shared_memory_segment="attempt(lambda: call(29, 0, 1 << 30, 0o1600))",
        message_queue="attempt(lambda: call(240, b'x', 0o102, 0o600, 0))\nattempt(lambda: call(68, 0, 0o1600))",
        locked_memory="attempt(lambda: call(151, 1))",
    ),
    Attack("a large array", "memory", "watch, limits", (MEMORY,), "hoard = bytearray(1 << 30)\nprint('BREACH', len(hoard))"),
    Attack(
        "shared anonymous memory",
        "memory",
        "watch, limits",
        (MEMORY,),
        "import mmap\narea = mmap.mmap(-1, 1 << 30)\nfor at in range(0, 1 << 30, 4096):\n    area[at] = 1\nprint('BREACH')",
    ),
    Attack(
        "address space",
        "memory",
        "limits",
        (ERROR, MEMORY),
        "import mmap\nhoard = [mmap.mmap(-1, 1 << 30) for _ in range(64)]\nprint('BREACH')",
    ),
    Attack(
        "shared memory folder",
        "memory",
        "size of the tmpfs; no writable folder without one",
        (REFUSED, OUTPUT),
        "count = 0\ntry:\n    with open('/dev/shm/x', 'wb') as file:\n        for _ in range(512):\n            count += file.write(bytes(1 << 20))\nexcept OSError as error:\n    print(error)\nbounded('MiB', count >> 20, 160)",
    ),
    Attack(
        "hundreds of threads",
        "threads",
        "limits",
        (REFUSED, MEMORY),
        "threading.stack_size(65536)\nstop, count = threading.Event(), 0\ntry:\n    while count < 400:\n        threading.Thread(target=stop.wait, daemon=True).start()\n        count += 1\n"
        "except RuntimeError as error:\n    print(error)\nstop.set()\nbounded('threads', count, 199)",
    ),
    *_refused(
        "tracing",
        "seccomp, other user namespace",
        ptrace="for request in (0, 16, 0x4206): attempt(lambda: call(101, request, os.getppid(), 0, 0))",
        reading_and_writing_another_process="for number in (310, 311): attempt(lambda: call(number, os.getppid(), 0, 0, 0, 0, 0))",
        descriptors_of_another_process="attempt(lambda: os.pidfd_open(os.getppid()))\nattempt(lambda: call(438, 3, 0, 0))\nattempt(lambda: call(312, os.getpid(), os.getppid(), 0, 0, 0))",
    ),
    *_refused(
        "signals",
        "seccomp, process namespace",
        to_everybody="attempt(lambda: os.kill(-1, signal.SIGKILL))",
        to_the_first_process="for signum in (0, signal.SIGKILL, signal.SIGTERM, signal.SIGSTOP): attempt(lambda: os.kill(1, signum))",
        to_the_supervisor="for signum in (0, signal.SIGKILL, signal.SIGSTOP): attempt(lambda: os.kill(os.getppid(), signum))",
        to_groups="attempt(lambda: os.kill(0, 0))\nattempt(lambda: os.killpg(os.getpgid(os.getppid()), signal.SIGKILL))",
        by_other_calls=(
            "parent = os.getppid()\nfor number, arguments in ((200, (parent, 9)), (234, (parent, parent, 9)), (129, (parent, 9, bytes(128))), (297, (parent, parent, 9, bytes(128))),\n"
            "                          (424, (3, 9, 0, 0))): attempt(lambda: call(number, *arguments))"
        ),
        by_a_descriptors_owner="r, w = os.pipe()\nattempt(lambda: fcntl.fcntl(r, fcntl.F_SETOWN, os.getppid()))\nattempt(lambda: fcntl.fcntl(r, 10, 9))\nattempt(lambda: fcntl.ioctl(r, 0x8901, struct.pack('i', os.getppid())))",
        moving_to_another_group="attempt(lambda: os.setpgid(0, os.getpgid(os.getppid())))\nattempt(lambda: os.setsid())",
    ),
    Attack(
        "ignoring every signal",
        "surviving",
        "supervisor",
        (TIMEOUT,),
        "for s in range(1, 32):\n    try: signal.signal(s, signal.SIG_IGN)\n    except OSError: pass\nwhile True: pass",
    ),
    Attack(
        "a thread that outlives the program",
        "surviving",
        "supervisor, watch",
        (TIMEOUT,),
        "threading.Thread(target=time.sleep, args=(1000,)).start()",
    ),
    Attack("an endless exit", "surviving", "supervisor", (TIMEOUT,), "import atexit\n@atexit.register\ndef again():\n    while True: pass"),
    Attack("holding its output open", "surviving", "supervisor, watch", (TIMEOUT,), "keep = os.dup(1)\nos.close(1)\ntime.sleep(1000)"),
    *_refused("kernel", "seccomp", io_uring="attempt(lambda: call(425, 8, bytes(120)))\nattempt(lambda: call(426, 3, 1, 0, 0, 0))"),
    *_refused(
        "namespaces",
        "seccomp, no capabilities",
        new_namespaces="for flag in (0x10000000, 0x20000, 0x20000000, 0x40000000, 0x02000000): attempt(lambda: call(272, flag))",
        clone_with_a_namespace="attempt(lambda: call(56, 0x10000000 | 17, 0, 0, 0, 0) or os._exit(0))",
        joining_one="attempt(lambda: call(308, 0, 0))",
        mounting="attempt(lambda: call(165, b'tmpfs', b'/tmp', b'tmpfs', 0, 0))\nattempt(lambda: call(166, b'/tmp', 2))\nattempt(lambda: call(155, b'/tmp', b'/tmp'))\nattempt(lambda: call(428, -100, b'/', 1))\nattempt(lambda: call(430, b'tmpfs', 0))",
        becoming_root="attempt(lambda: os.setuid(0))\nattempt(lambda: call(126, struct.pack('<Ii', 0x20080522, 0), b'\\xff' * 24))",
    ),
    *_refused(
        "limits",
        "hard limits, seccomp",
        raising_hard_limits=(
            "for what in (resource.RLIMIT_CPU, resource.RLIMIT_AS, resource.RLIMIT_STACK, resource.RLIMIT_FSIZE, resource.RLIMIT_NPROC, resource.RLIMIT_NOFILE):\n"
            "    hard = resource.getrlimit(what)[1]\n    attempt(lambda: resource.setrlimit(what, (hard + 1, hard + 1)))\n    attempt(lambda: resource.setrlimit(what, (-1, -1)))"
        ),
        limits_of_another_process="attempt(lambda: resource.prlimit(os.getppid(), resource.RLIMIT_CPU, (1, 1)))",
        real_time_and_priority="attempt(lambda: os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1)))\nattempt(lambda: os.setpriority(os.PRIO_PROCESS, os.getppid(), 19))\nattempt(lambda: os.nice(-1))",
        weakening_its_filter="attempt(lambda: call(157, 22, 2, 0, 0, 0))\nattempt(lambda: call(317, 1, 0, 0))\nattempt(lambda: call(157, 4, 1, 0, 0, 0))",
    ),
    *_refused(
        "kernel",
        "seccomp",
        bpf_perf_and_userfaultfd="for number in (321, 298, 323): attempt(lambda: call(number, 0, 0, 0, 0, 0))",
        keys="for number in (248, 249, 250): attempt(lambda: call(number, 0, 0, 0, 0, 0))",
        modules_reboot_swap_and_clock="for number in (175, 313, 246, 169, 167, 227, 170): attempt(lambda: call(number, 0, 0, 0, 0, 0))",
        personality="attempt(lambda: call(135, 0x0040000))",
    ),
    Attack("endless output", "output", "limits", (OUTPUT,), "block = 'x' * (1 << 16)\nwhile True: print(block)"),
    Attack("endless errors", "output", "limits", (OUTPUT,), "block = 'x' * (1 << 16)\nwhile True: print(block, file=sys.stderr)"),
    Attack(
        "a sparse terabyte",
        "output",
        "limits",
        (REFUSED,),
        "attempt(lambda: os.ftruncate(1, 1 << 40))\nattempt(lambda: os.posix_fallocate(1, 0, 1 << 40))",
    ),
    Attack(
        "forged replies",
        "verdict",
        "supervisor",
        (REFUSED,),
        "forged = struct.pack('<II', 40, 0) + b'{\"exit_code\": 0, \"stopped\": \"\", \"out\": 0} '\nfor number in range(3, 1024):\n    try: os.write(number, forged)\n    except OSError: continue\n    print('BREACH', number)\nprint('refused')",
    ),
    Attack("nested brackets", "compiling", "limits", (COMPILE,), "x = " + "(" * 5000 + ")" * 5000),
    Attack(
        "a constant that grows",
        "compiling",
        "limits",
        (REFUSED, COMPILE, MEMORY, TIMEOUT),
        "attempt(lambda: ((1 << 9999) ** 9999) ** 9999)",
    ),
    Attack("an error deep in a recursion", "verdict", "supervisor", (ERROR,), "def f(): f()\nf()"),
]


def _cpp(name: str, after: str, layers: str, *ends: str, source: str) -> Attack:
    return Attack(name, after, layers, ends, source, cpp=True)


CPP_ATTACKS = [
    _cpp("a secret as a header", "compiling", "mounts, Landlock", COMPILE, source='#include "/etc/shadow"\nint main() {}'),
    _cpp("a planted secret as a header", "compiling", "mounts, Landlock", COMPILE, source='#include "@SECRET@"\nint main() {}'),
    _cpp(
        "a secret by .incbin",
        "compiling",
        "mounts, Landlock",
        COMPILE,
        source='asm(".globl secret\\nsecret: .incbin \\"@SECRET@\\"");\nextern char secret[];\n#include <cstdio>\nint main() { printf("BREACH %s", secret); }',
    ),
    _cpp("the compiler's environment", "compiling", "no /proc", COMPILE, source='#include "/proc/self/environ"\nint main() {}'),
    _cpp(
        "asking whether a file exists",
        "compiling",
        "mounts, Landlock",
        REFUSED,
        source='#include <cstdio>\nint main() {\n#if __has_include("@SECRET@")\nputs("BREACH");\n#else\nputs("refused");\n#endif\n}',
    ),
    _cpp("an endless header", "compiling", "limits", COMPILE, source='#include "/dev/zero"\nint main() {}'),
    _cpp(
        "a header that includes itself",
        "compiling",
        "limits of the compiler",
        COMPILE,
        source="#include __FILE__\n#include __FILE__\nint main() {}",
    ),
    _cpp(
        "a template bomb",
        "compiling",
        "limits",
        COMPILE,
        source="template <int a, int b> struct F { static const long v = F<a - 1, b>::v + F<a - 1, b + (1 << a) % 1000003>::v; };\n"
        "template <int b> struct F<0, b> { static const long v = b; };\nint main() { return F<24, 1>::v; }",
    ),
    _cpp(
        "a constant that takes forever",
        "compiling",
        "limits",
        COMPILE,
        source="constexpr long f(int n) { return n < 2 ? n : f(n - 1) + f(n - 2) + n % 3; }\n"
        "constexpr long g() { long s = 0; for (long i = 0; i < 100000000000L; i++) s += i; return s; }\nstatic_assert(g() == f(90));\nint main() {}",
    ),
    _cpp(
        "a macro bomb",
        "compiling",
        "limits",
        COMPILE,
        source="#define A x x x x x x x x x x\n#define B A A A A A A A A A A\n#define C B B B B B B B B B B\n#define D C C C C C C C C C C\n#define E D D D D D D D D D D\n"
        "#define F E E E E E E E E E E\n#define G F F F F F F F F F F\n#define H G G G G G G G G G G\nint main() { H; H; }",
    ),
    _cpp("a gigabyte of program", "compiling", "limits", COMPILE, source="char a[1u << 30] = {1};\nint main() { return a[5]; }"),
    _cpp("a gigabyte of assembler", "compiling", "limits", COMPILE, source='asm(".data\\n.fill 1073741824, 1, 7");\nint main() {}'),
    _cpp(
        "calls of another architecture",
        "kernel",
        "seccomp",
        ERROR,
        source='#include <cstdio>\nint main() { int r; asm volatile("int $0x80" : "=a"(r) : "a"(20)); printf("BREACH %d", r); }',
    ),
    _cpp(
        "calls of the x32 ABI",
        "kernel",
        "seccomp",
        ERROR,
        source='#include <cstdio>\n#include <unistd.h>\nint main() { printf("BREACH %ld", syscall(0x40000000 + 39)); }',
    ),
    _cpp(
        "fork and signals from C++",
        "processes",
        "seccomp",
        REFUSED,
        source="#include <cstdio>\n#include <unistd.h>\n#include <signal.h>\nint main() {\n  pid_t p = fork(); if (p == 0) _exit(0);\n"
        '  puts(p > 0 ? "BREACH fork" : "refused fork");\n  puts(kill(getppid(), 9) == 0 ? "BREACH kill" : "refused kill");\n'
        '  puts(kill(-1, 9) == 0 ? "BREACH kill all" : "refused kill all");\n}',
    ),
    _cpp(
        "executing a shell from C++",
        "processes",
        "Landlock; confined like its caller without it",
        REFUSED,
        source='#include <cstdio>\n#include <unistd.h>\nint main() { execl("/bin/sh", "sh", "-c", "echo BREACH", nullptr); puts("refused"); }',
    ),
    _cpp(
        "catching its own crash",
        "surviving",
        "supervisor",
        TIMEOUT,
        source="#include <signal.h>\nvoid again(int) {}\nint main() { for (int s = 1; s < 32; s++) signal(s, again); volatile int *p = nullptr; while (true) *p = 1; }",
    ),
    _cpp(
        "endless recursion",
        "memory",
        "limits",
        ERROR,
        MEMORY,
        source="int f(int n) { volatile char a[4096]; a[0] = n; return f(n + 1) + a[0]; }\nint main() { return f(0); }",
    ),
]
