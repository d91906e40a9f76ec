"""Pages of the web: what is fetched, and the many ways to somewhere inside that are refused."""

from __future__ import annotations

import asyncio
import ipaddress
import socket
import ssl
import subprocess
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ragline.rag import page_request, urls
from ragline.rag.formats import DOCX, Rejected
from ragline.rag.urls import Page, UrlPolicy, fetch, is_public

LOOPBACK = UrlPolicy(permits=lambda address: address.is_loopback, deadline_s=60)


@asynccontextmanager
async def server(
    answer: Callable[[str], bytes], *, pause_s: float = 0, seen: list[str] | None = None
) -> AsyncIterator[str]:
    """A server on loopback that answers each request, given as its lines, with these bytes."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        request = (await reader.readuntil(b"\r\n\r\n")).decode()
        if seen is not None:
            seen.append(request)
        for piece in answer(request).splitlines(keepends=True):
            try:
                writer.write(piece)
                await writer.drain()
                await asyncio.sleep(pause_s)
            except ConnectionError:
                break
        writer.close()

    listening = await asyncio.start_server(serve, "127.0.0.1", 0)
    try:
        yield f"http://127.0.0.1:{listening.sockets[0].getsockname()[1]}"
    finally:
        listening.close()


def ok(body: bytes, kind: str = "text/html", more: str = "") -> bytes:
    length = f"Content-Length: {len(body)}\r\n"
    return f"HTTP/1.1 200 OK\r\nContent-Type: {kind}\r\n{length}{more}\r\n".encode() + body


CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"


def moved(to: str) -> bytes:
    return f"HTTP/1.1 302 Found\r\nLocation: {to}\r\nContent-Length: 0\r\n\r\n".encode()


async def reason(url: str, policy: UrlPolicy = LOOPBACK) -> str:
    with pytest.raises(Rejected) as rejected:
        await fetch(url, policy)
    return rejected.value.reason


# -- addresses -------------------------------------------------------------------------------------

INNER = """
    0.0.0.0 0.1.2.3 10.0.0.1 100.64.0.1 100.100.100.200 127.0.0.1 127.255.255.254 168.63.129.16
    169.254.169.254 172.16.0.1 172.31.255.255 192.0.0.1 192.0.2.1 192.88.99.1 192.168.0.1 198.18.0.1
    198.51.100.1 203.0.113.1 224.0.0.1 239.255.255.255 240.0.0.1 255.255.255.255
    :: ::1 ::127.0.0.1 ::ffff:127.0.0.1 ::ffff:10.0.0.1 ::ffff:169.254.169.254 ::ffff:0:127.0.0.1
    64:ff9b::7f00:1 64:ff9b::a9fe:a9fe 64:ff9b:1::1 100::1 2001:db8::1 2002:7f00:1:: 2002:a9fe:a9fe::
    2001:0:7f00:1:0:0:8080:ff fc00::1 fd00:ec2::254 fe80::1 fe80::1%eth0 fec0::1 ff02::1
    192.31.196.1 2620:4f:8000::1 3fff::1 2600::5efe:127.0.0.1 2600::200:5efe:10.0.0.1 fe80::5efe:8.8.8.8
""".split()
PUBLIC = """
    1.1.1.1 8.8.8.8 93.184.216.34 2606:4700:4700::1111 2a00:1450:4001:81b::200e ::ffff:8.8.8.8
    64:ff9b::808:808 2600::5efe:8.8.8.8
""".split()


@pytest.mark.parametrize("address", INNER)
def test_inner_addresses_are_not_public_however_they_are_written(address: str) -> None:
    assert not is_public(ipaddress.ip_address(address))


@pytest.mark.parametrize("address", PUBLIC)
def test_addresses_of_the_internet_are_public(address: str) -> None:
    assert is_public(ipaddress.ip_address(address))


@given(st.ip_addresses(v=4))
def test_an_ipv4_address_is_judged_alike_in_all_its_forms(address: ipaddress.IPv4Address) -> None:
    number = int(address)
    forms = [
        ipaddress.IPv6Address((0xFFFF << 32) | number),
        ipaddress.IPv6Address((0x2002 << 112) | (number << 80)),
        ipaddress.IPv6Address((0x64FF9B << 96) | number),
    ]

    assert {is_public(form) for form in forms} == {is_public(address)}


@pytest.mark.parametrize(
    "host",
    ["127.0.0.1", "localhost", "2130706433", "0x7f.1", "127.1", "0", "[::1]", "[::ffff:127.0.0.1]",
     "169.254.169.254", "10.1.2.3", "[fe80::1]"],
)  # fmt: skip
async def test_urls_of_inner_addresses_are_refused_before_any_connection(host: str) -> None:
    seen: list[str] = []
    async with server(lambda _: ok(b"secret"), seen=seen) as base:
        port = base.rpartition(":")[2]
        assert await reason(f"http://{host}:{port}/", UrlPolicy()) == "INNER_ADDRESS"
    assert seen == []


async def test_one_inner_address_among_several_is_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    found = [
        (socket.AF_INET, socket.SOCK_STREAM, 6, "", (ip, 80)) for ip in ("8.8.8.8", "10.0.0.1")
    ]

    async def getaddrinfo(*_: object, **__: object) -> list[object]:
        return list(found)

    monkeypatch.setattr(asyncio.get_running_loop(), "getaddrinfo", getaddrinfo)
    assert await reason("http://both.example/", UrlPolicy()) == "INNER_ADDRESS"


async def test_a_name_that_changes_its_address_leads_nowhere_else(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The first answer of the name server is checked and used; nobody asks a second time."""
    asked: list[str] = []
    loop = asyncio.get_running_loop()

    async def getaddrinfo(host: str, port: int, **_: object) -> list[object]:
        asked.append(host)
        address = "127.0.0.1" if len(asked) == 1 else "127.0.0.2"
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port))]

    def never(*_: object, **__: object) -> None:
        raise AssertionError("a name is resolved a second time")

    seen: list[str] = []
    async with server(lambda _: ok(b"<p>Words."), seen=seen) as base:
        monkeypatch.setattr(loop, "getaddrinfo", getaddrinfo)
        monkeypatch.setattr(socket, "gethostbyname", never)
        only = UrlPolicy(permits=lambda address: str(address) == "127.0.0.1")
        page = await fetch(base.replace("127.0.0.1", "rebinding.example") + "/a", only)

    assert asked == ["rebinding.example"]
    assert page.data.endswith(b"<p>Words.")
    assert f"Host: rebinding.example:{base.rpartition(':')[2]}" in seen[0]


