"""The verifier with its real worker pool: composition of rewards, and whatever hangs, crashes or eats memory contained."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import pytest

from magistral_core.config.schema import LengthReward, PromptSettings, RewardSettings
from magistral_core.errors import InfrastructureError, InputError
from magistral_core.records import FinishReason, Group, Problem, ScoreStatus
from magistral_core.rewards import Verifier, workers
from magistral_core.rewards.poolsize import PoolSize

FIVE = Problem(id="p", question="What is 2 + 3?", answer="5")
ROOT = Problem(id="r", question="What?", answer="\\frac{\\sqrt{2}}{2}")
#: A sum of a billion terms, which passes every cheap check: only a kill stops its comparison.
HANGS = "\\sum_{k=1}^{10^{9}} k^{k}"


def settings(**values: Any) -> RewardSettings:
    return RewardSettings.model_validate({"language": 0.0, "workers": 1, "timeout_s": 1.0, "memory_mb": 512} | values)


@pytest.fixture(scope="module")
def plain() -> Iterator[Verifier]:
    with Verifier(settings(workers=2), PromptSettings()) as verifier:
        yield verifier


@pytest.fixture
def moody(own_functions: Path) -> Iterator[Verifier]:
    with Verifier(settings(extra=["my_rewards:moody"], memory_mb=128), PromptSettings()) as verifier:
        yield verifier


def statuses(group: Group) -> list[ScoreStatus]:
    return [score.status for score in group.scores]


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def wait_until(condition: Callable[[], bool], seconds: float = 10.0) -> bool:
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            return False
        time.sleep(0.02)
    return True


def test_parts_add_up(plain: Verifier, group_of: Any, response: Any) -> None:
    group = plain.score(group_of(FIVE, response("5"), response("6"), "no tags \\boxed{5}", response("3 \\garbage 5")))
    assert statuses(group) == [ScoreStatus.CORRECT, ScoreStatus.WRONG, ScoreStatus.BAD_FORMAT, ScoreStatus.UNPARSABLE]
    assert [score.reward for score in group.scores] == [1.0, 0.1, 0.0, 0.1]
    assert [dict(score.parts) for score in group.scores] == [
        {"format": 0.1, "correct": 0.9},
        {"format": 0.1, "correct": 0.0},
        {"format": 0.0, "correct": 0.0},
        {"format": 0.1, "correct": 0.0},
    ]


def test_length_and_weights(group_of: Any, response: Any) -> None:
    rewards = settings(length=LengthReward(l_max=100, l_cache=50), correct=0.0, format=0.2)
    verifier = Verifier(rewards, PromptSettings())  # nothing here needs a worker
    score = verifier.score(group_of(FIVE, response("5"), tokens=75)).scores[0]
    assert score.parts == pytest.approx({"format": 0.2, "correct": 0.0, "length": -0.05})
    assert (score.correct, score.reward) == (True, pytest.approx(0.15))
    cut = verifier.score(group_of(FIVE, response("5"), tokens=100, reason=FinishReason.LENGTH)).scores[0]
    assert (cut.status, cut.reward) == (ScoreStatus.BAD_FORMAT, 0.0)
    assert verifier.part_names == tuple(cut.parts) == ("format", "correct", "length")


def test_a_group_is_scored_with_the_lengths_of_its_stage(group_of: Any, response: Any) -> None:
    lengths = [None, LengthReward(l_max=100, l_cache=50), LengthReward(l_max=200, l_cache=50)]
    verifier = Verifier(settings(), PromptSettings(), lengths)
    group = group_of(FIVE, response("5"), tokens=100)
    scored = verifier.score_many([replace(group, stage=stage) for stage in (2, 1, 0)])
    assert [found.scores[0].parts["length"] for found in scored] == [0.0, pytest.approx(-0.1), 0.0]
    assert "length" in verifier.part_names


def test_language_bonus(group_of: Any, response: Any) -> None:
    english = "I will add the two numbers that are given in the question."
    french = "Je vais additionner les deux nombres qui sont donnés dans la question."
    problem = Problem(id="p", question="What do you get when you add the numbers two and three?", answer="5")
    verifier = Verifier(settings(language=0.1), PromptSettings())
    group = verifier.score(group_of(problem, response("5", english), response("5", french), response("6", english)))
    assert [score.reward for score in group.scores] == pytest.approx([1.1, 1.0, 0.2])


def test_formulas_go_through_the_pool(plain: Verifier, group_of: Any, response: Any) -> None:
    groups = [group_of(ROOT, response("1/\\sqrt{2}"), response("2/\\sqrt{2}"), group_id=i) for i in range(6)]
    expected = [ScoreStatus.CORRECT, ScoreStatus.WRONG]
    assert [statuses(group) for group in plain.score_many(groups)] == [expected] * 6
    with ThreadPoolExecutor(4) as threads:
        scored = list(threads.map(plain.score, groups))
    assert [statuses(group) for group in scored] == [expected] * 6
    assert [group.id for group in scored] == list(range(6))


def test_unusable_references_are_errors(plain: Verifier, group_of: Any, response: Any) -> None:
    for gold in ("\\foo{", "1" * 600):
        score = plain.score(group_of(Problem(id="p", question="q", answer=gold), response("5"))).scores[0]
        assert score.status is ScoreStatus.ERROR
        assert "reference answer" in score.detail
    verdicts = plain.check_golds(["5", "x^2", "\\text{east}", "", "\\foo{"])
    assert [verdict.correct for verdict in verdicts] == [True, True, True, False, False]
    assert [verdict.status for verdict in verdicts[3:]] == [ScoreStatus.ERROR] * 2


def test_answers_and_whole_responses(plain: Verifier) -> None:
    pairs = [("5", "5.0"), ("x+1", "1+x"), ("x+1", "x+2"), ("", "5")]
    assert [v.status.value for v in plain.answers_equal(pairs)] == ["correct", "correct", "wrong", "error"]
    responses = [("5", "I guess \\boxed{4}</think>No: \\boxed{5}"), ("5", "so \\boxed{5}"), ("5", "5"), ("5", "\\boxed{5}</think>no box")]
    assert [v.status.value for v in plain.grade_responses(responses)] == ["correct", "correct", "no_answer", "no_answer"]


def test_a_hanging_answer_is_a_timeout_and_the_rest_of_its_batch_is_judged(group_of: Any, response: Any) -> None:
    with Verifier(settings(retries=5), PromptSettings()) as verifier:  # retries: on a busy machine the worker may be starved
        started = time.monotonic()
        group = verifier.score(group_of(ROOT, response("1/\\sqrt{2}"), response(HANGS), response("1/\\sqrt{2}"), response("3x")))
        assert statuses(group) == [ScoreStatus.CORRECT, ScoreStatus.TIMEOUT, ScoreStatus.CORRECT, ScoreStatus.WRONG]
        assert time.monotonic() - started < 15
        assert group.scores[1].reward == 0.1
        assert verifier._pool.restarts >= 1


def test_bad_user_functions_are_contained(moody: Verifier, group_of: Any) -> None:
    def score(*words: str) -> Group:
        return moody.score(group_of(FIVE, *(f"<think>a</think>{word} \\boxed{{5}}" for word in words)))

    started = time.monotonic()
    words = ["fine", "hang", "spin", "bomb", "crash", "exit", "raise", "text", "nan", "fine"]
    group = score(*words)
    by_word = dict(zip(words, group.scores, strict=True))
    for word, detail in {
        "hang": "longer than 1 s", "spin": "longer than 1 s", "bomb": "MemoryError", "crash": "signal 6", "exit": "SystemExit",
        "raise": "a bug of mine", "text": "instead of a number", "nan": "returned nan",
    }.items():  # fmt: skip
        assert by_word[word].status is ScoreStatus.ERROR
        assert "rewards.extra moody" in by_word[word].detail
        assert detail in by_word[word].detail
    for score_of_fine in (group.scores[0], group.scores[-1]):
        assert (score_of_fine.status, score_of_fine.reward) == (ScoreStatus.CORRECT, 1.125)
    assert time.monotonic() - started < 20
    assert statuses(score("fine")) == [ScoreStatus.CORRECT]
    assert len(moody._pool.pids) == 1


def test_user_functions_see_everything_and_print_nowhere(own_functions: Path, group_of: Any, response: Any, capfd: Any) -> None:
    rewards = settings(extra=["my_rewards:shortness", "my_rewards:catch_all", "my_rewards:moody"])
    problem = Problem(id="p", question="q", answer="5", extra={"bonus": 1})
    with Verifier(rewards, PromptSettings()) as verifier:
        verifier.check_supported([problem])
        group = verifier.score(group_of(problem, "<think>easy</think>print \\boxed{5}", response("6"), "bad", tokens=100))
    assert group.scores[0].parts == pytest.approx({"format": 0.1, "correct": 0.9, "shortness": 0.65, "catch_all": 1.0, "moody": 0.125})
    assert group.scores[1].parts["shortness"] == pytest.approx(0.4)
    assert group.scores[2].reward == 0.0
    assert capfd.readouterr().out == ""


def test_the_folder_of_user_functions_can_be_another_than_the_current_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, group_of: Any, response: Any
) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "mine" / "own_folder_rewards.py").write_text("def half(*, problem, response, thoughts, answer, length):\n    return 0.5\n")
    monkeypatch.chdir(tmp_path / "elsewhere")
    rewards = settings(extra=["own_folder_rewards:half"], extra_folder=str(tmp_path / "mine"))
    with Verifier(rewards, PromptSettings()) as verifier:
        verifier.check_supported([])
        assert verifier.score(group_of(Problem(id="p", question="q", answer="5"), response("5"))).scores[0].parts["half"] == 0.5


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("my_rewards", "not of the form module:function"),
        ("my_rewards:", "not of the form module:function"),
        ("absent_module:f", "cannot import absent_module"),
        ("broken_rewards:f", "cannot import broken_rewards .*a_module_that_is_not_there"),
        ("my_rewards:absent", "has no function absent"),
        ("my_rewards:not_a_function", "is a int, not a function"),
        ("my_rewards:positional", "must take the keyword arguments"),
        ("my_rewards:format", "'format' exists already"),
    ],
)
def test_functions_that_cannot_be_used_are_refused_at_start(own_functions: Path, spec: str, message: str) -> None:
    with pytest.raises(InputError, match=f"rewards.extra: .*{message}") as error:
        Verifier(settings(extra=[spec]), PromptSettings()).check_supported([])
    assert "\n" not in str(error.value)


def test_killed_workers_cost_nothing(group_of: Any, response: Any) -> None:
    group = group_of(ROOT, *[response(f"{i}/\\sqrt{{{i * i * 2}}}") for i in range(1, 2000)])
    with Verifier(settings(workers=2, retries=6), PromptSettings()) as verifier, ThreadPoolExecutor(1) as threads:
        future = threads.submit(verifier.score, group)
        assert wait_until(lambda: verifier._pool.waiting > 0)
        for _ in range(3):
            for pid in verifier._pool.pids:
                os.kill(pid, signal.SIGKILL)
            time.sleep(0.1)
        assert statuses(future.result(60)) == [ScoreStatus.CORRECT] * 1999
        assert verifier._pool.restarts > 0


def test_a_worker_that_always_dies_is_an_error(own_functions: Path, group_of: Any) -> None:
    with Verifier(settings(extra=["my_rewards:moody"], retries=2), PromptSettings()) as verifier:
        group = verifier.score(group_of(FIVE, "<think>a</think>crash \\boxed{5}", "<think>a</think>fine \\boxed{5}"))
        assert statuses(group) == [ScoreStatus.ERROR, ScoreStatus.CORRECT]
        assert verifier._pool.restarts == 3


def test_a_worker_that_is_not_ready_in_time_is_the_machine_s_fault(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "slow_rewards.py").write_text("import time\ntime.sleep(600)\n")
    pool = workers.WorkerPool(PoolSize(1, 1), timeout_s=60.0, memory_mb=512, extra=["slow_rewards:f"], folder=str(tmp_path))
    pool._zygote.end(pool._zygote.fork())  # it runs
    monkeypatch.setattr(workers, "START_TIMEOUT_S", 0.5)
    try:
        with pytest.raises(InfrastructureError, match=r"or was not ready within 0\.5 s"):
            pool.start()
    finally:
        pool.close()


def test_a_zygote_that_starts_too_late_answers_no_later_question(monkeypatch: pytest.MonkeyPatch) -> None:
    zygote = workers._Zygote()
    with monkeypatch.context() as patched:
        patched.setattr(workers, "START_TIMEOUT_S", 0.001)
        with pytest.raises(InfrastructureError, match="did not start, or not within"):
            zygote.fork()
    try:
        first, second = zygote.fork(), zygote.fork()
        assert psutil.Process(first.pid).ppid() == first.zygote == second.zygote
        assert first.pid != second.pid
        assert [zygote.end(worker) for worker in (first, second)] == ["signal 9", "signal 9"]
    finally:
        zygote.close()


def test_the_zygote_may_die_too(group_of: Any, response: Any) -> None:
    with Verifier(settings(workers=2), PromptSettings()) as verifier:
        process = verifier._pool._zygote._process
        assert process is not None
        workers = verifier._pool.pids
        os.kill(process.pid, signal.SIGKILL)
        assert wait_until(lambda: not any(map(alive, workers)))
        assert statuses(verifier.score(group_of(ROOT, response("1/\\sqrt{2}"), response("x")))) == [ScoreStatus.CORRECT, ScoreStatus.WRONG]


def test_close_interrupts_and_leaves_no_process(own_functions: Path, group_of: Any) -> None:
    verifier = Verifier(settings(extra=["my_rewards:moody"], timeout_s=600), PromptSettings())
    verifier.start()
    process = verifier._pool._zygote._process
    assert process is not None
    pids = [process.pid, *verifier._pool.pids]
    with ThreadPoolExecutor(1) as threads:
        future = threads.submit(verifier.score, group_of(FIVE, "<think>a</think>hang \\boxed{5}"))
        assert wait_until(lambda: verifier._pool.waiting > 0)
        started = time.monotonic()
        verifier.close()
        with pytest.raises(InfrastructureError, match="closed"):
            future.result(10)
    assert time.monotonic() - started < 5
    assert not any(map(alive, pids))
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("verifier-") and thread in verifier._pool._threads]


def test_kill_9_of_the_training_process_leaves_no_orphan(own_functions: Path) -> None:
    script = (
        "import time, sys\n"
        "from magistral_core.config.schema import PromptSettings, RewardSettings\n"
        "from magistral_core.rewards import Verifier\n"
        "verifier = Verifier(RewardSettings(language=0.0, workers=2), PromptSettings())\n"
        "verifier.start()\n"
        "print(verifier._pool._zygote._process.pid, *verifier._pool.pids, flush=True)\n"
        "time.sleep(600)\n"
    )
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True, env=environment) as process:
        try:
            assert process.stdout is not None
            pids = [int(word) for word in process.stdout.readline().split()]
            assert len(pids) == 3
            assert all(map(alive, pids))
        finally:
            process.kill()
    assert wait_until(lambda: not any(map(alive, pids)))


def test_many_groups_are_judged_each_by_itself(group_of: Any, response: Any) -> None:
    verifier = Verifier(settings(), PromptSettings())
    groups = [group_of(FIVE, *(response(str(i), "we add the digits " * 40) for i in range(16)), group_id=g) for g in range(100)]
    scored = verifier.score_many(groups)
    assert [group.id for group in scored] == list(range(100))
    right = [ScoreStatus.CORRECT if i == 5 else ScoreStatus.WRONG for i in range(16)]
    assert all(statuses(group) == right for group in scored)
    assert all(score.seconds > 0 for group in scored for score in group.scores)


def test_imports_stay_light() -> None:
    script = (
        "import sys, magistral_core.config, magistral_core.records, magistral_core.problems, magistral_core.rewards\n"
        "heavy = {'torch', 'vllm', 'ray', 'prefect', 'mlflow', 'sympy', 'math_verify', 'datasets', 'transformers'} & set(sys.modules)\n"
        "sys.exit(', '.join(heavy) or 0)\n"
    )
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, env=environment, check=False)
    assert result.returncode == 0, result.stderr


def test_callers_wait_while_too_many_jobs_do(own_functions: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workers, "MAX_WAITING", 8)
    pool = workers.WorkerPool(PoolSize(1, 1), timeout_s=60.0, memory_mb=512, extra=["my_rewards:moody"])
    pool.start()
    hang = workers.Job("extra", (0, {"problem": FIVE, "response": "", "thoughts": "", "answer": "hang", "length": 1}))
    pool.submit([hang] * 8)
    with ThreadPoolExecutor(1) as threads:
        try:
            late = threads.submit(pool.submit, [hang])
            time.sleep(0.3)
            assert not late.done()
            assert pool.waiting == 8
        finally:
            pool.close()
        with pytest.raises(InfrastructureError, match="not running"):
            late.result(10)


def test_order_is_kept_across_batches_and_workers() -> None:
    pairs = [(f"\\sqrt{{{n}}}", f"\\frac{{{n}}}{{\\sqrt{{{n + n % 2}}}}}") for n in range(2, 200)]
    with Verifier(settings(workers=3, retries=6), PromptSettings()) as verifier:
        verdicts = [verdict.correct for verdict in verifier.answers_equal(pairs)]
        assert verifier._pool.waiting == 0
    assert verdicts == [n % 2 == 0 for n in range(2, 200)]
