"""Pages of the web: off unless allowed, and never from inside the network.

A name is resolved once, every address it has is checked, and the connection goes to an address that
was checked: a name that changes its address in between leads nowhere. So it is with each redirect.
Proxies of the environment are not used; they would resolve the name again.
"""

from __future__ import annotations

import asyncio
import http.client
import ipaddress
import re
import socket
from codecs import BOM_UTF8
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from urllib.parse import SplitResult, quote, urldefrag, urljoin, urlsplit

from ragline.core.results import Rejection
from ragline.rag.formats import PARSERS, RECORDS, Rejected, media_type, media_types_of_text
from ragline.rag.formats.text import WEB_CHARSET
from ragline.rag.page_request import PORTS, Answer, Target, exchange
from ragline.rag.sources import Source

Address = ipaddress.IPv4Address | ipaddress.IPv6Address

_LONGEST_URL = 1900  # it names the document

# Addresses that are public by the registry, but not in the networks of cloud providers, and ranges
# that carry an IPv4 address inside.
_INNER = frozenset(ipaddress.ip_address(one) for one in ("168.63.129.16", "100.100.100.200"))
_IPV6 = 6
_ISATAP = 0x5EFE
_NAT64 = ipaddress.ip_network("64:ff9b::/96")
_LOCAL = tuple(
    ipaddress.ip_network(one)
    for one in (
        "64:ff9b:1::/48",
        "fec0::/10",
        "192.88.99.0/24",
        "::/96",
        "100::/64",
        "192.0.0.0/24",
        "192.31.196.0/24",
        "2620:4f:8000::/48",
        "3fff::/20",
    )
)
_ALIASES = {
    "application/xhtml+xml": "text/html",
    "application/x-pdf": "application/pdf",
    "text/x-markdown": "text/markdown",
    "application/javascript": "text/javascript",
    "application/x-javascript": "text/javascript",
    "application/x-yaml": "application/yaml",
    "text/yaml": "application/yaml",
    "application/x-sh": "text/x-shellscript",
}
_ANY = frozenset(("", "application/octet-stream", "binary/octet-stream"))


def is_public(address: Address) -> bool:
    """Whether an address is out in the internet: not this machine's, its network's or its cloud's."""
    inside = _embedded(address)
    if inside is not None:
        return is_public(inside)
    # ISATAP: the last half of an address of any network.
    if address.version == _IPV6 and int(address) >> 32 & 0xFDFFFFFF == _ISATAP:
        return is_public(ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)) and is_public(
            ipaddress.IPv6Address(int(address) >> 64 << 64 | 1)
        )
    if address in _INNER or any(address.version == n.version and address in n for n in _LOCAL):
        return False
    return address.is_global and not (
        address.is_multicast
        or address.is_reserved
        or address.is_unspecified
        or address.is_loopback
        or address.is_link_local
        or address.is_private
    )


def _embedded(address: Address) -> ipaddress.IPv4Address | None:
    """Return the IPv4 address that an IPv6 address stands for, if it does."""
    if isinstance(address, ipaddress.IPv4Address):
        return None
    if address.ipv4_mapped or address.sixtofour:
        return address.ipv4_mapped or address.sixtofour
    if address.teredo:
        return address.teredo[1]
    if address in _NAT64:
        return ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
    return None


@dataclass(frozen=True, slots=True, kw_only=True)
class UrlPolicy:
    """What may be fetched. `permits` says to which addresses a connection may go."""

    permits: Callable[[Address], bool] = is_public
    size_bytes: int = 32 << 20
    deadline_s: float = 30.0
    redirects: int = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class Page:
    """What was fetched from a URL, which is without its fragment."""

    url: str
    media_type: str
    data: bytes


def is_url(text: str) -> bool:
    """Whether a text is meant as a URL of the web."""
    return re.match(r"https?://", text, re.IGNORECASE) is not None


def shown(url: str) -> str:
    """Return a URL as it may be printed: without user and password."""
    return re.sub(r"//[^/?#]*@", "//***@", url, count=1)


def source(page: Page) -> Source:
    """Return a page as something to ingest."""
    parts = urlsplit(page.url)
    return Source(
        source=page.url,
        media_type=page.media_type,
        content=lambda: page.data,
        else_title=PurePosixPath(parts.path).stem or parts.hostname,
    )


async def pages(addresses: Sequence[str], policy: UrlPolicy) -> AsyncIterator[Source | Rejection]:
    """Fetch pages one after the other; yield them as things to ingest, or why they are none."""
    for url in addresses:
        try:
            yield source(await fetch(url, policy))
        except Rejected as error:
            yield Rejection(source=shown(url), reason=error.reason, message=error.message)


async def fetch(url: str, policy: UrlPolicy) -> Page:
    """Return what stands at a URL, or raise Rejected with a reason.

    BAD_URL, INNER_ADDRESS, UNREACHABLE, TIMEOUT, HTTP_STATUS, TOO_MANY_REDIRECTS, TOO_LARGE and
    UNSUPPORTED are such reasons.
    """
    try:
        async with asyncio.timeout(policy.deadline_s):
            return await _fetched(url, policy)
    except TimeoutError as error:
        raise Rejected("TIMEOUT", f"it did not come within {policy.deadline_s:g} s") from error
    except OSError as error:
        # Certificates, resets, refusals: the text of the system says which.
        raise Rejected("UNREACHABLE", f"it cannot be fetched: {error}") from error
    except http.client.HTTPException as error:
        what = f"{type(error).__name__} {error}".strip()
        raise Rejected("UNREACHABLE", f"the server does not speak HTTP: {what}") from error


