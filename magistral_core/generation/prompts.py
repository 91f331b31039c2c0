"""The default system prompt, in our own words."""

from __future__ import annotations

from magistral_core.config.schema import PromptSettings

#: What the paper's prompt asks for (section 2.2): thoughts and answer in the user's language, thinking as casual and as long as
#: wanted, which raises entropy; and what the printed one leaves unsaid: the box, and the named code block.
_DEFAULT = """\
Think before you answer. Put your thoughts between {open} and {close}, and think in the language of the user's message. \
Nobody grades this part, so write it as casually and make it as long as you like: try things out, doubt them, start over, \
and check until you trust the result.
After {close} give your answer in the same language, complete and easy to follow without the thoughts. \
If the task is a mathematical problem, put the final result, and only that, inside \\boxed{{}}. \
If the task asks for a program, give all of it in one fenced code block that names its language, for example ```python or ```cpp."""


def system_prompt(settings: PromptSettings) -> str | None:
    """The system message of a recipe, or None for none."""
    if settings.system == "default":
        return _DEFAULT.format(open=settings.think_open, close=settings.think_close)
    return settings.system
