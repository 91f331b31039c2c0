"""Conservation of groups, in any order of events."""

from __future__ import annotations

import json

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from magistral_core.pipeline.ledger import GroupState, Ledger, LedgerError

GENERATING, VERIFYING, QUEUED = GroupState.GENERATING, GroupState.VERIFYING, GroupState.QUEUED
REASONS = st.sampled_from(["all_right", "all_wrong", "equal"])


class Groups(RuleBasedStateMachine):
    """A ledger beside the plainest model of it: a dictionary from group to what became of it."""

    def __init__(self) -> None:
        super().__init__()
        self.ledger = Ledger()
        self.truth: dict[int, str] = {}
        self.resampled = 0

    def pick(self, data: st.DataObject) -> int:
        """Any id: in flight, settled, or never admitted."""
        return data.draw(st.integers(0, len(self.truth)))

    def expect(self, group: int, found: str, action: object) -> bool:
        """Run an action that is legal only where the group's state is `found`; whether it was."""
        if self.truth.get(group) == found:
            action()
            return True
        before = self.ledger.to_json()
        with pytest.raises(LedgerError, match=rf"group {group} "):
            action()
        assert self.ledger.to_json() == before
        return False

    @rule()
    def admit(self) -> None:
        group = self.ledger.open()
        assert group == len(self.truth)
        self.truth[group] = "generating"

    @rule(data=st.data(), to=st.sampled_from(GroupState))
    def advance(self, data: st.DataObject, to: GroupState) -> None:
        group = self.pick(data)
        before = {VERIFYING: "generating", QUEUED: "verifying", GENERATING: "nothing leads here"}[to]
        if self.expect(group, before, lambda: self.ledger.advance(group, to)):
            self.truth[group] = to.value

    @rule(data=st.data())
    def train(self, data: st.DataObject) -> None:
        group = self.pick(data)
        if self.expect(group, "queued", lambda: self.ledger.train(group)):
            self.truth[group] = "trained"

    @rule(data=st.data(), reason=REASONS, failed=st.booleans())
    def drop(self, data: st.DataObject, reason: str, failed: bool) -> None:
        group = self.pick(data)
        action = self.ledger.fail if failed else self.ledger.filter
        if self.expect(group, "verifying", lambda: action(group, reason)):
            self.truth[group] = f"{'failed' if failed else 'filtered'}:{reason}"

    @rule()
    def stop_and_resume(self) -> None:
        """A checkpoint, read again: what was being generated or verified is sampled again."""
        for group, state in self.truth.items():
            if state in ("generating", "verifying"):
                self.truth[group] = "generating"
                self.resampled += 1
        self.ledger = Ledger.from_json(json.loads(json.dumps(self.ledger.to_json())))

    @invariant()
    def every_group_is_somewhere(self) -> None:
        self.ledger.check()
        ends = list(self.truth.values())
        summary = self.ledger.summary()
        assert summary["submitted"] == len(ends)
        assert summary["submitted"] == summary["trained"] + summary["filtered"] + summary["failed"] + summary["in_flight"]
        assert summary["trained"] == ends.count("trained")
        assert summary["resampled"] == self.resampled
        for kind in ("filtered", "failed"):
            assert summary[f"{kind}_by_reason"] == {
                reason: ends.count(f"{kind}:{reason}") for reason in ("all_right", "all_wrong", "equal") if f"{kind}:{reason}" in ends
            }
        for state in GroupState:
            assert self.ledger.ids(state) == [group for group, end in self.truth.items() if end == state.value]


TestGroups = Groups.TestCase
TestGroups.settings = settings(max_examples=50, stateful_step_count=40, deadline=None)


def test_a_ledger_that_lost_a_group_is_refused() -> None:
    ledger = Ledger()
    for _ in range(3):
        ledger.open()
    document = ledger.to_json()
    del document["open"]["1"]
    with pytest.raises(LedgerError, match=r"does not balance.*'submitted': 3"):
        Ledger.from_json(document)


def test_messages_say_what_became_of_a_group() -> None:
    ledger = Ledger()
    group = ledger.open()
    with pytest.raises(LedgerError, match="group 0 is generating, not queued"):
        ledger.train(group)
    ledger.advance(group, VERIFYING)
    ledger.filter(group, "equal")
    with pytest.raises(LedgerError, match="group 0 is settled"):
        ledger.train(group)
    with pytest.raises(LedgerError, match="group 7 is not admitted"):
        ledger.advance(7, VERIFYING)
