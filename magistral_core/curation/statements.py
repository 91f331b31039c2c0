r"""Rules about a statement: is it complete, what does it ask for, has it parts. Pure regular expressions, linear in its length.

They look for general signs in the language of problems (English), never for particular items. What is doubtful, not decided, is a
`doubt`, and a question for the language-model step.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from magistral_core.curation.reasons import Reason

_DRAWN = re.compile(
    r"\[asy\]|\\begin\{(?:tikzpicture|asy|picture|tabular|array|matrix|[pbv]matrix|align\*?)\}|^\s*\|.*\|\s*$", re.MULTILINE
)
_IMAGE = re.compile(
    r"!\[[^\]]{0,200}\]\(|<img\b|\\includegraphics|\[(?:insert\s+)?(?:image|figure|fig|diagram|pict?)\w*[^\]]{0,30}\]"
    r"|\binsert (?:a )?(?:pic|image|figure)",
    re.IGNORECASE,
)
_FIGURE = r"(?:figures?|fig\.|diagrams?|illustrations?|sketch)"
#: Most statements hold none of these words, which a search without patterns tells soonest.
_PICTURE_WORDS = (
    *("figure", "fig.", "diagram", "illustrat", "sketch", "picture", "image", "drawing", "photo", "graph", "chart", "table", "grid", "map"),
    *("number line", "spinner", "shown", "depict"),
)
_POINTING_WORDS = (*_PICTURE_WORDS, "shaded", "below", "above")
_IMAGE_MARKS = ("[", "<img", "\\includegraphics", "insert")
_PROOF_WORDS = ("prove", "proof", "show", "demonstrate", "verify", "deduce", "conclude", "establish", "justify")
_PICTURE = r"(?:figures?|fig\.|diagrams?|illustrations?|sketch|pictures?|images?|drawings?|photos?|photographs?)"
_CHART = r"(?:graphs?|charts?|tables?|grid|maps?|number line|spinner|histogram|pictograph)"
_PLACE = r"(?:below|above|here|at (?:the )?(?:right|left)|(?:on|to) (?:the )?(?:right|left))"
#: A statement that points to a picture: "in the figure", "as shown", "the graph below", "the following diagram".
_POINTS = re.compile(
    rf"\b(?:in|on|from|of|see|to|using|observe|look at)\s+(?:the|this|these|each)\s+(?:\w+\s+)?{_FIGURE}(?!\w)"
    r"|\b(?:in|see|look at|from)\s+the\s+(?:picture|image|drawing)\b"
    r"|\bfig(?:ure\s|\.)\s*(?-i:\d|[A-Z]\d?\b|\$?\\left)"
    rf"|\b(?:{_PICTURE}|{_CHART})\s+(?:(?:is|are)\s+)?(?:(?:shown|given|drawn)\s+)?{_PLACE}\b"
    rf"|\b{_FIGURE}\s+(?:shows?|depicts?)\b"
    rf"|\bfollowing\s+(?:\w+\s+)?(?:{_PICTURE}|{_CHART})(?!\w)"
    r"|\bthe\s+(?:\w+\s+)?(?:figure|diagram|illustration)\s+(?:is|represents)\b"
    r"|\bas\s+(?:shown|pictured|depicted|illustrated)\b(?!\s+(?:that|to))|\b(?:is|are)\s+(?:pictured|depicted|graphed)\b"
    rf"|\b(?:shown|pictured|depicted|illustrated|graphed)\s+{_PLACE}\b",
    re.IGNORECASE,
)
_MAY_POINT = re.compile(rf"\b(?:{_PICTURE}|shown|shaded|below|above)(?!\w)", re.IGNORECASE)
#: What follows "shown below" in the text itself: a formula, a list, a colon with something behind it.
_HOLDS_WHAT_IT_SHOWS = re.compile(
    r"(?:below|above|following|shown|given|here)\b[^?]{0,120}?(?:\n|\$\$|\\\[|:|[.?]\s+\$)\s*\S", re.IGNORECASE | re.DOTALL
)

_VERBS = (
    "find|compute|determine|evaluate|calculate|simplify|solve|express|factor|expand|convert|write|give|state|list|describe|"
    "estimate|approximate|arrange|order|round|add|subtract|multiply|divide|name|identify|count|sum|fill|complete|choose|select|pick|"
    "match|represent|rewrite|reduce|differentiate|integrate|exhibit|characteri[sz]e|decide|maximi[sz]e|minimi[sz]e|let us know|"
    "construct|obtain|derive|work out|figure out|use|perform|tick|circle|observe|tell|guess|explain|classify|enter|design"
)
#: Any sign that something is asked; wide, since a problem without one is rejected.
_ASKS = re.compile(
    rf"[?？]|\btrue or false\b|(?:^|[.;,:]\s+)(?:is|are|does|do|can|could|will|must|has|have|return)\b|\b(?:{_VERBS})\b"
    r"|\b(?:what|how|which|who|whose|when|where|why|whether)\b|_{2,}|\\uline|\\underline|\\square",
    re.IGNORECASE,
)
#: What asks in other languages is not known here: only English statements can lack a question.
_ENGLISH = re.compile(r"\b(?:the|of|is|are|and|has|have|with|that|there|if)\b", re.IGNORECASE)
#: A sentence to be completed: "the sum is", "x =".
_OPEN_END = re.compile(
    r"(?:\b(?:is|are|was|were|be|equals?|to|by|of|than|has|have|for|at|in)|=|:|\(\s*\)|\.{3}|…)[\s$.．~]*$", re.IGNORECASE
)

#: "Show" and its like ask for a proof where a claim follows; "prove" always does. "Justify your answer" asks for none.
_PROOF = re.compile(
    r"(?:^|[.;:!?,\n}$\])]|\b(?:and|then|to|also|please|thus|hence|we|must|carefully|now|or|respectively)\b)\W{0,9}"
    r"(?:(?:dis)?prove\b(?!\s+your\b)"
    r"|(?:show|demonstrate|verify|deduce|conclude|establish|justify)\b(?:\W{1,9}\w+){0,3}?\W{1,9}(?:that|if|whether|why|there)\b"
    r"|(?:show|demonstrate|verify|deduce|establish|justify)\b(?:\s+the\s+(?:following|inequality|identity|equality|statement|claim)|\s*:|\s*\\?[$\[(])"
    r"|give\s+(?:a|an)\s+(?:\w+\s+)?proof\b)",
    re.IGNORECASE,
)
#: A task with a result beside a proof: "find, with proof, the least n", "prove that it converges, and evaluate it".
_RESULT = re.compile(
    r"(?:^|[.;:!?,\n}$\])]|\b(?:and|then|to|also|please)\b)\W{0,9}(?:find|compute|determine|evaluate|calculate|express|exhibit)\b"
    r"|\bwhat\s+(?:is|are)\b|\b(?:how\s+(?:many|much|long|far|large|small|old|often|tall|fast)|for\s+(?:what|which))\b[^.?]{0,300}\?",
    re.IGNORECASE,
)

#: The end of a statement, where cut and open ends show.
_TAIL = 200
_DANGLING = re.compile(
    # `a` may be what is asked for, and `A` is a name.
    r"(?:^|\s)(?:(?<!\bfind )(?<!solve for )(?<!value of )(?<!= )(?-i:a)|an|the|and|or|but|if|that|which|such|so|because|with|without|from|"
    r"into|onto|through|between|does|do|did|whose|where|when|while|than|as|let|suppose|given|their|his|her|its|my|your)\s*$",
    re.IGNORECASE,
)
#: The dots behind `7,` are a sequence's.
_TRAILS_OFF = re.compile(r"(?:[a-z]|(?<!\d),)\s*(?:\.\.\.|…)\s*$")
_ENDS_INSIDE = re.compile(r"[a-z,]-$|[,(\[{]\s*$")
_MATH_OPEN = re.compile(r"\\[a-zA-Z]+|[\^_]")
_ENVIRONMENT = re.compile(r"\\(begin|end)\{([a-zA-Z*]+)\}")

_PART = re.compile(r"(?:^|[\s.;:?!$}])(?:\\item\s*)?(?:part\s+)?\(?(?<![A-Za-z])([a-h]|i{1,3}|iv|v|[1-6])[).](?=\s|\$)", re.IGNORECASE)
_LABELS = (("a", "b", "c", "d"), ("i", "ii", "iii", "iv"), ("1", "2", "3", "4"))
_STARTS_WITH_A_TASK = re.compile(rf"\W*(?:{_VERBS})\b", re.IGNORECASE)
_RESPECTIVELY = re.compile(r"\b(?:how|what|find|is|are)\b[^.?]{0,120}\brespectively\W{0,9}$", re.IGNORECASE)
_BLANK = re.compile(r"_{3,}|\\u(?:line|nderline)\{[~\s\\]*(?:hspace\{[^{}]*\})?\}")
_SENTENCE = re.compile(r"(?<=[.?!？])[\"')\]]*\s+|\n+")
_QUESTION_WORD = re.compile(
    r"\b(?:what|how|which|who|when|where|find|compute|determine|calculate)\b(?:\W{1,9}\w+){0,40}?\W{0,9}[?？]\W{0,9}$",
    re.IGNORECASE | re.DOTALL,
)
_QUOTED = re.compile(r"[\"“][^\"”]*[\"”]")


@dataclass(frozen=True, slots=True)
class Finding:
    """What a rule found: a reason to reject, with the words that gave it away.

    `options` and `right` (the right one's content) are those of a multiple choice that rules cannot rewrite; a model may.
    """

    reason: Reason
    detail: str
    options: tuple[str, ...] = ()
    right: str = ""


def incomplete(question: str, *, picture: bool = False, has_choices: bool = False) -> Finding | None:
    """Why a statement cannot be answered as it stands, or None.

    Args:
        question: the statement, stripped.
        picture: a picture belongs to the row.
        has_choices: options follow the statement, which may then be a sentence to be completed.
    """
    if not any(character.isalnum() for character in question):
        return Finding(Reason.EMPTY, question or "no statement")
    if picture:
        return Finding(Reason.MISSING_FIGURE, "the row names a picture")
    if found := _missing_figure(question):
        return Finding(Reason.MISSING_FIGURE, _shown(found))
    if (cut := _cut_off(question, has_choices)) is not None:
        return Finding(Reason.CUT_OFF, cut)
    if _ENGLISH.search(question) and not (
        has_choices or "?" in question or _ASKS.search(question) or _OPEN_END.search(question[-_TAIL:]) or _asks_for_proof(question)
    ):
        return Finding(Reason.NO_QUESTION, question[-60:])
    return None


def proof_only(question: str) -> Finding | None:
    """A statement that asks for a proof and for no result, or None."""
    found = _asks_for_proof(question)
    if found is None or _RESULT.search(question):
        return None
    return Finding(Reason.PROOF, _shown(found))


def several_parts(question: str) -> Finding | None:
    """Labelled parts that each ask, several blanks, or several questions in the end; None for a single task."""
    if len(_BLANK.findall(question)) > 1:
        return Finding(Reason.MULTI_PART, "several blanks")
    if found := _RESPECTIVELY.search(question[-_TAIL:]):
        return Finding(Reason.MULTI_PART, _shown(found))
    found_labels = list(_PART.finditer(question))
    for labels in _LABELS:
        starts = _labelled(found_labels, labels)
        if len(starts) >= 2:
            pieces = [question[begin:end] for begin, end in zip(starts, [*starts[1:], len(question)], strict=True)]
            if sum(map(_is_task, pieces)) >= 2:
                return Finding(Reason.MULTI_PART, f"parts {labels[0]}, {labels[1]}")
    sentences = [part.strip() for part in _SENTENCE.split(_QUOTED.sub(" ", question)) if part.strip()]
    asking = [sentence for sentence in sentences[-2:] if _QUESTION_WORD.search(sentence)]
    if len(asking) == 2:
        return Finding(Reason.MULTI_PART, " | ".join(sentence[-60:] for sentence in asking))
    return None


def doubt(question: str) -> str:
    """What the rules let pass with an uneasy feeling; empty if nothing."""
    if _holds(question, _POINTING_WORDS) and _MAY_POINT.search(question) and not _DRAWN.search(question):
        return "may need a figure"
    if _asks_for_proof(question):
        return "asks for a proof beside a result"
    if question.count("?") + question.count("？") > 1 and len(re.findall(r"[?？]", _QUOTED.sub(" ", question))) > 1:
        return "more than one question mark"
    return ""


def ends_open(question: str) -> bool:
    """Whether a statement is a sentence to be completed."""
    return not re.search(r"[?？]\W{0,9}$", question[-_TAIL:]) and bool(_OPEN_END.search(question[-_TAIL:]))


def _cut_off(question: str, has_choices: bool) -> str | None:
    tail = question[-_TAIL:]
    if not has_choices and any(rule.search(tail) for rule in (_TRAILS_OFF, _DANGLING, _ENDS_INSIDE)):
        return tail[-40:]
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


def _missing_figure(question: str) -> re.Match[str] | None:
    """Where a statement points to a picture that its text does not hold."""
    if _holds(question, _IMAGE_MARKS) and (found := _IMAGE.search(question)):
        return found
    found = _POINTS.search(question) if _holds(question, _PICTURE_WORDS) else None
    if found is None or _DRAWN.search(question) or _HOLDS_WHAT_IT_SHOWS.search(question, found.start()):
        return None
    return found


def _asks_for_proof(question: str) -> re.Match[str] | None:
    return _PROOF.search(question) if _holds(question, _PROOF_WORDS) else None


def _holds(question: str, words: Sequence[str]) -> bool:
    lower = question.lower()
    return any(word in lower for word in words)


def _is_task(part: str) -> bool:
    """Whether a labelled part asks for something; a labelled condition does not."""
    after_label = part[part.find(")") + 1 :] if ")" in part[:5] else part[2:]
    return bool("?" in part or _STARTS_WITH_A_TASK.match(after_label) or _RESULT.search(after_label) or _PROOF.search(after_label))


def _labelled(found_labels: Sequence[re.Match[str]], labels: tuple[str, ...]) -> list[int]:
    """Where labels a, b, ... stand in order."""
    starts: list[int] = []
    for found in found_labels:
        if len(starts) < len(labels) and found.group(1) == labels[len(starts)]:
            starts.append(found.start(1))
    return starts


def _shown(found: re.Match[str]) -> str:
    return " ".join(found.group().split())[:80]
