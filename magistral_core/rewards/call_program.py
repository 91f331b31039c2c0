"""Calls a solution's function inside the sandbox. Run from its code alone; standard library only.

With arguments on standard input (`{"entry": name, "input": text, "forms": {...}}`) it calls the function once and writes the encoded
result as the only line of standard output; what the solution prints goes to standard error. With descriptors 3 and 4 it answers a judge's
requests instead.

It lives in the solution's own process and proves nothing: what it says is data, which the other side reads as plain values and compares
with what was never sent here.
"""

import ast
import importlib
import inspect
import json
import marshal
import os
import re
import sys
import types
from typing import Any

from magistral_core.rewards.plain import decode, encode

_METHOD = "Solution()."
_ASSIGNED = re.compile(r"\s*[^\W\d]\w*\s*=(?!=)")
#: What the sites where such functions come from have imported already, and solutions rely on.
_MODULES = "bisect collections copy datetime functools heapq io itertools json math operator random re statistics string sys"
_NAMES = {
    "typing": "Any Callable DefaultDict Deque Dict FrozenSet Generator Generic Iterable Iterator List Mapping NamedTuple Optional Sequence "
    "Set Tuple TypeVar Union",
    "collections": "ChainMap Counter OrderedDict defaultdict deque namedtuple",
    "functools": "cache cached_property cmp_to_key lru_cache partial reduce total_ordering wraps",
    "itertools": "accumulate chain combinations combinations_with_replacement compress count cycle dropwhile filterfalse groupby islice "
    "pairwise permutations product repeat starmap takewhile tee zip_longest",
    "heapq": "heapify heappop heappush heappushpop heapreplace merge nlargest nsmallest",
    "bisect": "bisect_left bisect_right insort insort_left insort_right",
    "math": "acos asin atan atan2 ceil comb cos dist exp fabs factorial floor fmod gcd hypot inf isclose isqrt lcm log log10 log2 nan perm "
    "pi prod sin sqrt tan trunc",
    "operator": "add and_ attrgetter concat eq floordiv ge gt itemgetter le lt mod mul ne neg or_ sub truediv xor",
    "string": "ascii_letters ascii_lowercase ascii_uppercase digits punctuation",
    "random": "choice choices randint randrange sample shuffle uniform",
    "re": "findall finditer fullmatch",
    "statistics": "mean median",
    "datetime": "date timedelta",
    "copy": "deepcopy",
    "json": "dumps loads",
    "sys": "maxsize setrecursionlimit",
}
_PRELUDE = {
    **{name: (module, name) for module, names in _NAMES.items() for name in names.split()},
    **{name: (name, "") for name in _MODULES.split()},
}


def prelude(code: types.CodeType, entry: str) -> dict[str, Any]:
    """Those of them that a solution names, but what it is asked for; what it defines or imports itself takes their place."""
    named: set[str] = set()
    codes = [code]
    while codes:
        code = codes.pop()
        named.update(code.co_names)
        codes += [constant for constant in code.co_consts if isinstance(constant, types.CodeType)]
    found = {}
    for name in (named & _PRELUDE.keys()) - {entry.removeprefix(_METHOD)}:
        module, attribute = _PRELUDE[name]
        found[name] = getattr(importlib.import_module(module), attribute) if attribute else importlib.import_module(module)
    return found


def load_solution(entry: str = "") -> dict[str, Any]:
    """The names that the solution defines; with an `entry` as the sites run it that ask for functions."""
    module = types.ModuleType("solution")
    sys.modules["solution"] = module
    with open(os.path.join(os.path.dirname(sys.argv[0]), "solution.code"), "rb") as file:
        code = marshal.load(file)
    if entry:
        module.__dict__.update(prelude(code, entry))
    exec(code, module.__dict__)
    return module.__dict__


def find(names: dict[str, Any], entry: str) -> Any:
    """The function, or the method of a class `Solution`, which may be named `Solution().method`."""
    entry = entry.removeprefix(_METHOD)
    if entry not in names and isinstance(names.get("Solution"), type):
        return getattr(names["Solution"](), entry)
    return names[entry]


def takes(function: Any, count: int) -> bool:
    """Whether it can be called with so many arguments; a builtin may not say."""
    try:
        inspect.signature(function).bind(*[None] * count)
    except TypeError:
        return False
    except ValueError:
        pass
    return True


