"""A user's own reward functions: `rewards.extra: [module:function]`, imported and called in worker processes only.

A function takes keyword arguments and returns a number, which is added to the reward:

    def reward(*, problem, response, thoughts, answer, length) -> float

`problem` is a `Problem`, `response` the whole text, `thoughts` and `answer` its two parts, `length` its generated tokens.
"""

from __future__ import annotations

import importlib
import inspect
import math
from collections.abc import Callable, Sequence

from magistral_core.errors import InputError

Reward = Callable[..., float]
ARGUMENTS = ("problem", "response", "thoughts", "answer", "length")
#: Names of the built-in parts, and of their sum's metric, which a user's function cannot take.
BUILT_IN_PARTS = ("format", "correct", "length", "language", "mean")


def part_names(specs: Sequence[str]) -> tuple[str, ...]:
    """The part of each `module:function`, which is the function's name. Raises InputError for a wrong form or a name used twice."""
    names: list[str] = []
    for spec in specs:
        module, colon, function = spec.partition(":")
        if not (colon and function.isidentifier() and all(part.isidentifier() for part in module.split("."))):
            raise InputError(f"rewards.extra: {spec!r} is not of the form module:function")
        if function in BUILT_IN_PARTS or function in names:
            raise InputError(f"rewards.extra: {spec}: a reward part named {function!r} exists already; rename the function")
        names.append(function)
    return tuple(names)


def load_functions(specs: Sequence[str]) -> list[Reward]:
    """Import the functions and check that they can be called. Raises InputError that names the field and the function."""
    functions = []
    for spec in specs:
        module_name, _, name = spec.partition(":")
        try:
            module = importlib.import_module(module_name)
        except Exception as error:  # a user's module may fail in any way while it is imported
            raise InputError(f"rewards.extra: {spec}: cannot import {module_name} ({type(error).__name__}: {_line(error)})") from error
        function = getattr(module, name, None)
        if function is None:
            raise InputError(f"rewards.extra: {spec}: {module_name} ({module.__file__}) has no function {name}")
        if not callable(function):
            raise InputError(f"rewards.extra: {spec}: {name} is a {type(function).__name__}, not a function")
        try:
            inspect.signature(function).bind(**dict.fromkeys(ARGUMENTS))
        except TypeError as error:
            raise InputError(f"rewards.extra: {spec}: must take the keyword arguments {', '.join(ARGUMENTS)} ({_line(error)})") from error
        functions.append(function)
    return functions


def check_value(value: object) -> float:
    """A reward function's result as a float. Raises TypeError or ValueError if it is not a finite number."""
    if not isinstance(value, int | float) and not hasattr(value, "__float__"):
        raise TypeError(f"returned {value!r:.80} instead of a number")
    number = float(value)  # type: ignore[arg-type]
    if not math.isfinite(number):
        raise ValueError(f"returned {number}")
    return number


def _line(error: BaseException) -> str:
    return " ".join(str(error).split())[:200]
