"""The DeepSpeed trainer against plain torch: every ZeRO stage, one and two ranks, packed rows (see `rank_program.py`)."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from training_world import (
    BUDGET,
    ENDS,
    LOSS,
    OFF_POLICY,
    SEED,
    SETTINGS,
    Reference,
    counted_completions,
    load_double,
    reference_gradient,
    token_logprobs,
)
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig

from magistral_core.records import Microbatch
from magistral_core.training.collation import collate
from magistral_core.training.report import StepReport

#: The ranks compute for a minute in all; on an overloaded machine that becomes minutes.
pytestmark = pytest.mark.timeout(900)
STAGES = (0, 1, 2, 3)
RANKS = (1, 2)
every_split = pytest.mark.parametrize(("stage", "ranks"), [(stage, ranks) for ranks in RANKS for stage in STAGES])


def stages(world: Any, ranks: int, stage: int) -> list[dict[str, Any]]:
    """What each rank wrote of a stage."""
    return [result["stages"][stage] for result in world.results(ranks)]


def name_by_name(found: dict[str, Any], expected: dict[str, torch.Tensor]) -> list[tuple[str, torch.Tensor, torch.Tensor]]:
    """Both sides in double precision; a tied output layer is the embedding and has no name of its own."""
    assert set(found) == set(expected)
    return [(name, torch.as_tensor(found[name]).double(), expected[name].double()) for name in expected]


def distance(found: dict[str, Any], expected: dict[str, torch.Tensor]) -> float:
    """Norm of the difference relative to the norm of what is expected, over the whole model."""
    rows = name_by_name(found, expected)
    return float(sum((a - b).square().sum() for _, a, b in rows) / sum(b.square().sum() for _, _, b in rows)) ** 0.5


def assert_same_gradient(found: dict[str, Any], expected: dict[str, torch.Tensor], tolerance: float = 1e-5) -> None:
    assert distance(found, expected) < tolerance
    for name, mine, reference in name_by_name(found, expected):
        assert (mine - reference).norm() < tolerance * max(reference.norm(), 0.01), name


def assert_same_bits(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> None:
    assert set(found) == set(expected)
    assert [name for name in expected if not torch.equal(found[name], expected[name])] == []


def assert_no_influence(case: dict[str, Any], name: str) -> None:
    """`among_others[i]` has the i-th sequence of the row `name`, and `changed` ones around it."""
    edges = np.cumsum(case["lengths"])[:-1]
    row, changed = np.split(case[name], edges), np.split(case["changed"], edges)
    for i, mixed in enumerate(case["among_others"]):
        for j, part in enumerate(np.split(mixed, edges)):
            np.testing.assert_allclose(part, row[j] if i == j else changed[j], rtol=0, atol=1e-6)
    assert all(abs(a - b).max() > 0.1 for a, b in zip(row, changed, strict=True)), "the tokens were changed in earnest"


def test_the_batch_is_a_hard_case(world: Any, reference: Reference) -> None:
    """Ranks with different numbers of microbatches, rows of several sequences, shared prompts, clipped tokens, an active gradient clip."""
    rows = collate(world.batch, ranks=2, budget=BUDGET, seed=SEED, share_prompts=True)
    assert len({sum(row.mask.any() for row in mine) for mine in rows}) == 2
    assert max(len(row.seq_lens) for mine in rows for row in mine) >= 3
    assert all(sum((row.prefixes >= 0).any() for row in mine) >= 2 for mine in rows)
    assert len(rows[0]) == len(rows[1])
    assert min(reference.norms) > 2 * SETTINGS.grad_clip


@every_split
def test_gradient_equals_plain_torch(world: Any, reference: Reference, stage: int, ranks: int) -> None:
    for result in stages(world, ranks, stage):
        assert result["parameters"] == sum(tensor.numel() for tensor in reference.gradient.values())
        assert_same_gradient(result["gradient"], reference.gradient)


@every_split
def test_reading_the_gradient_leaves_nothing_behind(world: Any, stage: int, ranks: int) -> None:
    for result in stages(world, ranks, stage):
        for name, gradient in result["gradient"].items():
            np.testing.assert_array_equal(result["gradient_again"][name], gradient, err_msg=name)


@pytest.mark.parametrize("ranks", RANKS)
@pytest.mark.parametrize("stage", [0, 3])
def test_gradient_of_an_untied_model(world: Any, stage: int, ranks: int) -> None:
    expected = reference_gradient(load_double(world.folder / "untied"), world.batch)
    assert "lm_head.weight" in expected
    for result in world.results(ranks):
        assert_same_gradient(result["untied"][stage], expected)


@pytest.mark.parametrize("ranks", RANKS)
@pytest.mark.parametrize("name", OFF_POLICY)
def test_gradient_of_the_off_policy_options(world: Any, reference: Reference, name: str, ranks: int) -> None:
    """The same for any split, though a sequence's ratio needs the whole sequence; and not that of the clipped token ratios."""
    expected = reference_gradient(load_double(world.folder / "tied"), world.batch, loss=OFF_POLICY[name])
    for result in world.results(ranks):
        assert_same_gradient(result["off_policy"][name], expected)
    assert distance(reference.gradient, expected) > 0.01


