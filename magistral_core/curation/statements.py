r"""Rules about a statement: is it complete, what does it ask for, has it parts. Pure regular expressions, linear in its length.

They look for general signs in the language of problems (English), never for particular items. What is doubtful, not decided, is a
`doubt`, and a question for the language-model step.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from magistral_core.curation.reasons import Reason

_DRAWN = re.compile(r"\[asy\]|\\begin\{(?:tikzpicture|asy|picture|tabular|array|matrix|[pbv]matrix|align\*?)\}|\|.*\|.*\n.*\|", re.DOTALL)
_IMAGE = re.compile(r"!\[[^\]]*\]\(|<img\b|\\includegraphics|\[(?:image|figure|diagram|picture)[^\]]{0,30}\]", re.IGNORECASE)
_PICTURE = r"(?:figures?|fig\.|diagrams?|pictures?|images?|illustrations?|drawings?|sketch|photos?|photographs?)"
_CHART = r"(?:graphs?|charts?|tables?|grid|maps?|number line|spinner|bar graph|histogram|pictograph|venn diagram)"
#: A statement that points to a picture: "in the figure", "as shown", "the graph below", "the following diagram".
_POINTS = re.compile(
    rf"\b(?:in|on|from|of|see|to|using|by|under|observe|look at)\s+(?:the|this|these|each|which)\s+(?:\w+\s+){{0,2}}{_PICTURE}(?!\w)"
    rf"|\bfig(?:ure|\.)\s*(?:\d|[A-Z]\d?\b)"
    rf"|\b{_PICTURE}\s+(?:(?:is|are)\s+)?(?:shown\s+)?(?:below|above|at (?:the )?(?:right|left)|on (?:the )?(?:right|left)|shows?|depicts?)\b"
    rf"|\b{_CHART}\s+(?:(?:is|are)\s+)?(?:(?:shown|given)\s+)?(?:below|above|at (?:the )?(?:right|left)|on the (?:right|left))\b"
    rf"|\bfollowing\s+(?:\w+\s+)?(?:{_PICTURE}|{_CHART})(?!\w)"
    rf"|\bthe\s+(?:\w+\s+)?(?:{_PICTURE})\s+(?:is|are)\b"
    rf"|\b(?:as|is|are)\s+(?:shown|pictured|depicted|illustrated|drawn|graphed)\b(?!\s+(?:that|to))"
    rf"|\b(?:shown|pictured|depicted|illustrated|graphed)\s+(?:here|below|above|at (?:the )?(?:right|left))\b"
    rf"|\bshaded\s+(?:area|region|part|portion|figure|square|triangle|circle)s?\b(?=.*\b(?:shown|below|above|figure|diagram|picture)\b)",
    re.IGNORECASE | re.DOTALL,
)
#: What follows "shown below" in the text itself: a formula, a list, a colon with something behind it.
_HOLDS_WHAT_IT_SHOWS = re.compile(r"(?:below|above|following|shown|given)\b[^?]{0,80}?[:.?]?\s*(?:\n|\$\$|\\\[|:)\s*\S", re.IGNORECASE | re.DOTALL)

_VERBS = (
    "find|compute|determine|evaluate|calculate|simplify|solve|express|factor|expand|convert|write|give|state|list|describe|"
    "estimate|approximate|arrange|order|round|add|subtract|multiply|divide|name|identify|count|sum|fill|complete|choose|select|pick|"
    "match|represent|rewrite|reduce|differentiate|integrate|exhibit|characteri[sz]e|decide|maximi[sz]e|minimi[sz]e|let us know|"
    "construct|obtain|derive|work out|figure out|use|perform|tick|circle|observe|tell|guess|explain|classify|enter|design"
)
#: Any sign that something is asked; wide, since a problem without one is rejected.
_ASKS = re.compile(
    rf"[?？]|\b(?:{_VERBS})\b|\b(?:what|how|which|who|whose|when|where|why|whether)\b|_{{2,}}|\\uline|\\underline|\\square|\\ldots\s*\$*\s*$",
    re.IGNORECASE,
)
#: A sentence to be completed: "the sum is", "x =".
_OPEN_END = re.compile(r"(?:\b(?:is|are|was|were|be|equals?|to|by|of|than|has|have|for|at|in)|=|:|\(\s*\)|\.{3}|…)[\s$.．~]*$", re.IGNORECASE)

_PROOF = re.compile(
    r"(?:^|[.;:!?,\n}$\]]|\b(?:and|then|to|also|please|thus|hence|we|must|carefully|now|or|respectively)\b)\W*"
    r"(?:(?:prove|show|disprove|demonstrate|verify|deduce|conclude|establish|justify)\b|give\s+(?:a|an)\s+(?:\w+\s+)?proof\b)"
    r"(?!\s+(?:your\s+(?:work|answer|claim|steps|calculations?|reasoning|solution)|all\s+(?:your\s+)?(?:work|steps)|the\s+(?:number|amount|total)))",
    re.IGNORECASE,
)
#: A task with a result beside a proof: "find, with proof, the least n", "prove that it converges, and evaluate it".
_RESULT = re.compile(
    r"(?:^|[.;:!?,\n}$\]]|\b(?:and|then|to|also|please)\b)\W*(?:find|compute|determine|evaluate|calculate|express|exhibit)\b"
    r"|\b(?:what|how\s+(?:many|much|long|far|large|small|old|often|tall|fast)|for\s+(?:what|which))\b[^.?]*\?",
    re.IGNORECASE,
)

_DANGLING = re.compile(
    r"(?:^|\s)(?:a|an|the|and|or|but|if|that|which|such|so|because|with|without|from|into|onto|through|between|does|do|did|whose|"
    r"where|when|while|than|as|let|suppose|given|their|his|her|its|my|your)\s*$",
    re.IGNORECASE,
)
_TRAILS_OFF = re.compile(r"[a-z,]\s*(?:\.\.\.|…)\s*$")
_ENDS_INSIDE = re.compile(r"[a-z,]-$|[,(\[{]\s*$")
_MATH_OPEN = re.compile(r"\\[a-zA-Z]+|[\^_]")
_ENVIRONMENT = re.compile(r"\\(begin|end)\{([a-zA-Z*]+)\}")

_PART = re.compile(r"(?:^|[\s.;:?!$}])(?:\\item\s*)?(?:part\s+)?\(?(?<![A-Za-z])([a-h]|i{1,3}|iv|v|[1-6])[).](?=\s|\$)", re.IGNORECASE)
_LABELS = (("a", "b", "c", "d"), ("i", "ii", "iii", "iv"), ("1", "2", "3", "4"))
_SENTENCE = re.compile(r"(?<=[.?!？])[\"')\]]*\s+|\n+")
_QUESTION_WORD = re.compile(
    r"\b(?:what|how|which|who|when|where|find|compute|determine|calculate)\b(?:\W+\w+){0,40}?\W*[?？]\W*$", re.IGNORECASE | re.DOTALL
)
_QUOTED = re.compile(r"[\"“][^\"”]*[\"”]")


@dataclass(frozen=True, slots=True)
class Finding:
    """What a rule found: a reason to reject, with the words that gave it away."""

    reason: Reason
    detail: str


def incomplete(question: str, *, picture: bool = False, has_choices: bool = False) -> Finding | None:
    """Why a statement cannot be answered as it stands, or None.

    Args:
        question: the statement, stripped.
        picture: a picture belongs to the row.
        has_choices: options follow the statement, which may then be a sentence to be completed.
    """
    if not question:
        return Finding(Reason.EMPTY, "no statement")
    if picture:
        return Finding(Reason.MISSING_FIGURE, "the row names a picture")
    if found := _IMAGE.search(question):
        return Finding(Reason.MISSING_FIGURE, _shown(found))
    if not _DRAWN.search(question) and (found := _POINTS.search(question)) and not _HOLDS_WHAT_IT_SHOWS.search(question, found.start()):
        return Finding(Reason.MISSING_FIGURE, _shown(found))
    if (cut := _cut_off(question, has_choices)) is not None:
        return Finding(Reason.CUT_OFF, cut)
    if not (has_choices or _ASKS.search(question) or _OPEN_END.search(question) or _PROOF.search(question)):
        return Finding(Reason.NO_QUESTION, question[-60:])
    return None


def proof_only(question: str) -> Finding | None:
    """A statement that asks for a proof and for no result, or None."""
    found = _PROOF.search(question)
    if found is None or _RESULT.search(question):
        return None
    return Finding(Reason.PROOF, _shown(found))


def several_parts(question: str) -> Finding | None:
    """Labelled parts that each ask, or several questions in the end; None for a single task."""
    for labels in _LABELS:
        starts = _labelled(question, labels)
        if len(starts) >= 2:
            pieces = [question[begin:end] for begin, end in zip(starts, [*starts[1:], len(question)], strict=True)]
            if sum(bool(_ASKS.search(piece) or _PROOF.search(piece)) for piece in pieces) >= 2:
                return Finding(Reason.MULTI_PART, f"parts {labels[0]}, {labels[1]}")
    sentences = [part.strip() for part in _SENTENCE.split(_QUOTED.sub(" ", question)) if part.strip()]
    asking = [sentence for sentence in sentences[-2:] if _QUESTION_WORD.search(sentence)]
    if len(asking) == 2:
        return Finding(Reason.MULTI_PART, " | ".join(sentence[-60:] for sentence in asking))
    return None


def doubt(question: str) -> str:
    """What the rules let pass with an uneasy feeling; empty if nothing."""
    if not _DRAWN.search(question) and re.search(rf"\b(?:{_PICTURE}|shown|shaded|below|above)(?!\w)", question, re.IGNORECASE):
        return "may need a figure"
    if _PROOF.search(question):
        return "asks for a proof beside a result"
    if len(re.findall(r"[?？]", _QUOTED.sub(" ", question))) > 1:
        return "more than one question mark"
    return ""


def ends_open(question: str) -> bool:
    """Whether a statement is a sentence to be completed."""
    return not re.search(r"[?？]\W*$", question) and bool(_OPEN_END.search(question))


def _cut_off(question: str, has_choices: bool) -> str | None:
    if _TRAILS_OFF.search(question) and not has_choices:
        return question[-40:]
    if not has_choices and (_DANGLING.search(question) or _ENDS_INSIDE.search(question)):
        return question[-40:]
    opened: list[str] = []
    for found in _ENVIRONMENT.finditer(question):
        if found.group(1) == "begin":
            opened.append(found.group(2))
        elif opened:
            opened.pop()
    if opened:
        return f"\\begin{{{opened[-1]}}} without its end"
    if question.count("\\[") - question.count("\\\\[") > question.count("\\]"):
        return "\\[ without its end"
    if question.replace("\\$", "").count("$") % 2:
        rest = question.replace("\\$", "").rpartition("$")[2]
        if _MATH_OPEN.search(rest) and rest.count("{") > rest.count("}"):
            return f"${rest[-40:]}"
    return None


def _labelled(question: str, labels: tuple[str, ...]) -> list[int]:
    """Where labels a, b, ... stand in order."""
    starts: list[int] = []
    for found in _PART.finditer(question):
        if len(starts) < len(labels) and found.group(1) == labels[len(starts)]:
            starts.append(found.start(1))
    return starts


def _shown(found: re.Match[str]) -> str:
    return " ".join(found.group().split())[:80]
