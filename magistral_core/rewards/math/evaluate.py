"""Values of expressions: exact fractions as far as they reach, then mpmath with as many digits as the comparison asks for.

Exact arithmetic is safe anywhere (powers are bounded in size). Without `digits` an evaluator refuses everything else, so that the
training process decides plain answers itself and leaves the rest to a worker that can be killed.
"""

from __future__ import annotations

import functools
import math
import random
from collections.abc import Mapping
from fractions import Fraction
from typing import Any

from magistral_core.rewards.math.nodes import Const, Group, Node, Num, Op, Quantity, Sym

#: Bits of a power or factorial that is computed exactly.
MAX_BITS = 60_000
#: Bits of all exact results of one evaluator together. It bounds their sizes as well, so that no chain of products grows or lasts.
MAX_TOTAL_BITS = 4 * MAX_BITS
_MAX_FACTORIAL = 3000
_MAX_CALL_DIGITS = 30


class InexactError(ArithmeticError):
    """The value is not a fraction, and no digits were allowed."""


class TooLargeError(ArithmeticError):
    """Numbers too large to write out. No rounding decides them: two that differ would pass for equal."""


class UndefinedError(ArithmeticError):
    """The expression has no value here: a division by zero, a root outside the reals, or not a number at all."""


@functools.lru_cache(maxsize=1)
def _mpmath() -> Any:
    import mpmath

    return mpmath.MPContext()


