"""Programs in Python and C++20: compiling them inside a sandbox, once for each source, and running them.

C++ is compiled with `bits/stdc++.h` from a precompiled header, which takes two thirds off the time of a typical solution. The header is
forced to come first, as precompiled ones must; where that breaks a program (a global called `y1`), it is compiled once more without.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import subprocess
import tempfile
import threading
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from functools import lru_cache
from pathlib import Path, PurePosixPath

from magistral_core.paths import cache_folder
from magistral_core.sandbox.box import Box
from magistral_core.sandbox.canary import Choice, choose
from magistral_core.sandbox.launch import BackEnd, system_code
from magistral_core.sandbox.result import MIB, Limits, RunResult, RunStatus, SandboxError

#: The precompiled header is valid for these flags only.
CXX_FLAGS = ("-std=c++20", "-O2", "-w")
COMPILE_LIMITS = Limits(cpu_s=10.0, memory_bytes=2048 * MIB, output_bytes=64 * MIB)
_CXX = "/usr/bin/g++"
_CXX_SUFFIXES = (".cc", ".cpp", ".cxx", ".c++")
#: Bytes of compiled programs that are kept for their next use.
_CACHE_BYTES = 128 * MIB
_COMPILE_PYTHON = """
import marshal, sys
with open(sys.argv[0], "rb") as file:
    source = file.read()
code = compile(source, sys.argv[0], "exec", dont_inherit=True)
with open("solution.code", "wb") as file:
    marshal.dump(code, file)
