"""A trainer's state at another number of ranks: what goes on, what is refused, and that nothing of it changes on the way."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from training_world import STAGE_CHANGES

from magistral_core.errors import InputError
from magistral_core.training.report import StepReport
from magistral_core.training.resharding import Layout

RANKS = st.integers(1, 64)
#: How far two orders of adding the same float32 gradients may lie apart, against steps of 3e-3.
ROUNDING = 1e-6


@given(ranks=RANKS, stage=st.integers(0, 3))
def test_the_same_layout_is_read_as_it_is(ranks: int, stage: int) -> None:
    assert not Layout(ranks, stage).converts_to(Layout(ranks, stage))


@given(before=RANKS, after=RANKS)
def test_without_zero_every_rank_has_all(before: int, after: int) -> None:
    assert not Layout(before, 0).converts_to(Layout(after, 0))


@given(before=RANKS, after=RANKS, stages=st.sampled_from([(1, 1), (2, 2), (3, 3), (1, 2), (2, 1)]))
def test_what_is_shared_out_otherwise_is_converted(before: int, after: int, stages: tuple[int, int]) -> None:
    assert Layout(before, stages[0]).converts_to(Layout(after, stages[1])) == (before != after or stages[0] != stages[1])


@pytest.mark.parametrize(("before", "after"), [(0, 1), (1, 0), (0, 3), (3, 0), (1, 3), (3, 2)])
def test_stages_that_keep_the_optimiser_in_another_form_are_refused(before: int, after: int) -> None:
    with pytest.raises(InputError) as caught:
        Layout(2, before).converts_to(Layout(2, after))
    message = str(caught.value)
    assert message.startswith(f"training.zero_stage: {after} cannot go on from a checkpoint of stage {before}; ")
    assert f"set training.zero_stage={before}" in message and "\n" not in message


def test_a_layout_is_read_as_it_was_written(tmp_path: Path) -> None:
    Layout(3, 2).write(tmp_path)
    assert Layout.read(tmp_path) == Layout(3, 2)


@pytest.mark.timeout(1800)
@pytest.mark.parametrize(("before", "after"), STAGE_CHANGES)
@pytest.mark.parametrize(("saved", "ranks"), [(1, 2), (2, 1), pytest.param(2, 3, marks=pytest.mark.slow)])
def test_another_number_of_ranks_goes_on_with_the_same_state(world: Any, saved: int, ranks: int, before: int, after: int) -> None:
    """Weights and moments to the bit; the next step as that of the ranks that saved, but for the order of sums."""
    expected = [result["stages"][before] for result in world.results(saved)]
    found = [result[before, after] for result in world.resharded(saved, ranks)]
    for result in found:
        for part in ("weights", "moments"):
            assert result[part].keys() == expected[0][part].keys()
            assert [name for name, tensor in result[part].items() if not torch.equal(tensor, expected[0][part][name])] == []
        for name, tensor in result["next_weights"].items():
            torch.testing.assert_close(tensor, expected[0]["next_weights"][name], rtol=0, atol=ROUNDING)
            assert torch.equal(result["loaded_weights"][name], tensor), "what it saves then is its own"
    report, undisturbed = (
        StepReport.merge([result[name] for result in results]) for name, results in (("report", found), ("next_report", expected))
    )
    assert report.loss == pytest.approx(undisturbed.loss, rel=1e-5)
    assert report.grad_norm == pytest.approx(undisturbed.grad_norm, rel=1e-5)
    moved = (expected[0]["next_weights"][name] - expected[0]["weights"][name] for name in expected[0]["weights"])
    assert max(float(change.abs().max()) for change in moved) > 1000 * ROUNDING
