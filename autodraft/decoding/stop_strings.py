"""Text from tokens as they come, and the end of a generation at a string.

Knows nothing of decoding: `StopStrings` is one `StopCondition` among others. Text is detokenised incrementally, so a
long output costs no more per token than a short one, and characters that span several tokens appear when they are
whole.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from autodraft.errors import InputError

_INCOMPLETE = "\ufffd"  # what a tokenizer makes of a character whose last bytes are still to come


class IncrementalText:
    """The text of a growing list of tokens.

    Args:
        tokenizer: a Hugging Face tokenizer.
        skip_special_tokens: leave out tokens such as EOS.
    """

    def __init__(self, tokenizer: Any, *, skip_special_tokens: bool = True) -> None:
        self._tokenizer = tokenizer
        self._skip_special_tokens = skip_special_tokens
        self.reset()

    def reset(self) -> None:
        """Start a new text."""
        self.text = ""
        self._tokens: list[int] = []
        # Tokens from `_start` on are decoded together, for the spaces between them; those before `_end` are in `text`.
        self._start, self._end = 0, 0

    def push(self, tokens: Sequence[int]) -> str:
        """Append tokens; returns the text that became certain with them ("" within a character)."""
        before = len(self.text)
        for token in tokens:
            self._tokens.append(token)
            self._take(final=False)
        return self.text[before:]

    def finish(self) -> str:
        """No more tokens: returns what was held back, incomplete characters as the tokenizer shows them."""
        before = len(self.text)
        self._take(final=True)
        return self.text[before:]

    def _take(self, final: bool) -> None:
        known = self._decode(self._tokens[self._start : self._end])
        longer = self._decode(self._tokens[self._start :])
        if len(longer) > len(known) and (final or not longer.endswith(_INCOMPLETE)):
            self.text += longer[len(known) :]
            self._start, self._end = self._end, len(self._tokens)

    def _decode(self, tokens: list[int]) -> str:
        text: str = self._tokenizer.decode(
            tokens, skip_special_tokens=self._skip_special_tokens, clean_up_tokenization_spaces=False
        )
        return text


class StopStrings:
    """A stop condition: the generation ends once its text contains one of some strings.

    Give one to `CascadeDecoder.generate(stop=...)`; it may be used for one generation after another. Afterwards `text`
    is the output without the stop string and what follows it, and `matched` is the string that was found.

    Args:
        tokenizer: a Hugging Face tokenizer.
        strings: any of them ends the text; none at all never does.
    """

    def __init__(self, tokenizer: Any, strings: Sequence[str]) -> None:
        if isinstance(strings, str) or any(not isinstance(string, str) or not string for string in strings):
            raise InputError("stop strings must be a list of strings that are not empty")
        self.strings = tuple(strings)
        self._text = IncrementalText(tokenizer)
        self._restart()

    def _restart(self) -> None:
        self._text.reset()
        self._num_tokens = 0
        self._num_printed = 0
        self.matched: str | None = None
        self._cut: int | None = None

    def __call__(self, tokens: list[int]) -> bool:
        """Whether the text of all new `tokens` so far contains a stop string; a shorter list starts a new text."""
        if len(tokens) <= self._num_tokens:
            self._restart()
        searched = len(self._text.text)
        self._text.push(tokens[self._num_tokens :])
        self._num_tokens = len(tokens)
        self._find(searched)
        return self.matched is not None

    def _find(self, searched: int) -> None:
        """Look for the stop string that begins first; `searched` characters have been looked through before."""
        text = self._text.text
        found = [(text.find(string, max(0, searched - len(string) + 1)), string) for string in self.strings]
        matches = [match for match in found if match[0] >= 0]
        if matches:
            self._cut, self.matched = min(matches, key=lambda match: (match[0], -len(match[1])))

    @property
    def text(self) -> str:
        """The output so far, cut before the stop string."""
        return self._text.text[: self._cut]

    def printable(self, *, final: bool = False) -> str:
        """Text since the last call that no later token can take back; with `final` all that is left.

        For streaming: text that could be the beginning of a stop string is held back until that is decided.
        """
        if final and self.matched is None:
            self._text.finish()
        text = self.text
        end = len(text)
        if not final and self.matched is None:
            end -= max((_overlap(text, string) for string in self.strings), default=0)
        piece = text[self._num_printed : end]
        self._num_printed = max(self._num_printed, end)
        return piece


def _overlap(text: str, string: str) -> int:
    """Length of the longest end of `text` that is a proper beginning of `string`."""
    return next((size for size in range(min(len(text), len(string) - 1), 0, -1) if text.endswith(string[:size])), 0)