def one_value(function: Any, forms: dict[str, Any]) -> bool:
    """Whether a list is the only argument of a function and not all of them, by the inputs of all tests, which have one form.

    It is where a test has a value that is no list, or where the lists of all tests do not fit the function as its arguments.
    """
    return takes(function, 1) and (forms["single"] or not all(takes(function, size) for size in forms["sizes"]))


def arguments(text: str, function: Any, forms: dict[str, Any]) -> tuple[list[Any], dict[str, Any]]:
    """A test's arguments: a JSON list of all, a JSON value a line, Python literals, or `nums = [3, 3], target = 6`.

    `forms` is what `calls.forms` says of all tests.
    """
    try:
        values = [json.loads(text)]
    except ValueError:
        try:
            values = [json.loads(line) for line in text.splitlines() if line.strip()]
            return values, {}
        except ValueError:
            try:
                return list(ast.literal_eval(f"({text.strip()},)")), {}
            except (ValueError, SyntaxError):
                shown = assigned(text)
                in_order: list[tuple[Any, Any]] = [(list(shown.values()), {})] if forms["assigned"] else []
                return fitting(function, ([], shown), *in_order, ([text], {})) if shown else ([text], {})
    if isinstance(values[0], list) and one_value(function, forms):
        return values, {}
    return fitting(function, (values[0], {}), ([], values[0]), (values, {}))


def fitting(function: Any, *ways: tuple[Any, Any]) -> tuple[list[Any], dict[str, Any]]:
    """The first of several ways to give arguments, by place and by name, that a function takes; the last if none."""
    for positional, named in ways:
        if isinstance(positional, list) and isinstance(named, dict):
            try:
                inspect.signature(function).bind(*positional, **named)
            except TypeError:
                continue
            except ValueError:  # a builtin without a signature
                if named:
                    continue
            return positional, named
    return ways[-1]


def assigned(text: str) -> dict[str, Any]:
    """The arguments of `nums = [3, 3], target = 6`, also a line each, as JSON or Python's literals; empty if the text is none of these."""
    if not _ASSIGNED.match(text):  # most are JSON, perhaps of megabytes
        return {}
    for call in dict.fromkeys((f"f({text})", f"f({','.join(text.splitlines())})")):
        try:
            node = ast.parse(call, mode="eval").body
        except (SyntaxError, ValueError, MemoryError, RecursionError):
            continue
        if isinstance(node, ast.Call) and node.keywords and not node.args and all(keyword.arg for keyword in node.keywords):
            try:
                return {str(keyword.arg): literal(ast.get_source_segment(call, keyword.value) or "") for keyword in node.keywords}
            except (SyntaxError, ValueError, TypeError, MemoryError, RecursionError):
                continue
    return {}


def literal(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return ast.literal_eval(text)


def call_once() -> None:
    request = json.load(sys.stdin)
    result = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    function = find(load_solution(request["entry"]), request["entry"])
    positional, named = arguments(request["input"], function, request["forms"])
    json.dump(encode(function(*positional, **named)), result)
    result.close()


def answer_judge() -> None:
    requests, replies = os.fdopen(3, encoding="utf-8"), os.fdopen(4, "w", encoding="utf-8")
    names = load_solution()
    refs: list[Any] = []
    for line in requests:
        request = json.loads(line)
        try:
            value = perform(request, names, refs)
            reply: dict[str, Any] = {"value": encode(value, refs)}
        except Exception as error:  # whatever the solution raises is the answer
            kind = next(base.__name__ for base in type(error).__mro__ if base.__module__ == "builtins")
            reply = {"error": f"{type(error).__name__}: {error}"[:300], "kind": kind}
        replies.write(json.dumps(reply) + "\n")
        replies.flush()


def perform(request: dict[str, Any], names: dict[str, Any], refs: list[Any]) -> Any:
    if request["do"] == "name":
        return find(names, request["name"])
    target = refs[request["ref"]]
    if request["do"] == "get":
        return getattr(target, request["name"])
    if request["do"] == "iter":
        return list(target)
    if request["do"] == "set":
        setattr(target, request["name"], decode(request["value"], refs))
        return None
    positional, named = decode(request["arguments"], refs), decode(request["named"], refs)
    return target(*positional, **named)


if __name__ == "__main__":
    answer_judge() if sys.argv[1:] == ["judge"] else call_once()