"""


class Language(StrEnum):
    """Languages of solutions and validators."""

    PYTHON = "python"
    CPP = "c++"

    @classmethod
    def of(cls, name: str) -> Language | None:
        """By file ending or by the name that a fenced block bears; None for others."""
        name = name.lower().removeprefix(".")
        if name in {"py", "python", "python3", "py3"}:
            return cls.PYTHON
        return cls.CPP if name in {"cpp", "c++", "cc", "cxx", "cpp17", "cpp20", "c++17", "c++20"} else None


@dataclass(frozen=True, slots=True)
class Program:
    """Source files by name; Python starts with `main`, C++ is all source files together."""

    language: Language
    files: Mapping[str, bytes]
    main: str

    @classmethod
    def single(cls, language: Language, source: str) -> Program:
        """A program of one file."""
        name = "solution.py" if language is Language.PYTHON else "solution.cpp"
        return cls(language, {name: source.encode("utf-8", "surrogateescape")}, name)

    @property
    def artifact(self) -> str:
        """Name of the compiled file."""
        return "solution.code" if self.language is Language.PYTHON else "program"


class Sandbox:
    """Opens boxes, compiles programs in them and remembers the outcome. Thread-safe."""

    def __init__(self, choice: Choice = "auto", cxx: bool = True) -> None:
        """Choose a way to isolate, and prove it. Raises SandboxError if none holds."""
        self.back_end: BackEnd = choose(choice)
        self._header = precompiled_header() if cxx else None
        self._lock = threading.Lock()
        self._compiled: OrderedDict[bytes, bytes] = OrderedDict()
        self._bytes = 0

    def open(self, handles: Sequence[int] = (), preload: Sequence[str] = ()) -> Box:
        """A new box; see Box for the arguments. Raises SandboxError."""
        return Box(self.back_end, handles, [] if self._header is None else [str(self._header)], preload)

    def compile(self, box: Box, program: Program, limits: Limits = COMPILE_LIMITS) -> RunResult:
        """Compile a program inside its box, or take it from an earlier time. Raises SandboxError.

        Returns:
            OK, or COMPILE_ERROR with the compiler's words in `stderr` and a limit that stopped it in `detail`.
        """
        for name, content in program.files.items():
            box.put(name, content)
        key = hashlib.sha256(repr((program.language, sorted(program.files.items()), program.main)).encode()).digest()
        with self._lock:
            found = self._compiled.get(key)
            if found is not None:
                self._compiled.move_to_end(key)
        if found is not None:
            box.put(program.artifact, found, executable=program.language is Language.CPP)
            return RunResult(RunStatus.OK, 0)
        result = (
            self._compile_python(box, program, limits) if program.language is Language.PYTHON else self._compile_cxx(box, program, limits)
        )
        if not result.ok:
            return replace(result, status=RunStatus.COMPILE_ERROR)
        self._remember(key, box.get(program.artifact))
        return result

    def run(
        self, box: Box, program: Program, limits: Limits, stdin: bytes = b"", arguments: Sequence[str] = (), **options: object
    ) -> RunResult:
        """Run a compiled program. Raises SandboxError."""
        if program.language is Language.PYTHON:
            return box.run(limits, program=program.artifact, source=program.main, arguments=arguments, stdin=stdin, **options)  # type: ignore[arg-type]
        return box.run(limits, argv=[f"{box.folder}/{program.artifact}", *arguments], stdin=stdin, **options)  # type: ignore[arg-type]

    def _compile_python(self, box: Box, program: Program, limits: Limits) -> RunResult:
        box.put("compiler.code", system_code(_COMPILE_PYTHON, "compiler"))
        keep = {program.artifact: 0o444}
        return box.run(limits, program="compiler.code", source=program.main, keep=keep, writable=True)

    def _compile_cxx(self, box: Box, program: Program, limits: Limits) -> RunResult:
        if not os.path.exists(_CXX):
            raise SandboxError(f"{_CXX} is missing; apt-get install g++")
        sources = [f"{box.folder}/{name}" for name in sorted(program.files) if PurePosixPath(name).suffix in _CXX_SUFFIXES]
        command = [_CXX, *CXX_FLAGS, "-o", f"{box.work}/{program.artifact}", *sources]
        header = [] if self._header is None else [f"-I{self._header}", "-include", "bits/stdc++.h"]
        result = box.run(limits, argv=[*command, *header], profile="compile", keep={program.artifact: 0o555})
        included = any(b"bits/stdc++.h" in content for content in program.files.values())  # then leaving it out changes nothing
        if header and result.status is RunStatus.RUNTIME_ERROR and not included:
            result = box.run(limits, argv=command, profile="compile", keep={program.artifact: 0o555})
        return result

    def _remember(self, key: bytes, content: bytes) -> None:
        with self._lock:
            if key not in self._compiled:
                self._compiled[key] = content
                self._bytes += len(content)
            while self._bytes > _CACHE_BYTES:
                self._bytes -= len(self._compiled.popitem(last=False)[1])


@lru_cache(maxsize=1)
def precompiled_header() -> Path | None:
    """The folder with `bits/stdc++.h` and its precompiled form, made on first use; None without a compiler.

    It holds nothing untrusted and is read by the sandbox's users, so that for root it cannot lie under root's home.
    """
    if not os.path.exists(_CXX):
        return None
    version = subprocess.run([_CXX, "--version"], capture_output=True, text=True, check=True, timeout=60).stdout
    parent = Path("/var/cache/magistral") if os.geteuid() == 0 else cache_folder()
    parent.mkdir(parents=True, exist_ok=True)
    folder = parent / f"stdc++-{hashlib.sha256(repr((version, CXX_FLAGS)).encode()).hexdigest()[:16]}"
    with (parent / "stdc++.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not folder.exists():
            with tempfile.TemporaryDirectory(dir=parent, prefix="stdc++-") as temporary:
                _make_header(Path(temporary))
                os.replace(temporary, folder)
                Path(temporary).mkdir()  # for its removal
    return folder


def _make_header(folder: Path) -> None:
    (folder / "bits").mkdir()
    header = folder / "bits" / "stdc++.h"
    listed = subprocess.run([_CXX, *CXX_FLAGS, "-x", "c++", "-M", "-"], input="#include <bits/stdc++.h>\n", capture_output=True, text=True)
    real = next((word for word in listed.stdout.split() if word.endswith("/bits/stdc++.h")), None)
    if real is None:
        raise SandboxError(f"{_CXX} does not find bits/stdc++.h: {listed.stderr[-300:]}")
    shutil.copy(real, header)
    made = subprocess.run([_CXX, *CXX_FLAGS, "-x", "c++-header", str(header), "-o", f"{header}.gch"], capture_output=True, text=True)
    if made.returncode:
        raise SandboxError(f"{_CXX} cannot precompile bits/stdc++.h: {made.stderr[-300:]}")
    for path in (folder, *folder.rglob("*")):
        path.chmod(0o755 if path.is_dir() else 0o644)