async def test_a_redirect_is_checked_like_the_first_address() -> None:
    seen: list[str] = []
    async with (
        server(lambda _: ok(b"secret"), seen=seen) as inner,
        server(lambda _: moved(inner.replace("127.0.0.1", "127.0.0.2"))) as outer,
    ):
        only = UrlPolicy(permits=lambda address: str(address) == "127.0.0.1")
        assert await reason(outer, only) == "INNER_ADDRESS"
    assert seen == []


@pytest.mark.parametrize(
    ("to", "expected"),
    [
        ("file:///etc/passwd", "BAD_URL"),
        ("ftp://127.0.0.1/", "BAD_URL"),
        ("http://user:secret@127.0.0.1/", "BAD_URL"),
        ("//[", "BAD_URL"),
        ("/again", "TOO_MANY_REDIRECTS"),
    ],
)
async def test_redirects_lead_only_to_pages_and_come_to_an_end(to: str, expected: str) -> None:
    seen: list[str] = []
    async with server(lambda _: moved(to), seen=seen) as base:
        assert await reason(base) == expected
    assert len(seen) == (6 if expected == "TOO_MANY_REDIRECTS" else 1)


@pytest.mark.parametrize(
    "url",
    ["http://", "http:///x", "http://a b/", "http://a\n.b/", "http://a\\@b/", "http://[::1/",
     "http://a:99999/", "http://ann:secret@127.0.0.1/", "http://a/" + "x" * 3000],
)  # fmt: skip
async def test_what_is_no_url_is_refused_without_showing_a_password(url: str) -> None:
    with pytest.raises(Rejected) as rejected:
        await fetch(url, LOOPBACK)

    assert rejected.value.reason == "BAD_URL"
    assert "secret" not in rejected.value.message


async def test_proxies_of_the_environment_are_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    async with (
        server(lambda _: ok(b"proxied"), seen=asked) as proxy,
        server(lambda _: ok(b"<p>Direct.")) as base,
    ):
        for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
            monkeypatch.setenv(name, proxy)
        assert (await fetch(base, LOOPBACK)).data.endswith(b"<p>Direct.")
    assert asked == []


# -- answers ---------------------------------------------------------------------------------------


async def test_a_page_is_fetched_with_its_type_and_known_by_its_url() -> None:
    seen: list[str] = []
    answers = {"/a?b=1": moved("c"), "/c": ok(b"<p>Words.", "text/html; charset=utf-8")}
    async with server(lambda request: answers[request.split()[1]], seen=seen) as base:
        page = await fetch(f"{base}/a?b=1#part", LOOPBACK)

    assert page == Page(url=f"{base}/a?b=1", media_type="text/html", data=b"\xef\xbb\xbf<p>Words.")
    assert all("Accept-Encoding: identity\r\n" in one for one in seen)


@pytest.mark.parametrize(
    ("path", "kind", "expected"),
    [
        ("/a.html", "application/pdf", "application/pdf"),
        ("/a", "application/xhtml+xml", "text/html"),
        ("/README.md", "text/plain", "text/markdown"),
        ("/a.pdf", "text/plain", "text/plain"),
        ("/a.docx", "application/octet-stream", DOCX),
        ("/a.json", "application/json", "application/json"),
        ("/a.html", "image/png", None),
        ("/rows.csv", "text/csv", None),
        ("/rows.jsonl", "application/octet-stream", None),
    ],
)  # fmt: skip
async def test_the_content_type_decides_the_parser(
    path: str, kind: str, expected: str | None
) -> None:
    async with server(lambda _: ok(b"Words.", kind)) as base:
        if expected is None:
            assert await reason(base + path) == "UNSUPPORTED"
        else:
            assert (await fetch(base + path, LOOPBACK)).media_type == expected


