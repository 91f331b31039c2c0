"""What an evaluation found, as JSON for programs and as a table for people."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class EvaluationReport:
    """Measures of one model on one suite.

    Attributes:
        suite, model: what was measured on what.
        samples: completions per problem, the k of maj@k.
        totals: measures over all problems, see `metrics.summarise`.
        by_level, by_language: the same for each level and language that occurs, if more than one does.
        unverifiable: problems whose reference answer cannot be compared with; they count as wrong.
        unjudged: completions at which the verifier itself broke; they count in no measure.
        seconds: wall time.
        settings: what the samples were drawn with.
    """

    suite: str
    model: str
    samples: int
    totals: Mapping[str, Any]
    by_level: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    by_language: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    unverifiable: int = 0
    unjudged: int = 0
    seconds: float = 0.0
    settings: Mapping[str, Any] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """One flat object with the totals at its top."""
        return {
            "suite": self.suite,
            "model": self.model,
            "samples": self.samples,
            **self.totals,
            "by_level": dict(self.by_level),
            "by_language": dict(self.by_language),
            "unverifiable": self.unverifiable,
            "unjudged": self.unjudged,
            "seconds": self.seconds,
            "settings": dict(self.settings),
        }

    def to_markdown(self) -> str:
        """A table: all problems, then each level and language."""
        names = [name for name in self.totals if name != "pass_at_1_error"]
        rows = [("all", self.totals)]
        rows += [(f"level {level}", measures) for level, measures in self.by_level.items()]
        rows += [(language, measures) for language, measures in self.by_language.items()]
        lines = [f"| {self.suite} | {' | '.join(names)} |", f"|---|{'---|' * len(names)}"]
        lines += [f"| {label} | {' | '.join(_cell(measures[name]) for name in names)} |" for label, measures in rows]
        if self.unverifiable:
            lines += ["", f"{self.unverifiable} problems have a reference answer that nothing can be compared with; they count as wrong."]
        if self.unjudged:
            lines += ["", f"The verifier broke at {self.unjudged} completions; they are left out."]
        return "\n".join(lines)


def _cell(value: Any) -> str:
    if value is None:
        return "-"
    return f"{value:.3f}" if isinstance(value, float) else str(value)