class Evaluator:
    """Computes values with given variables.

    Args:
        variables: value of each variable.
        digits: decimal digits for what is not a fraction; None refuses it with InexactError.
        real: treat even roots and logarithms of negative numbers as undefined, for expressions in real variables.

    Attributes:
        spread: bits between the sizes of the largest and the smallest summand so far: as many the one needs to be seen beside the other.
    """

    def __init__(self, variables: Mapping[str, Fraction] | None = None, digits: int | None = None, real: bool = False) -> None:
        self._variables = variables or {}
        self._real = real
        self.digits = digits
        self._sizes: list[int] = []
        self._bits_left = MAX_TOTAL_BITS
        self._context: Any = None
        if digits is not None:
            self._context = _mpmath()
            self._context.dps = digits

    @property
    def spread(self) -> int:
        return self._sizes[1] - self._sizes[0] if self._sizes else 0

    def finer(self, digits: int) -> Evaluator:
        """One that computes the same with more digits. Its values may be compared with this one's."""
        return Evaluator(self._variables, digits, self._real)

    def value(self, node: Node) -> Any:
        """A Fraction or an mpmath number. Raises UndefinedError, InexactError, TooLargeError."""
        match node:
            case Num():
                return node.value
            case Sym():
                if node.name not in self._variables:
                    raise UndefinedError(node.name)
                return self._variables[node.name]
            case Const("pi" | "e" | "i" | "infinity"):
                ctx = self._inexact()
                return {"pi": +ctx.pi, "e": +ctx.e, "i": ctx.mpc(0, 1), "infinity": ctx.inf}[node.name]
            case Quantity(inside, "degree"):
                return self.value(Op("deg", (inside,)))
            case Group("[]", (inside,)):
                return self.value(inside)
            case Op():
                return self._operate(node)
            case _:
                raise UndefinedError("not a number")

    def close(self, a: Any, b: Any) -> bool:
        """Whether two values agree: fractions exactly, others but for the last ten of the digits relative to their size."""
        if isinstance(a, Fraction) and isinstance(b, Fraction):
            return a == b
        ctx = self._inexact()
        a, b = self._convert(a), self._convert(b)
        if ctx.isinf(a) or ctx.isinf(b):
            return bool(a == b)
        return bool(abs(a - b) <= ctx.mpf(10) ** (10 - ctx.dps) * max(abs(a), abs(b)))

    def tiny(self, value: Any) -> bool:
        """Whether a value may be a zero that rounding hides."""
        return not isinstance(value, Fraction) and bool(abs(value) < self._context.mpf(10) ** (-self._context.dps / 2))

    def _inexact(self) -> Any:
        if self._context is None:
            raise InexactError
        return self._context

    def _convert(self, value: Any) -> Any:
        ctx = self._inexact()
        return ctx.mpf(value.numerator) / value.denominator if isinstance(value, Fraction) else value

    def _checked(self, value: Any) -> Any:
        ctx = self._context
        if ctx.isnan(value):
            raise UndefinedError("no value")
        if isinstance(value, ctx.mpc):
            if abs(value.imag) <= ctx.mpf(10) ** (5 - ctx.dps) * abs(value.real):
                return value.real
            if self._real:
                raise UndefinedError("not real")
        return value

    def _operate(self, node: Op) -> Any:
        if node.name.startswith("call:"):
            return self._call(node)
        if node.name == "deg":
            return self._times(self.value(node.args[0]), self._inexact().pi / 180)
        values = [self.value(argument) for argument in node.args]
        a = values[0]
        b = values[1] if len(values) > 1 else None
        match node.name:
            case "add":
                return self._plus(a, b)
            case "neg":
                return -a
            case "mul":
                return self._times(a, b)
            case "div":
                return self.quotient(a, b)
            case "percent":
                return self.quotient(a, Fraction(100))
            case "pow":
                return self._power(a, b)
            case "sqrt":
                return self._root(a, 2)
            case "root":
                if not isinstance(b, Fraction) or b.denominator != 1 or not 1 <= b <= MAX_BITS:
                    raise UndefinedError("the degree of a root")
                return self._root(a, int(b))
            case "abs":
                return abs(a)
            case "factorial":
                return self._factorial(a)
            case "binom":
                return self._binomial(a, b)
            case "floor" | "ceil":
                if isinstance(a, Fraction):
                    return Fraction(math.floor(a) if node.name == "floor" else math.ceil(a))
                return self._checked(getattr(self._context, node.name)(a))
            case "max" | "min" | "gcd" | "lcm":
                return self._of_list(node.name, values)
            case _:
                return self._function(node.name, a, b)

    def _kept(self, value: Fraction) -> Fraction:
        """An exact result, if what may be computed holds it."""
        self._bits_left -= max(value.numerator.bit_length(), value.denominator.bit_length())
        if self._bits_left < 0:
            raise TooLargeError("numbers too large to write out")
        return value

    def _plus(self, a: Any, b: Any) -> Any:
        if isinstance(a, Fraction) and isinstance(b, Fraction):
            return self._kept(a + b)
        a, b = self._convert(a), self._convert(b)
        sizes = [*self._sizes, *(self._context.mag(x) for x in (a, b) if x and self._context.isfinite(x))]
        self._sizes = [min(sizes), max(sizes)] if sizes else []
        return self._checked(a + b)

    def _times(self, a: Any, b: Any) -> Any:
        if isinstance(a, Fraction) and isinstance(b, Fraction):
            return self._kept(a * b)
        return self._checked(self._convert(a) * self._convert(b))

    def quotient(self, a: Any, b: Any) -> Any:
        """One value by another."""
        if b == 0:
            raise UndefinedError("a division by zero")
        if isinstance(a, Fraction) and isinstance(b, Fraction):
            return self._kept(a / b)
        return self._checked(self._convert(a) / self._convert(b))

    def _power(self, a: Any, b: Any) -> Any:
        if a == 0:
            if b == 0:
                return Fraction(1)
            if not isinstance(b, Fraction) or b < 0:
                raise UndefinedError("a power of zero")
            return Fraction(0)
        if isinstance(a, Fraction) and isinstance(b, Fraction):
            size = max(a.numerator.bit_length(), a.denominator.bit_length())
            if b.denominator == 1 and size * abs(b) <= MAX_BITS:
                return self._kept(a ** int(b))
            if (
                a > 0
                and b.denominator <= 64
                and abs(b.numerator) * size <= MAX_BITS
                and (root := _exact_root(a, b.denominator)) is not None
            ):
                return self._kept(root**b.numerator)
        ctx = self._inexact()
        if self._real and not (isinstance(b, Fraction) and b.denominator == 1) and self._convert(a) < 0:
            raise UndefinedError("a power of a negative number")
        return self._checked(ctx.power(self._convert(a), self._convert(b)))

    def _root(self, a: Any, degree: int) -> Any:
        if isinstance(a, Fraction):
            if a < 0 and degree % 2:
                return -self._root(-a, degree)
            if a >= 0 and (root := _exact_root(a, degree)) is not None:
                return self._kept(root)
        ctx = self._inexact()
        a = self._convert(a)
        if not isinstance(a, ctx.mpc) and a < 0:
            if degree % 2:
                return -ctx.root(-a, degree)
            if self._real:
                raise UndefinedError("an even root of a negative number")
        return self._checked(ctx.root(a, degree))

    def _factorial(self, a: Any) -> Any:
        if isinstance(a, Fraction) and a.denominator == 1:
            if not 0 <= a <= _MAX_FACTORIAL:
                raise UndefinedError("a factorial out of range")
            return self._kept(Fraction(math.factorial(int(a))))
        ctx = self._inexact()
        if abs(a) > _MAX_FACTORIAL:
            raise UndefinedError("a factorial out of range")
        return self._checked(ctx.gamma(self._convert(a) + 1))

    def _binomial(self, a: Any, b: Any) -> Any:
        whole = all(isinstance(x, Fraction) and x.denominator == 1 and 0 <= x <= _MAX_FACTORIAL for x in (a, b))
        if whole:
            return self._kept(Fraction(math.comb(int(a), int(b))))
        ctx = self._inexact()
        if max(abs(a), abs(b)) > _MAX_FACTORIAL:
            raise UndefinedError("a binomial coefficient out of range")
        return self._checked(ctx.binomial(self._convert(a), self._convert(b)))

    def _of_list(self, name: str, values: list[Any]) -> Fraction:
        if not all(isinstance(value, Fraction) for value in values):
            raise UndefinedError(f"{name} of what is not rational")
        if name in ("max", "min"):
            return Fraction(max(values) if name == "max" else min(values))
        if any(value.denominator != 1 for value in values):
            raise UndefinedError(f"{name} of fractions")
        join = math.gcd if name == "gcd" else math.lcm
        return functools.reduce(lambda a, b: self._kept(Fraction(join(int(a), int(b)))), values, Fraction(join()))

    def _call(self, node: Op) -> Fraction:
        """A value of an unknown function: any number that depends on its name and arguments only."""
        arguments = [self.value(argument) for argument in node.args]
        if self._context is not None:
            arguments = [self._context.nstr(self._convert(argument), _MAX_CALL_DIGITS) for argument in arguments]
        return Fraction(random.Random(f"{node.name}{arguments}").randint(1, 10**12), 10**9 + 7)

    def _function(self, name: str, a: Any, base: Any) -> Any:
        ctx = self._inexact()
        x = self._convert(a)
        try:
            if name in ("ln", "log"):
                if x == 0 or (self._real and x < 0):
                    raise UndefinedError("a logarithm of zero or less")
                result = ctx.ln(x)
                if name == "log":
                    result /= ctx.ln(10 if base is None else self._convert(base))
                return self._checked(result)
            if name == "cis":
                return self._checked(ctx.expj(x))
            return self._checked(getattr(ctx, _MPMATH_NAMES.get(name, name))(x))
        except (ZeroDivisionError, ValueError, AttributeError, OverflowError):
            raise UndefinedError(name) from None


