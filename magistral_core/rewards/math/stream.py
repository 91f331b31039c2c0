"""A position in a list of tokens: looking, taking, and what an unexpected token means."""

from __future__ import annotations

from collections.abc import Sequence

from magistral_core.rewards.math import words
from magistral_core.rewards.math.nodes import UnreadableError, UnsupportedError
from magistral_core.rewards.math.tokens import Token


class TokenStream:
    """Reads tokens from left to right; the last is of kind `stop`."""

    def __init__(self, tokens: list[Token]) -> None:
        self._tokens = tokens
        self._at = 0

    def _peek(self, ahead: int = 0) -> Token:
        return self._tokens[min(self._at + ahead, len(self._tokens) - 1)]

    def _take(self) -> Token:
        token = self._peek()
        if token.kind == "stop":
            raise UnreadableError("the text ends too soon")
        self._at += 1
        return token

    def _accept(self, *texts: str) -> bool:
        token = self._peek()
        if token.kind in ("sym", "cmd") and token.text in texts:
            self._at += 1
            return True
        return False

    def _expect(self, *texts: str) -> None:
        if not self._accept(*texts):
            raise self._unexpected()

    def _unexpected(self) -> UnreadableError:
        token = self._peek()
        if token.kind == "cmd" and token.text[1:] in words.UNSUPPORTED:
            return UnsupportedError(f"{token.text} is left to math-verify")
        return UnreadableError(f"unexpected {token.text!r}" if token.text else "the text ends too soon")

    def _raw_argument(self) -> str:
        """The text of an argument, for names: `12` of `x_{12}`."""
        if not self._accept("{"):
            return self._take().text.strip()
        pieces: list[str] = []
        depth = 1
        while True:
            token = self._take()
            depth += (token.text == "{") - (token.text == "}")
            if depth == 0:
                return "".join(pieces)
            pieces.append(token.text.strip())

    def _split_word(self, parts: Sequence[str]) -> None:
        """Replace the next token by several words."""
        self._tokens[self._at : self._at + 1] = [Token("word", part, self._peek().space and not i) for i, part in enumerate(parts)]
