"""MinHash, clusters of duplicates, decontamination: against exact Jaccard similarity and exhaustive comparison."""

from __future__ import annotations

import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from magistral_core.config.curation import DecontaminationSettings, DuplicateSettings
from magistral_core.curation.decontamination import EvaluationIndex, EvaluationItem
from magistral_core.curation.duplicates import Deduplicator
from magistral_core.curation.minhash import RECALL, MinHash, band_rows, shingle_hashes, similarity
from magistral_core.curation.normalise import numbers, tokens
from magistral_core.curation.reasons import Reason

WORDS = [f"w{chr(97 + i)}{chr(97 + j)}" for i in range(20) for j in range(20)]


def text(seed: int, length: int = 40) -> list[str]:
    draw = random.Random(seed)
    return [draw.choice(WORDS) for _ in range(length)]


def clusters(statements: list[list[str]], answers: list[str] | None = None, **changes: object) -> dict[int, tuple[int, Reason]]:
    found = Deduplicator(DuplicateSettings(**changes))  # type: ignore[arg-type]
    for words, answer in zip(statements, answers or ["1"] * len(statements), strict=True):
        found.add(words, answer)
    return found.clusters()


def test_presentation_is_no_difference() -> None:
    one = tokens(r"Find  $\dfrac{1}{2}$ of 1,000 apples, if $x \leq 3$.")
    two = tokens(r"find \frac{1}{2} of 1000 Apples if $$x\le 3$$")
    assert one == two == ["find", r"\frac", "1", "2", "of", "1000", "apples", "if", "x", r"\le", "3"]
    assert tokens("5! + 3") != tokens("5 + 3")
    assert tokens("It costs $.50 now.") == tokens(r"It costs \$0.50 now") != tokens("It costs $50 now.")
    assert tokens(r"grows by 10\% a year") == tokens("grows by 10% a year") != tokens("grows by 10 a year")
    assert tokens("see fig.5") == tokens("see fig. 5")
    assert numbers(tokens("3 of 12 and 0.5")) == ("0.5", "12", "3")
    assert len(tokens("求三角形的面积")) == 7


def test_signatures_estimate_jaccard_similarity() -> None:
    words = text(1, 200)
    other = [*words[:150], *text(2, 50)]
    first, second = (shingle_hashes(item, 3) for item in (words, other))
    exact = len(set(first.tolist()) & set(second.tolist())) / len(set(first.tolist()) | set(second.tolist()))
    one, two = MinHash(1024).signatures([first, second])
    assert similarity(one, two) == pytest.approx(exact, abs=4 * (exact * (1 - exact) / 1024) ** 0.5)


def test_a_signature_does_not_depend_on_its_block() -> None:
    shingles = [shingle_hashes(text(seed, 5 + seed), 3) for seed in range(20)]
    hashed = MinHash(64)
    together = hashed.signatures(shingles)
    assert all(np.array_equal(hashed.signatures([item])[0], row) for item, row in zip(shingles, together, strict=True))


