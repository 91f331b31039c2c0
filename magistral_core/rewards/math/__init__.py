r"""Judging math answers: text to tree, tree against tree. What counts as equal, and why, is docs/math-verifier.md's page.

limits -> normalise -> reader (words, choices) -> grammar (formulas) -> compare -> scalars, sets -> evaluate
`----------------------- verdict.py: in any process, exact ------------------------'
                         judge.py: in a worker, with floats, SymPy and math-verify
"""

from magistral_core.rewards.math.verdict import Verdict, canonical_answer, quick_gold_verdict, quick_verdict

__all__ = ["Verdict", "canonical_answer", "quick_gold_verdict", "quick_verdict"]
