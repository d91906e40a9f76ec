"""What PostgreSQL can hold as a text: all but NUL, and halves of characters, which UTF-8 has not."""

from __future__ import annotations

_NOT_IN_TEXT = {0: "\ufffd"} | dict.fromkeys(range(0xD800, 0xE000), "\ufffd")


def is_text(name: str) -> bool:
    """Whether a name can be sent at all."""
    return name == storable(name)


def storable(text: str) -> str:
    """Return a text with U+FFFD for what PostgreSQL cannot hold."""
    return text.translate(_NOT_IN_TEXT)