@pytest.mark.parametrize(("permutations", "threshold"), [(128, 0.8), (128, 0.5), (256, 0.9), (16, 0.99)])
def test_bands_are_as_long_as_recall_permits(permutations: int, threshold: float) -> None:
    rows = band_rows(permutations, threshold)
    longer = rows + 1
    assert 1 - (1 - threshold**rows) ** (permutations // rows) >= RECALL
    assert longer > permutations or 1 - (1 - threshold**longer) ** (permutations // longer) < RECALL


def test_the_first_is_kept_and_chains_lead_to_it() -> None:
    base = text(5, 60)
    near = [*base[:30], "changed", *base[31:]]
    statements = [text(9), base, near, text(10), near, base]
    assert clusters(statements) == {
        2: (1, Reason.NEAR_DUPLICATE),
        4: (1, Reason.EXACT_DUPLICATE),
        5: (1, Reason.EXACT_DUPLICATE),
    }


def test_what_the_guard_holds_apart() -> None:
    base = [*text(5, 60), "17"]
    near = [*base[:30], "changed", *base[31:]]
    renumbered = [*base[:60], "18"]
    assert clusters([base, renumbered]) == {}
    assert clusters([base, near], ["1", "2"]) == {}
    assert clusters([base, near], ["1", "2"], same_answer=False) == {1: (0, Reason.NEAR_DUPLICATE)}
    assert clusters([base, near], ["yes", "yes"]) == {}  # says too little
    assert clusters([base, base], ["1", "2"]) == {1: (0, Reason.EXACT_DUPLICATE)}
    assert clusters([base, near], near=False) == {}


def test_nothing_and_empty_statements() -> None:
    assert clusters([]) == {}
    assert clusters([[], ["a"], []]) == {2: (0, Reason.EXACT_DUPLICATE)}


@settings(max_examples=30, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 40)), min_size=1, max_size=40))
def test_clusters_against_exhaustive_comparison(drawn: list[tuple[int, int]]) -> None:
    """Bands lose at most a hundredth of the pairs at the threshold; with long signatures and clear cases, none."""
    statements = []
    for seed, place in drawn:
        words = text(seed, 80)
        statements.append(words if place == 0 else [*words[:place], "changed", *words[place + 1 :]])
    found = clusters(statements, permutations=512, threshold=0.7)
    kept = [number for number in range(len(statements)) if number not in found]
    assert kept == [number for number, (seed, _) in enumerate(drawn) if seed not in [other for other, _ in drawn[:number]]]
    assert all(root in kept and root < number and drawn[root][0] == drawn[number][0] for number, (root, _) in found.items())


def test_more_statements_than_a_block() -> None:
    statements = [text(seed, 30) for seed in range(5000)]
    statements[4999] = [*statements[7][:15], "changed", *statements[7][16:]]
    assert clusters(statements) == {4999: (7, Reason.NEAR_DUPLICATE)}


ITEM = "Let m and n be whole numbers whose product is 360 and whose greatest common divisor is 6, with m below n. Find all sums."


def test_an_evaluation_item_that_is_there_many_times_is_found_all_the_same() -> None:
    question = " ".join(text(3, 60))
    found = index(*[question] * 32).match(" ".join(["Solve this:", *text(4, 60), *question.split()[10:40]]))
    assert found is not None
    assert found.rule == "ngram"


def index(*questions: str, **changes: object) -> EvaluationIndex:
    items = [EvaluationItem("suite.jsonl", number, question) for number, question in enumerate(questions, start=1)]
    return EvaluationIndex(items, DecontaminationSettings(**changes))  # type: ignore[arg-type]


def test_a_shared_ngram_contaminates() -> None:
    match = index("What is 1+1?", ITEM).match(
        "Ann says: let M and N be whole numbers whose product is $360$ and whose sum is odd. How many pairs?"
    )
    assert match is not None
    assert (match.item.line, match.rule) == (2, "ngram")
    assert match.shared == "let m and n be whole numbers whose product is 360 and whose"


def test_a_near_duplicate_contaminates() -> None:
    short = "How many positive divisors has 360 in all?"
    match = index("What is 1+1?", short).match("How many positive divisors has $360$ in all")
    assert match is not None
    assert (match.item.line, match.rule) == (2, "near_duplicate")


def test_set_phrases_and_strangers_do_not() -> None:
    phrase = " where m and n are relatively prime positive integers, find the value of m plus n."
    items = [f"The area of shape {number} of kind {WORDS[number]} {WORDS[-number]} is m over n{phrase}" for number in range(1, 6)]
    stranger = f"A die is thrown until seven appears twice in a row; the chance is m over n{phrase}"
    assert index(*items).match(stranger) is None
    assert index(*items, max_items=5).match(stranger) is not None
    assert index(ITEM).match(text_of(3)) is None
    assert index().match(ITEM) is None


def text_of(seed: int) -> str:
    return " ".join(text(seed))