async def test_the_charset_of_the_server_is_heeded() -> None:
    answer = ok("Привет".encode("koi8-r"), "text/plain; charset=KOI8-R")
    async with server(lambda _: answer) as base:
        assert (await fetch(base, LOOPBACK)).data.decode("utf-8-sig") == "Привет"


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        (b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n", "HTTP_STATUS"),
        (b"HTTP/1.1 500 Oops\r\n\r\n", "HTTP_STATUS"),
        (b"HTTP/1.1 304 Not Modified\r\n\r\n", "HTTP_STATUS"),
        (b"garbage\r\n\r\n", "UNREACHABLE"),
        (b"", "UNREACHABLE"),
        (b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 500 + b"\r\n", "UNREACHABLE"),
        (ok(b"half of it")[:-4], "DAMAGED"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nff\r\nhalf", "DAMAGED"),
        (ok(b"zip", more="Content-Encoding: gzip\r\n"), "UNSUPPORTED"),
        (ok(b"x" * 2000), "TOO_LARGE"),
        (CHUNKED + b"-5\r\nhello", "UNREACHABLE"),
        (CHUNKED + b"-1\r\n" + b"x" * (2 << 20), "TOO_LARGE"),
        (b"HTTP/1.1 200 OK\r\nContent-Type: text/html; charset*=a\0b''x\r\n\r\n<p>", "UNREACHABLE"),
        (b"HTTP/1.1 100 Continue\r\n\r\n" * 50_000, "TOO_LARGE"),
        (moved("file:///etc/hostname"), "BAD_URL"),
        (ok(b"\xff\xff", "text/plain; charset=euc-jp"), "NOT_TEXT"),
    ],
)
async def test_answers_that_are_no_page_are_rejected_by_name(answer: bytes, expected: str) -> None:
    policy = UrlPolicy(permits=LOOPBACK.permits, size_bytes=1000)
    async with server(lambda _: answer) as base:
        assert await reason(base, policy) == expected


async def test_a_page_may_end_with_its_connection() -> None:
    answer = b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nConnection: close\r\n\r\nWords."
    async with server(lambda _: answer) as base:
        assert (await fetch(base, LOOPBACK)).data == b"Words."


async def test_an_answer_is_not_read_beyond_the_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    """http.client takes a chunk of the size -1 for all that follows."""
    read = 0
    counted = page_request._Counted.readinto

    def readinto(answer: page_request._Counted, buffer: bytearray) -> int:
        nonlocal read
        count = counted(answer, buffer)
        read += count
        return count

    monkeypatch.setattr(page_request._Counted, "readinto", readinto)
    policy = UrlPolicy(permits=LOOPBACK.permits, size_bytes=1000)
    async with server(lambda _: CHUNKED + b"-1\r\n" + b"x" * (20 << 20)) as base:
        assert await reason(base, policy) == "TOO_LARGE"
    assert read < 2 << 20


async def test_a_server_that_drips_is_left_in_time_and_nothing_waits_for_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    ended = threading.Event()
    asked = page_request._Call.answer

    def answer(call: page_request._Call) -> page_request.Answer:
        try:
            return asked(call)
        finally:
            ended.set()

    monkeypatch.setattr(page_request._Call, "answer", answer)
    policy = UrlPolicy(permits=LOOPBACK.permits, deadline_s=0.5)
    async with server(lambda _: b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 90, pause_s=1) as base:
        assert await reason(base, policy) == "TIMEOUT"
        # What drips would go on for 90 s.
        assert await asyncio.to_thread(ended.wait, 45)


async def test_a_port_where_nobody_listens_is_said() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    assert await reason(f"http://127.0.0.1:{port}/") == "UNREACHABLE"


@pytest.fixture
def certificate(tmp_path: Path) -> Path:
    """A certificate that nobody vouches for, with its key."""
    path = tmp_path / "both.pem"
    made = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=localhost"]
    try:
        subprocess.run([*made, "-keyout", path, "-out", path], check=True, capture_output=True)
    except FileNotFoundError:
        pytest.skip("openssl is not installed")
    return path


async def test_a_certificate_of_nobody_is_refused(certificate: Path) -> None:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificate)

    async def serve(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.close()

    listening = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=context)
    async with listening:
        port = listening.sockets[0].getsockname()[1]
        with pytest.raises(Rejected, match="certificate") as rejected:
            await fetch(f"https://localhost:{port}/", LOOPBACK)
    assert rejected.value.reason == "UNREACHABLE"


def test_a_page_without_a_title_is_named_by_the_end_of_its_path() -> None:
    page = Page(url="https://example.com/a/guide.html?x=1", media_type="text/html", data=b"")

    assert urls.source(page).else_title == "guide"
    assert urls.source(
        Page(url="https://example.com/", media_type="text/html", data=b"")
    ).else_title == ("example.com")