@every_split
def test_optimiser_steps_equal_plain_adamw(world: Any, reference: Reference, stage: int, ranks: int) -> None:
    """Warm-up, decay and a clip that is active; compared by how far the weights have moved."""
    for result in stages(world, ranks, stage):
        assert [report.grad_norm for report in result["reports"]] == pytest.approx(reference.norms, rel=1e-4)
        moved = {name: result["weights"][name].double() - start for name, start in result["initial"].items()}
        expected = {name: reference.weights[name] - start for name, start in result["initial"].items()}
        assert distance(moved, expected) < 1e-3


@every_split
def test_report_of_a_step(world: Any, reference: Reference, stage: int, ranks: int) -> None:
    report = StepReport.merge([result["reports"][0] for result in stages(world, ranks, stage)])
    completions = counted_completions(world.batch)
    tokens = sum(completion.length for completion, _, _ in completions)
    assert report.tokens == tokens
    assert report.loss == pytest.approx(reference.loss, rel=1e-5)
    assert report.entropy_sum == pytest.approx(reference.entropies.sum(), rel=1e-5)
    log_ratios = reference.logprobs - np.concatenate([completion.logprobs for completion, _, _ in completions])
    np.testing.assert_allclose(np.sort(report.log_ratios), np.sort(log_ratios), atol=1e-5)
    advantages = np.concatenate([np.full(completion.length, advantage) for completion, advantage, _ in completions])
    clipped = np.where(advantages > 0, np.exp(log_ratios) > 1 + LOSS.eps_high, np.exp(log_ratios) < 1 - LOSS.eps_low)
    assert report.clipped == clipped.sum() > 0
    # What the present weights made must come out the same: generator and trainer agree.
    assert report.mismatch_tokens == sum(c.length for c, _, _ in completions if c.versions[0] == 0)
    assert 0 < report.mismatch_max < 1e-4
    assert report.mismatch_sum <= report.mismatch_max * report.mismatch_tokens


@every_split
def test_resume_is_exact_to_the_bit(world: Any, stage: int, ranks: int) -> None:
    for result in stages(world, ranks, stage):
        assert_same_bits(result["loaded_weights"], result["weights"])
        assert_same_bits(result["resumed_weights"], result["next_weights"])
        assert result["resumed_report"].loss == result["next_report"].loss
        assert result["resumed_report"].grad_norm == result["next_report"].grad_norm
        assert not torch.equal(result["next_weights"]["model.norm.weight"], result["weights"]["model.norm.weight"])


@pytest.mark.parametrize("ranks", RANKS)
@pytest.mark.parametrize("stage", [1, 3])
def test_export_loads_in_transformers(world: Any, stage: int, ranks: int) -> None:
    result, folder = stages(world, ranks, stage)[0], world.folder / f"export-{stage}-{ranks}"
    exported = AutoModelForCausalLM.from_pretrained(folder)
    assert_same_bits({name: tensor.detach() for name, tensor in exported.named_parameters()}, result["resumed_weights"])
    original = AutoModelForCausalLM.from_pretrained(world.folder / "tied")
    original.load_state_dict(result["resumed_weights"], strict=False)  # the tied output layer follows its embedding
    tokens = torch.arange(12)[None]
    torch.testing.assert_close(exported(tokens).logits, original(tokens).logits, rtol=0, atol=0)
    assert GenerationConfig.from_pretrained(folder).eos_token_id == ENDS, "generators stop where they did before a resume"
    assert AutoTokenizer.from_pretrained(folder).get_vocab() == AutoTokenizer.from_pretrained(world.folder / "tied").get_vocab()


@pytest.mark.parametrize("attention", ["varlen", "sdpa"])
class TestPacking:
    def test_a_row_equals_its_sequences_one_by_one(self, world: Any, attention: str) -> None:
        case = world.results(1)[0]["single"]["packing"][attention]
        np.testing.assert_allclose(case["packed"], np.concatenate(case["alone"]), rtol=0, atol=1e-5)
        model = load_double(world.folder / "tied")
        with torch.no_grad():
            plain = [token_logprobs(model, prompt, response).numpy() for prompt, response in case["tokens"]]
        np.testing.assert_allclose(case["packed"], np.concatenate(plain), rtol=0, atol=1e-5)
        assert_same_gradient(case["gradient"], {name: torch.as_tensor(grad) for name, grad in case["gradient_alone"].items()})

    def test_neighbours_have_no_influence(self, world: Any, attention: str) -> None:
        assert_no_influence(world.results(1)[0]["single"]["packing"][attention], "packed")