async def _fetched(url: str, policy: UrlPolicy) -> Page:
    wanted = urldefrag(url).url
    now = wanted
    for _ in range(policy.redirects + 1):
        target = _target(now)
        answer = await exchange(target, await _address(target, policy), policy.size_bytes)
        if answer.location is None:
            return Page(
                url=wanted, media_type=_media_type(target, answer), data=_in_utf8(target, answer)
            )
        following = _joined(now, answer.location)
        if now.lower().startswith("https:") and not following.lower().startswith("https:"):
            raise Rejected("BAD_URL", f"it redirects from https to {shown(following)}")
        now = following
    raise Rejected("TOO_MANY_REDIRECTS", f"it redirects more than {policy.redirects} times")


def _joined(url: str, location: str) -> str:
    try:
        return urljoin(url, location)
    except ValueError as error:
        raise Rejected("BAD_URL", f"it redirects to no URL: {error}") from error


def _target(url: str) -> Target:
    if len(url) > _LONGEST_URL or re.search(r"[\x00-\x20\x7f\\]", url):
        raise Rejected(
            "BAD_URL", f"{shown(url)[:200]!r} is too long, or holds spaces or backslashes"
        )
    try:
        parts = urlsplit(url)
        scheme = parts.scheme.lower()
        if scheme not in PORTS:
            raise Rejected("BAD_URL", f"{shown(url)!r} is neither http nor https")
        port = parts.port
        host = _host(parts)
    except ValueError as error:
        raise Rejected("BAD_URL", f"{shown(url)!r} is no URL: {error}") from error
    if "@" in parts.netloc:
        raise Rejected(
            "BAD_URL", f"{shown(url)!r} holds a user or password; such URLs are not used"
        )
    path = quote(parts.path or "/", safe="%/:=&~+!$,;'@()*")
    query = "?" + quote(parts.query, safe="%/:=&?~+!$,;'@()*[]") if parts.query else ""
    return Target(
        is_tls=scheme == "https",
        host=host,
        port=PORTS[scheme] if port is None else port,
        path=path + query,
    )


def _host(parts: SplitResult) -> str:
    if not parts.hostname:
        raise ValueError("it names no host")
    if parts.hostname.isascii():
        return parts.hostname
    return parts.hostname.encode("idna").decode("ascii")


async def _address(target: Target, policy: UrlPolicy) -> str:
    """Return an address of the host; raise Rejected when any of its addresses is not permitted."""
    try:
        found = await asyncio.get_running_loop().getaddrinfo(
            target.host, target.port, type=socket.SOCK_STREAM
        )
    except (OSError, UnicodeError) as error:
        raise Rejected("UNREACHABLE", f"the name {target.host!r} is not known: {error}") from error
    addresses = [str(one[4][0]) for one in found]
    for address in addresses:
        if not policy.permits(ipaddress.ip_address(address)):
            raise Rejected(
                "INNER_ADDRESS",
                f"{_named(target.host, address)} is not out in the internet; pages from there are "
                "not fetched",
            )
    if not addresses:
        raise Rejected("UNREACHABLE", f"the name {target.host!r} has no address")
    # IPv4 first: it works everywhere.
    return min(addresses, key=lambda one: ":" in one)


def _named(host: str, address: str) -> str:
    return address if host == address else f"{host!r}, at {address},"


def _media_type(target: Target, answer: Answer) -> str:
    declared = _ALIASES.get(answer.content_type, answer.content_type)
    path = PurePosixPath(target.path.partition("?")[0])
    if declared in _ANY:
        found = media_type(path, answer.data[:1024])
    elif declared == "text/plain":
        # What servers call all that they do not know; the name says more.
        found = media_type(path, answer.data[:1024])
        found = found if found in media_types_of_text() else declared
    else:
        found = declared
    if found in RECORDS:
        raise Rejected("UNSUPPORTED", f"files of rows ({found}) come from disk: download it first")
    if found not in PARSERS:
        raise Rejected(
            "UNSUPPORTED", f"no parser knows {declared or path.suffix or 'its content'!r}"
        )
    return found


def _in_utf8(target: Target, answer: Answer) -> bytes:
    """Return the content as the server's charset says, which weighs more than what is in a page."""
    kind, charset = answer.content_type, answer.charset
    is_text = kind.startswith("text/") or kind == "application/xhtml+xml"
    if is_text and charset == "utf-8" and not answer.data.startswith(BOM_UTF8):
        return BOM_UTF8 + answer.data
    if not is_text or not WEB_CHARSET.match(charset) or charset.startswith("utf"):
        return answer.data
    name = "windows-1252" if charset in ("iso-8859-1", "latin-1", "latin1", "us-ascii") else charset
    try:
        return BOM_UTF8 + answer.data.decode(name).encode()
    except (UnicodeDecodeError, LookupError) as error:
        raise Rejected(
            "NOT_TEXT", f"it is not {charset}, as {target.host} says: {error}"
        ) from error