_MPMATH_NAMES = {
    "arcsin": "asin", "arccos": "acos", "arctan": "atan", "arccot": "acot", "arcsec": "asec", "arccsc": "acsc",
    "arcsinh": "asinh", "arccosh": "acosh", "arctanh": "atanh",
}  # fmt: skip


def _exact_root(value: Fraction, degree: int) -> Fraction | None:
    """The root if it is a fraction."""
    top, bottom = _integer_root(value.numerator, degree), _integer_root(value.denominator, degree)
    return None if top is None or bottom is None else Fraction(top, bottom)


def _integer_root(number: int, degree: int) -> int | None:
    root = math.isqrt(number) if degree == 2 else _floor_root(number, degree)
    return root if root**degree == number else None


def _floor_root(number: int, degree: int) -> int:
    """The largest integer whose power is not above the number: by Newton's method, from the root of the leading half of its digits."""
    if number < 2 or degree == 1:
        return number
    bits = number.bit_length()
    if bits <= degree:
        return 1
    dropped = bits // (2 * degree)
    start = _floor_root(number >> dropped * degree, degree) + 1 if dropped else 1 << -(-bits // degree)
    root = start << dropped  # never below the root, from where each step goes down to it
    while (better := ((degree - 1) * root + number // root ** (degree - 1)) // degree) < root:
        root = better
    return root
