"""Comparing outputs and results, without a sandbox."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from magistral_core.errors import InputError
from magistral_core.rewards.outputs import Comparison, expected_value, same_result
from magistral_core.rewards.plain import decode, encode


def same(expected: str, got: str, flags: str = "") -> bool:
    return not Comparison.from_flags(flags.split()).difference(expected, got)


@pytest.mark.parametrize(
    ("expected", "got", "flags", "equal"),
    [
        ("1 2\n3\n", "1  2 3", "", True),
        ("1 2\n3\n", "1  2 3", "space_change_sensitive", False),
        ("1 2\n", "1 2\n", "space_change_sensitive", True),
        ("Yes", "yes", "", True),
        ("Yes", "yes", "case_sensitive", False),
        ("1000000", "1000001", "", False),
        ("1000000", "1000001", "float_tolerance 1e-5", True),
        ("1000000", "1000001", "float_absolute_tolerance 1e-5", False),
        ("1000000", "1000001", "float_relative_tolerance 1e-5", True),
        ("0.5", "0.50", "", False),
        ("0.5", ".50", "float_absolute_tolerance 1e-9", True),
        ("0.0", "1e-7", "float_relative_tolerance 1e-6", False),
        ("0.0", "1e-7", "float_absolute_tolerance 1e-6", True),
        ("0.0", "nan", "float_tolerance 1e9", False),
        ("0.0", "inf", "float_tolerance 1e9", False),
        ("1000", "1_000", "float_tolerance 1e-9", False),
        ("1", "1 1", "", False),
        ("1 1", "1", "", False),
        ("", "", "", True),
        ("", "\n", "", True),
        ("a", "", "", False),
        ("Case 1: 0.5", "case 1: 0.5000001", "float_tolerance 1e-6", True),
    ],
)
def test_outputs(expected: str, got: str, flags: str, equal: bool) -> None:
    assert same(expected, got, flags) is equal


@given(st.text(), st.sampled_from(["", "case_sensitive", "space_change_sensitive", "float_tolerance 1e-6"]))
def test_every_output_equals_itself(text: str, flags: str) -> None:
    assert same(text, text, flags)


@given(st.integers(), st.integers())
def test_integers_are_exact(a: int, b: int) -> None:
    assert same(str(a), str(b)) is (a == b)


@pytest.mark.parametrize("flags", ["float_tolerance", "float_tolerance x", "float_tolerance -1", "float_tolerance nan", "frobnicate"])
def test_wrong_flags_are_refused(flags: str) -> None:
    with pytest.raises(InputError, match="validator_flags"):
        Comparison.from_flags(flags.split())


@pytest.mark.parametrize(
    ("expected", "got", "equal"),
    [
        (3, 3, True), (3, 4, False), (3, 3.0, True), (True, 1, False), (1, True, False), (0.1 + 0.2, 0.3, True), (0.3, 0.3001, False),
        ([1, 2], (1, 2), True), ([1, [2]], ([1, (2,)]), True), ([1, 2], [2, 1], False), ({"1": 2}, {1: 2}, True),
        ({"a": 1}, {"a": 2}, False), ({"1": 1}, {10**5000: 1}, False),
        ({1, 2}, {2, 1}, True), ([1, 2], {1, 2}, False), (None, None, True), (None, 0, False), ("a", "a", True), ("1", 1, False),
        (1_500_000_000, 1_500_000_000.5, False), (10**12 + 1, 1e12, False), (10**6, 10**6 + 1e-10, True), (10**6, 10**6 + 0.0, True),
        (math.inf, math.inf, True), (math.nan, math.nan, True), (10**400, 1.0, False), (10**400, 10**400, True), (b"x", b"x", True),
    ],
)  # fmt: skip
def test_results(expected: Any, got: Any, equal: bool) -> None:
    assert same_result(expected, got) is equal


@pytest.mark.parametrize(
    ("text", "value"), [("[1, 2]", [1, 2]), ("(1, 2)", (1, 2)), ("True", True), ("plain words", "plain words"), ('"a"', "a")]
)
def test_expected_values(text: str, value: Any) -> None:
    assert expected_value(text) == value


def test_tolerances_of_results() -> None:
    near = Comparison(relative=1e-5, absolute=1e-5)
    assert same_result([2.66667], [8 / 3], near) and not same_result([2.66667], [8 / 3])
    assert not same_result(2.66667, 2.7, near)
    assert not same_result(0.5, 0.6, Comparison(absolute=0.01)) and same_result(0.5, 0.505, Comparison(absolute=0.01))


def test_what_is_beyond_all_floats_is_near_nothing() -> None:
    near = Comparison(relative=1e-6)
    assert same_result(math.inf, math.inf, near) and not same_result(math.inf, 3.0, near) and not same_result(3.0, -math.inf, near)
    assert not same("1" + "0" * 309, "5", "float_tolerance 1e-6")


def test_a_result_of_endless_depth_equals_nothing() -> None:
    nest: list[Any] = []
    for _ in range(5000):
        nest = [nest]
    assert not same_result(nest, nest)


_PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.binary(),
    lambda inner: st.lists(inner, max_size=4) | st.tuples(inner, inner) | st.dictionaries(st.text() | st.integers(), inner, max_size=4),
    max_leaves=12,
)


@given(_PLAIN)
def test_plain_values_come_back(value: Any) -> None:
    back = decode(json.loads(json.dumps(encode(value))), [])
    assert repr(back) == repr(value)  # nan is not equal to itself


def test_others_come_back_as_numbers_or_not_at_all() -> None:
    kept: list[Any] = []
    thing = object()
    assert decode(encode([thing], kept), kept) == [thing]
    with pytest.raises(TypeError):
        decode(encode(thing), [])
    assert decode(encode([int, {"a": str}]), []) == [int, {"a": str}]
    with pytest.raises(KeyError):
        decode({"t": "type", "v": "eval"}, [])
