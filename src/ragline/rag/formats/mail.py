"""E-mail (RFC 5322): subject, sender and text; attachments are named, not opened."""

from __future__ import annotations

from codecs import BOM_UTF8
from email import policy
from email.errors import MessageError
from email.message import EmailMessage
from email.parser import BytesHeaderParser, BytesParser
from typing import TYPE_CHECKING, Any

from ragline.rag.formats import Parsed, Rejected, html, text
from ragline.rag.formats.text import clean

if TYPE_CHECKING:
    from collections.abc import Iterator

_MOST_ATTACHMENTS_NAMED = 100
_MOST_DEPTH = 50
_MOST_PARTS = 2000
_HEADER_BYTES = 1 << 16
_LONGEST_ID = 1900
# What the parsers of headers and parts let through from damaged messages.
_FAULTS = (MessageError, AssertionError, AttributeError, LookupError, TypeError, ValueError)


def parse(data: bytes) -> Parsed:
    """Return the text of a message; who wrote it to whom and when are metadata."""
    if not data.strip():
        raise Rejected("EMPTY", "the file is empty")
    message = read(data)
    try:
        body = _body(message)
        about = dict(_about(message))
        subject = _header(message, "subject")
    except RecursionError as error:
        raise _too_deep() from error
    except _FAULTS as error:
        raise Rejected("DAMAGED", f"the message cannot be read: {error}") from error
    if body is None:
        raise Rejected("NO_TEXT", "the message has no text, only attachments")
    if (name := message_id(data)) is not None:
        about["message_id"] = name
    return Parsed(body.text, body.blocks, subject or body.title, about)


def read(data: bytes) -> EmailMessage:
    """Return the message in `data`; raise Rejected for what is none."""
    try:
        message = BytesParser(policy=policy.default).parsebytes(data)
        is_message = bool(message.keys())
    except RecursionError as error:
        raise _too_deep() from error
    except _FAULTS as error:
        raise Rejected("DAMAGED", f"the message cannot be read: {error}") from error
    if not is_message:
        raise _no_message()
    _check_parts(message)
    return message


def message_id(data: bytes) -> str | None:
    """Return the Message-ID of a message, or None where there is none that can be used.

    Read as it stands: what takes its parts apart stumbles over, or takes minutes for, a bad one.
    Raises Rejected for what is no message.
    """
    header = BytesHeaderParser(policy=policy.compat32).parsebytes(data[:_HEADER_BYTES])
    if not header.keys():
        raise _no_message()
    found = header.get("message-id")
    if not isinstance(found, str) or len(found) > _LONGEST_ID:  # bytes that are no text
        return None
    return " ".join(clean(found).split()).strip("<>") or None


def _no_message() -> Rejected:
    return Rejected("DAMAGED", "this is no message: it has no header")


def _check_parts(message: EmailMessage) -> None:
    todo: list[tuple[Any, int]] = [(message, 0)]
    seen = 0
    while todo:
        part, depth = todo.pop()
        seen += 1
        if depth > _MOST_DEPTH or seen > _MOST_PARTS:
            raise _too_deep()
        if part.is_multipart():
            todo += ((one, depth + 1) for one in part.get_payload())


def _too_deep() -> Rejected:
    return Rejected(
        "TOO_DEEP",
        f"its parts are nested more than {_MOST_DEPTH} deep, or there are more than {_MOST_PARTS}",
    )


def _body(message: EmailMessage) -> Parsed | None:
    """Return the plain text, or the HTML where there is no plain text with words in it."""
    parsers = {"plain": text.parse, "html": html.parse}
    for kind, parser in parsers.items():
        part = message.get_body(preferencelist=(kind,))
        if part is None:
            continue
        try:
            # The declared charset has been applied; a mark tells the parser so.
            source = clean(_content(part))
            return parser(BOM_UTF8 + source.encode())
        except Rejected as rejected:
            if rejected.reason not in ("EMPTY", "NO_TEXT"):
                raise
    return None


def _content(part: Any) -> str:
    try:
        return str(part.get_content())
    except LookupError:  # a charset that Python does not know
        payload: bytes = part.get_payload(decode=True)
        return payload.decode("utf-8", errors="replace")


def _about(message: EmailMessage) -> Iterator[tuple[str, Any]]:
    for name in ("from", "to", "cc"):
        if value := _header(message, name):
            yield name, value
    date = message["date"]
    if date is not None and getattr(date, "datetime", None):
        yield "date", date.datetime.isoformat()
    names = [clean(part.get_filename() or "") for part in message.iter_attachments()]
    if named := [name for name in names if name][:_MOST_ATTACHMENTS_NAMED]:
        yield "attachments", named


def _header(message: EmailMessage, name: str) -> str:
    return " ".join(clean(str(message.get(name, ""))).split())
