"""Runs a problem's own checks (the `assert` lines of HumanEval and MBPP) in a sandbox beside the solution's. Standard library only.

The solution is not in this process. Its names are proxies here, whose calls go through descriptors 3 and 4 to the process that has it; what
comes back is a plain value, or a proxy again. So the solution sees the arguments and never the expected results, and no `__eq__` of its own
is asked.

Standard input: `{"entry": name, "checks": [code], "stop": bool}`; standard output: one JSON list with null or what failed, a check each.
"""

import ast
import builtins
import importlib
import json
import os
import sys
from typing import Any

from magistral_core.rewards.plain import decode, encode

#: A longer answer is no result that a check expects.
_LONGEST_ANSWER = 16 << 20


#: What no check may take from a solution for its own: a failed assertion, the end of a loop; and what cannot be made of a text alone.
_NOT_TOLD = (AssertionError, StopIteration, StopAsyncIteration, UnicodeError, BaseExceptionGroup)


class SolutionError(Exception):
    """The solution raised, ended or answered nonsense."""


class Remote:
    """A function, class or object of the solution."""

    def __init__(self, link: "Link", ref: int) -> None:
        object.__setattr__(self, "_link", link)
        object.__setattr__(self, "_ref", ref)

    def __call__(self, *positional: Any, **named: Any) -> Any:
        return self._link.ask(do="call", ref=self._ref, arguments=pack(list(positional)), named=pack(named))

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return self._link.ask(do="get", ref=self._ref, name=name)

    def __iter__(self) -> Any:
        """What a `map`, a generator or a view of the solution's holds, taken from it at once."""
        return iter(self._link.ask(do="iter", ref=self._ref))

    def __setattr__(self, name: str, value: Any) -> None:
        self._link.ask(do="set", ref=self._ref, name=name, value=pack(value))


def pack(value: Any) -> Any:
    """Arguments as JSON, proxies by their number."""
    if isinstance(value, Remote):
        return {"t": "ref", "v": value._ref}
    if isinstance(value, list):
        return [pack(item) for item in value]
    if isinstance(value, tuple):
        return {"t": "tuple", "v": [pack(item) for item in value]}
    if isinstance(value, dict):
        return {"t": "dict", "v": [[pack(key), pack(item)] for key, item in value.items()]}
    return encode(value)


class _Refs:
    """Numbers of the solution's objects to proxies."""

    def __init__(self, link: "Link") -> None:
        self._link = link

    def __getitem__(self, ref: int) -> Remote:
        return Remote(self._link, int(ref))


class Link:
    """The two pipes to the solution's process."""

    def __init__(self) -> None:
        self._replies, self._requests = os.fdopen(3, encoding="utf-8", errors="replace"), os.fdopen(4, "w", encoding="utf-8")

    def ask(self, **request: Any) -> Any:
        try:
            self._requests.write(json.dumps(request) + "\n")
            self._requests.flush()
            line = self._replies.readline(_LONGEST_ANSWER)
            reply = json.loads(line) if line.endswith("\n") else None
            if not isinstance(reply, dict):
                raise SolutionError("it ended, or answered too much" if reply is None else "it answered nonsense")
            if "value" in reply:
                return decode(reply["value"], _Refs(self))
        except (OSError, ValueError, TypeError, KeyError, RecursionError) as error:
            raise SolutionError(f"no answer ({type(error).__name__})") from error
        raise raised(str(reply.get("kind")))(str(reply.get("error"))[:300])


def raised(kind: str) -> type[SolutionError]:
    """What a check sees where the solution raised: an exception of Python's by its name, for a check may expect one."""
    known = getattr(builtins, kind, None)
    plain = isinstance(known, type) and issubclass(known, Exception) and not issubclass(known, _NOT_TOLD)
    return type(kind, (SolutionError, known), {}) if plain else SolutionError  # type: ignore[arg-type]


def solutions_names(code: str, link: Link, given: set[str]) -> dict[str, Any]:
    """The names that a check uses and does not make: modules of Python's, and the solution's, but for what is `given` or built in.

    A function may bear a name of Python's (MBPP has a `sum`). That is believed only of a check that names nothing else of the solution's:
    else a solution could bring a `set`, an `abs` or a `math` of its own into the comparison.
    """
    unknown = free_names(code) - given
    modules = {name: importlib.import_module(name) for name in unknown & sys.stdlib_module_names if is_module(name, code)}
    unknown -= modules.keys()
    names = unknown - set(dir(builtins))
    if names or given:
        return modules | {name: link.ask(do="name", name=name) for name in names}
    found: dict[str, Any] = {}
    for name in unknown:
        try:
            found[name] = link.ask(do="name", name=name)
        except SolutionError:
            continue
    if not found:
        raise SolutionError(f"it defines none of {', '.join(sorted(unknown))}")
    return modules | found


def is_module(name: str, code: str) -> bool:
    """Whether a check uses a name as a module's, `math.pi`, and never by itself: a solution's function may bear a module's name."""
    nodes = list(ast.walk(ast.parse(code)))
    bases = [node.value for node in nodes if isinstance(node, ast.Attribute)]
    return all(node in bases for node in nodes if isinstance(node, ast.Name) and node.id == name)


def is_broken(error: Exception, code: str) -> bool:
    """Whether a check fails by its own fault: it lacks a module that it imports, or a name. What it evaluates may lack any."""
    if isinstance(error, NameError):
        return error.name in free_names(code)
    if not isinstance(error, ImportError):
        return False
    imports = [node for node in ast.walk(ast.parse(code)) if isinstance(node, ast.Import | ast.ImportFrom)]
    named = {alias.name for node in imports for alias in node.names} | {getattr(node, "module", None) for node in imports}
    return str(error.name).partition(".")[0] in {str(name).partition(".")[0] for name in named}


def free_names(code: str) -> set[str]:
    """Names that a check uses and does not make itself."""
    used: set[str] = set()
    made: set[str] = set()
    for node in ast.walk(ast.parse(code)):
        if isinstance(node, ast.Name):
            (used if isinstance(node.ctx, ast.Load) else made).add(node.id)
        elif isinstance(node, ast.FunctionDef | ast.ClassDef):
            made.add(node.name)
        elif isinstance(node, ast.arg):
            made.add(node.arg)
        elif isinstance(node, ast.alias):
            made.add((node.asname or node.name).partition(".")[0])
        elif isinstance(node, ast.ExceptHandler | ast.MatchAs | ast.MatchStar) and node.name:
            made.add(node.name)
    return used - made


def main() -> None:
    request, link = json.load(sys.stdin), Link()
    result = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # what a check prints is no part of the result
    results: list[str | None] = []
    for code in request["checks"]:
        compiled = compile(code, "<check>", "exec")  # a syntax error is the check's own, and no verdict
        fault = None
        try:
            names: dict[str, Any] = {"__name__": "check"}
            if request["entry"]:
                names["candidate"] = link.ask(do="name", name=request["entry"])
            names |= solutions_names(code, link, names.keys() & {"candidate"})
            exec(compiled, names)
        except AssertionError as error:
            fault = f"assertion failed {error}".strip()[:300]
        except SolutionError as error:
            fault = f"the solution failed: {error}"
        except Exception as error:  # a result of a kind that the check did not expect
            if is_broken(error, code):
                raise
            fault = f"{type(error).__name__}: {error}"[:300]
        results.append(fault)
        if fault is not None and request["stop"]:
            break
    json.dump(results, result)
    result.close()


if __name__ == "__main__":
    main()