class TestSharedPrompts:
    def test_a_row_equals_its_sequences_one_by_one(self, world: Any) -> None:
        case = world.results(1)[0]["single"]["sharing"]
        assert case["tokens"] == sum(case["lengths"]) + 5 + 3 + 1
        np.testing.assert_allclose(case["shared"], np.concatenate(case["alone"]), rtol=0, atol=1e-5)
        assert_same_gradient(case["gradient"], {name: torch.as_tensor(grad) for name, grad in case["gradient_alone"].items()})

    def test_completions_of_a_group_do_not_see_each_other(self, world: Any) -> None:
        assert_no_influence(world.results(1)[0]["single"]["sharing"], "shared")

    def test_other_attentions_refuse_them(self, world: Any) -> None:
        message = world.results(1)[0]["single"]["sharing"]["refused"]
        assert message == "training.attention: sdpa takes no shared prompts; set training.share_prompts: false"


def test_temperature(world: Any) -> None:
    single = world.results(1)[0]["single"]
    model = load_double(world.folder / "tied")
    assert_same_gradient(single["cool_gradient"], reference_gradient(model, world.batch, temperature=0.6))
    by_tokens = {
        tuple(np.concatenate([c.prompt_ids, c.token_ids]).tolist()): token_logprobs(model, c.prompt_ids, c.token_ids, 0.6).detach().numpy()
        for c, _, _ in counted_completions(world.batch)
    }
    rows = collate(world.batch, ranks=1, budget=BUDGET, seed=SEED, share_prompts=True)[0]
    for row, logprobs in zip(rows, single["cool_logprobs"], strict=True):
        expected = np.concatenate([by_tokens[tuple(tokens.tolist())] for tokens in sequences(row)])
        np.testing.assert_allclose(logprobs, expected, rtol=0, atol=1e-5)


def test_gradient_checkpointing_changes_nothing(world: Any, reference: Reference) -> None:
    assert_same_gradient(world.results(1)[0]["single"]["checkpointed_gradient"], reference.gradient)


def test_bfloat16_is_near(world: Any, reference: Reference) -> None:
    single = world.results(1)[0]["single"]
    assert distance(single["bfloat16_gradient"], reference.gradient) < 0.05
    assert single["bfloat16_report"].loss == pytest.approx(reference.loss, rel=0.05)


def test_supervised_step(world: Any, reference: Reference) -> None:
    """The same rows as traces: the mean negative log-likelihood of their tokens."""
    report = world.results(1)[0]["single"]["sft_report"]
    assert report.tokens == len(reference.logprobs)
    assert report.loss == pytest.approx(-reference.logprobs.mean(), rel=1e-5)
    assert report.entropy_sum == pytest.approx(reference.entropies.sum(), rel=1e-5)


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("softcapped", "its config scales the logits (final_logit_softcapping)"),
        ("biased", "its output layer is not a plain linear `lm_head`"),
        ("own attention", "computes its attention in the model's own way"),  # the mask would not reach it
        ("own table", "computes its attention in the model's own way"),
        ("missing", "cannot be loaded"),
    ],
)
def test_models_that_would_be_trained_wrongly_are_refused(world: Any, name: str, reason: str) -> None:
    message = world.results(1)[0]["single"]["refused"][name]
    assert message.startswith(f"model.path {world.folder / 'refused' / name}: ")
    assert reason in message and "\n" not in message


@pytest.mark.parametrize("stage", range(4))
def test_a_gradient_that_is_not_finite_ends_the_run_with_the_weights_as_they_were(world: Any, stage: int) -> None:
    found = world.results(1)[0]["single"]["not_finite"][stage]
    assert found["error"].startswith("the gradient of step 7 is not finite") and "lower learning rate" in found["error"]
    for name, before in found["before"].items():
        torch.testing.assert_close(found["after"][name], before, rtol=0, atol=0)


def test_a_folder_without_state_is_refused(world: Any) -> None:
    message = world.results(1)[0]["single"]["load_refused"]
    assert message.startswith(f"{world.folder / 'empty'}: no trainer state here") and "\n" not in message


def sequences(row: Microbatch) -> list[np.ndarray]:
    """Prompt and completion of each sequence of a row."""
    segments = np.split(row.token_ids, np.cumsum(row.seq_lens)[:-1])
    prompts = [segments[prefix] if prefix >= 0 else segments[0][:0] for prefix in row.prefixes]
    return [np.concatenate(both) for i, both in enumerate(zip(prompts, segments, strict=True)) if i not in row.prefixes]
