"""From the outputs of one test to answers with the voters behind them, by the problem's own comparison.

Two outputs that differ in their bytes may both be right: within a tolerance, in another order, or because a validator takes many. So an
output stands behind an answer if it would pass with that answer as the expected one.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from magistral_core.curation.code.draft import Test
from magistral_core.curation.code.votes import GIVEN, Answer
from magistral_core.records import TestCase
from magistral_core.rewards.validator import ValidatorError

#: What tells how an output differs from a test's expected one; empty if they count as equal.
Difference = Callable[[TestCase, str], str]


def answers_of(test: Test, outputs: Sequence[str | None], difference: Difference, every: bool) -> list[Answer]:
    """The answers proposed for a test, the given one first and the others in an order of their own, so that ties fall the same way.

    Args:
        test: with its given output, if it has one.
        outputs: of each solution; None where its run failed.
        difference: the problem's comparison.
        every: take every output for a possible answer. False saves the runs of a validator where it has nothing to decide: if most
            outputs pass with the given answer, each of the others stands alone.

    An output with which the comparison breaks (a validator that reads it as a number, say) stands behind no answer but its own.

    Raises:
        ValidatorError: the comparison breaks with every output. SandboxError: it could not be made.
    """
    by_text: dict[str, set[int]] = {}
    for voter, text in enumerate(outputs):
        if text is not None:
            by_text.setdefault(text, set()).add(voter)
    by_text = dict(sorted(by_text.items()))
    if test.output is not None:
        by_text = {test.output: by_text.pop(test.output, set()) | {GIVEN}, **by_text}
    found: list[Answer] = []
    faults: list[ValidatorError] = []
    answered = False

    def passes(test_with: TestCase, text: str) -> bool:
        nonlocal answered
        try:
            same = not difference(test_with, text)
        except ValidatorError as error:
            faults.append(error)
            return False
        answered = True
        return same

    for candidate, own in by_text.items():
        test_with = TestCase(test.input, candidate)
        given = GIVEN in own
        behind: set[int] = set()
        # The file's answer may hold less than an output must; any other has to pass as its own.
        if given or ((every or _undecided(found, outputs)) and passes(test_with, candidate)):
            others = (voters for text, voters in by_text.items() if text != candidate and passes(test_with, text))
            behind = own.union(*others)
        if behind:
            found.append(Answer(candidate, frozenset(behind)))
        else:
            found += [Answer(candidate, frozenset({voter})) for voter in sorted(own)]
    if faults and not answered:
        raise faults[0]
    return found


def _undecided(found: Sequence[Answer], outputs: Sequence[str | None]) -> bool:
    """Whether the given answer, which is the first, is missing or refuses at least half of the outputs."""
    ran = sum(text is not None for text in outputs)
    return not found or GIVEN not in found[0].voters or 2 * len(found[0].voters - {GIVEN}) <= ran
