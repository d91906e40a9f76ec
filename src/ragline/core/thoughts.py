"""What a model thinks aloud before it answers, `<think>…</think>`, kept out of its answer."""

from __future__ import annotations

import re
from dataclasses import dataclass, field

# As Qwen, DeepSeek and others write them where their server does not take them out.
_TAGS = ("<think>", "<thinking>", "<thought>", "<reasoning>")
_LONGEST_END = max(len(tag) for tag in _TAGS) + 1


@dataclass(slots=True)
class Thoughts:
    """Takes off the thoughts that a text opens with, while the text comes in pieces.

    A block that is not closed is thought to its end. Tags further on are words like others.
    """

    _held: str = field(default="", init=False)
    _end: re.Pattern[str] | None = field(default=None, init=False)
    _is_over: bool = field(default=False, init=False)

    def said(self, piece: str) -> str:
        """Return what is surely said, of this piece and of what was held back before it."""
        self._held += piece
        while not self._is_over and (self._leave(self._end) if self._end else self._enter()):
            pass
        return self._released()

    def rest(self) -> str:
        """Return what was held back and turned out to be said, at the end of the text."""
        held, self._held = self._held, ""
        return "" if self._end else held

    def _released(self) -> str:
        return self.rest() if self._is_over else ""

    def _enter(self) -> bool:
        """Return whether the text opens with thoughts, which are entered."""
        self._held = self._held.lstrip()
        start = self._held[:_LONGEST_END].lower()
        for tag in _TAGS:
            if start.startswith(tag):
                self._held = self._held[len(tag) :]
                self._end = re.compile(f"</{tag[1:]}", re.IGNORECASE)
                return True
        self._is_over = not any(tag.startswith(start) for tag in _TAGS)
        return False

    def _leave(self, end: re.Pattern[str]) -> bool:
        """Return whether the thoughts are over. All but what may be half of their end is dropped."""
        found = end.search(self._held)
        if not found:
            self._held = self._held[-_LONGEST_END:]
            return False
        self._held, self._end = self._held[found.end() :], None
        return True
