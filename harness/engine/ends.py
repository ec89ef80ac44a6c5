"""Ends an answer at a text, such as the blank line or the next question that a task names (lm-eval's `until`)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any


class Ends:
    """Tells by the tokens of an answer whether one of some texts stands in it. What it says is what its decoded text
    says; that is looked at only after a token that could be the last of one of the texts. `stops` are those of the
    texts that are special tokens, which decoding leaves out: such a token ends an answer as a stop token does."""

    def __init__(self, tokenizer: Any, texts: Sequence[str]) -> None:
        self.tokenizer = tokenizer
        self.texts = [text for text in texts if text]
        self._last = {text[-1] for text in self.texts}
        self._could: dict[int, bool] = {}
        known = tokenizer.added_tokens_decoder if self.texts else {}
        self.stops = {token for token, added in known.items() if added.special and added.content in self.texts}

    def reached(self, tokens: Sequence[int]) -> bool:
        """Whether an answer of these tokens ends with the last of them, if it did not before."""
        if not self.texts or not self._could_end(tokens[-1]):
            return False
        text = self.tokenizer.decode(tokens, skip_special_tokens=True)
        return any(end in text for end in self.texts)

    def _could_end(self, token: int) -> bool:
        if token not in self._could:
            text = self.tokenizer.decode([token])
            part = "\ufffd" in text  # of a character, which others make whole
            # a single token loses the space that it begins with
            self._could[token] = part or " " in self._last or not self._last.isdisjoint(text)
        return self._could[token]
