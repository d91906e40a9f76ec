"""What each format makes of a file, and what it refuses."""

from __future__ import annotations

import subprocess
import sys
from io import BytesIO
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pypdf import PdfReader, PdfWriter

from ragline.core.chunking import ChunkPolicy, chunk
from ragline.rag.formats import (
    DOCX,
    PARSERS,
    Parsed,
    Rejected,
    html,
    markdown,
    media_type,
    parse,
    text,
)
from ragline.rag.formats import pdf as pdf_format


def shown(parsed: Parsed) -> list[tuple[str, str]]:
    return [(block.kind, parsed.text[block.start : block.end]) for block in parsed.blocks]


def titles(parsed: Parsed) -> list[tuple[int, str | None]]:
    return [(block.level, block.title) for block in parsed.blocks if block.kind == "heading"]


def pdf(*pages: list[str], title: str = "") -> bytes:
    """A minimal PDF with one line of text per string."""
    kids = " ".join(f"{3 + 2 * n} 0 R" for n in range(len(pages)))
    objects = [
        b"<< /Type /Catalog /Pages 2 0 R >>",
        f"<< /Type /Pages /Kids [{kids}] /Count {len(pages)} >>".encode(),
    ]
    font = "<< /Font << /F1 << /Type /Font /Subtype /Type1 /BaseFont /Helvetica >> >> >>"
    for number, lines in enumerate(pages):
        shows = " ".join(f"({line}) Tj T*" for line in lines)
        stream = f"BT /F1 12 Tf 14 TL 72 720 Td {shows} ET".encode()
        contents = f"/Contents {4 + 2 * number} 0 R"
        objects += [
            f"<< /Type /Page /Parent 2 0 R /Resources {font} {contents} >>".encode(),
            b"<< /Length %d >>\nstream\n%s\nendstream" % (len(stream), stream),
        ]
    objects.append(f"<< /Title ({title}) >>".encode())
    data, offsets = b"%PDF-1.4\n", []
    for number, one in enumerate(objects, 1):
        offsets.append(len(data))
        data += b"%d 0 obj\n%s\nendobj\n" % (number, one)
    table = b"".join(b"%010d 00000 n \n" % offset for offset in offsets)
    size = len(objects) + 1
    trailer = b"<< /Size %d /Root 1 0 R /Info %d 0 R >>" % (size, size - 1)
    xref = b"xref\n0 %d\n0000000000 65535 f \n%strailer\n%s" % (size, table, trailer)
    return data + xref + b"\nstartxref\n%d\n%%%%EOF\n" % len(data)


def encrypted(data: bytes, password: str) -> bytes:
    writer = PdfWriter(clone_from=PdfReader(BytesIO(data)))
    writer.encrypt(password, owner_password="owner", algorithm="RC4-128")
    out = BytesIO()
    writer.write(out)
    return out.getvalue()


# -- text ------------------------------------------------------------------------------------------


def test_text_is_kept_but_for_byte_order_mark_and_line_breaks() -> None:
    parsed = text.parse(b"\xef\xbb\xbfOne\r\ntwo\rthree\n\n\nFour  \n")

    assert parsed.text == "One\ntwo\nthree\n\n\nFour  \n"
    assert shown(parsed) == [("paragraph", "One\ntwo\nthree"), ("paragraph", "Four  ")]


def test_utf16_with_a_byte_order_mark_is_text() -> None:
    assert text.parse("nhà thầu".encode("utf-16")).text == "nhà thầu"


def test_restructured_text_has_headings_lists_and_literal_blocks() -> None:
    source = """\
=====
Title
=====

.. image:: https://badge.io/b.svg
   :target: https://badge.io

|build| |docs|

Intro::

    code here

    more

Install
-------
- one
- two

Use
---

Text.
"""
    parsed = text.parse(source.encode())

    assert titles(parsed) == [(1, "Title"), (2, "Install"), (2, "Use")]
    assert [kind for kind, _ in shown(parsed) if kind != "heading"] == [
        "paragraph", "code", "code", "list", "paragraph",
    ]  # fmt: skip
    assert not any("badge.io" in body or "|build|" in body for _, body in shown(parsed))
    assert parsed.title == "Title"


@pytest.mark.parametrize(
    "source",
    [
        "Name   Age\n----   ---\nAda    36",
        "A longer line\n---",
        "one\ntwo\n-----",
        "-----",
        "a -- b",
    ],
)
def test_what_is_not_clearly_a_heading_is_none(source: str) -> None:
    assert titles(text.parse(f"{source}\n\nText.".encode())) == []


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "EMPTY"),
        (b" \n\t\n", "EMPTY"),
        (b"\xef\xbb\xbf", "EMPTY"),
        (b"one\0two", "NUL_BYTE"),
        ("one\0two".encode("utf-16"), "NUL_BYTE"),
        (b"caf\xe9", "INVALID_UTF8"),
        (b"\xed\xa0\x80 surrogate", "INVALID_UTF8"),
        (b"\xff\xfea", "NOT_TEXT"),
        (bytes(range(1, 9)) * 40 + b"text", "NOT_TEXT"),
    ],
)
@pytest.mark.parametrize("module", [text, markdown, html])
def test_hostile_text_is_rejected_by_name(module: object, data: bytes, reason: str) -> None:
    with pytest.raises(Rejected) as rejected:
        parse(data, module.__name__)  # type: ignore[attr-defined]

    assert rejected.value.reason == reason


@settings(deadline=None)
@given(st.text(alphabet="a.=-*#>`|[]()<!& \n\r\t\u2028我", max_size=200))
@pytest.mark.parametrize("module", [text, markdown, html])
def test_whatever_the_text_chunks_are_parts_of_it(module: object, source: str) -> None:
    try:
        parsed = parse(source.encode(), module.__name__)  # type: ignore[attr-defined]
    except Rejected as rejected:
        assert rejected.reason in {"EMPTY", "NO_TEXT"}  # noqa: PT017 - some inputs are rejected
        return
    assert "\r" not in parsed.text
    for one in chunk(parsed.text, parsed.blocks, ChunkPolicy()):
        assert one.body == parsed.text[one.start : one.end] != ""


# -- Markdown --------------------------------------------------------------------------------------


def test_markdown_blocks_point_into_the_source() -> None:
    source = (
        "# A\n\nText *here*.\n\n```py\nx = 1\n\n# no heading\n```\n\n- one\n\n  two\n- three\n\n"
        "| a | b |\n|---|---|\n| 1 | 2 |\n\n> quoted\n\n---\n\nSetext\n======\n\n    indented\n"
    )
    parsed = markdown.parse(source.encode())

    assert parsed.text == source
    assert shown(parsed) == [
        ("heading", "# A"),
        ("paragraph", "Text *here*."),
        ("code", "```py\nx = 1\n\n# no heading\n```"),
        ("list", "- one\n\n  two\n- three"),
        ("table", "| a | b |\n|---|---|\n| 1 | 2 |"),
        ("paragraph", "> quoted"),
        ("heading", "Setext\n======"),
        ("code", "indented"),
    ]


@pytest.mark.parametrize(
    ("source", "title"),
    [
        ("## Use `pool` with **care** ##", "Use pool with care"),
        ("## See [the docs](https://a.b) ![b](c.svg)", "See the docs"),
        ("## Ada &amp; Bob <a id='x'></a>", "Ada & Bob"),
        ("<h2 align='center'>\n  <img src='a.png'> Name\n</h2>", "Name"),
    ],
)
def test_titles_of_headings_are_plain_text(source: str, title: str) -> None:
    assert titles(markdown.parse(f"{source}\n\nText.".encode())) == [(2, title)]


def test_what_shows_no_words_is_no_block() -> None:
    source = (
        "[![b](https://b.io/b.svg)](https://b.io)\n![c](c.svg)\n\n<!-- note -->\n\n"
        '<p align="center"><img src="logo.png"></p>\n\n[ref]: https://a.b\n\nWords ![img](i.png).\n'
    )

    assert shown(markdown.parse(source.encode())) == [("paragraph", "Words ![img](i.png).")]


def test_front_matter_becomes_metadata() -> None:
    parsed = markdown.parse(b'---\ntitle: "A title"\ntags:\n  - x\nlang: en\n---\n# Heading\n')

    assert parsed.metadata == {"title": "A title", "lang": "en"}
    assert parsed.title == "A title"
    assert shown(parsed) == [("heading", "# Heading")]


def test_prose_between_rules_is_no_front_matter() -> None:
    parsed = markdown.parse(b"---\nJust some words.\n\n---\n\nMore.")

    assert parsed.metadata == {}
    assert ("paragraph", "More.") in shown(parsed)
    assert any("Just some words." in body for _, body in shown(parsed))


# -- HTML ------------------------------------------------------------------------------------------


def test_html_shows_what_a_reader_sees() -> None:
    parsed = html.parse(
        b"<html><head><title>The &amp; title</title><style>p{}</style></head><body>"
        b"<nav><a>Home</a></nav><h1>One <b>two</b></h1><p>Text&nbsp;with <i>in</i>line,<br>broken."
        b"<script>alert(1)</script><pre>def f():\n    return 1\n\nx</pre>"
        b"<ul><li>a<ul><li>b</li></ul></li><li><p>c</p><p>d</p></ul>"
        b"<table><tr><th>k<th>v<tr><td>1<td><p>2</p><p>3</p></table>"
        b"<template>no</template><noscript>no</noscript><div>tail"
    )

    assert parsed.title == "The & title"
    assert shown(parsed) == [
        ("heading", "One two"),
        ("paragraph", "Text with inline,\nbroken."),
        ("code", "def f():\n    return 1\n\nx"),
        ("list", "- a\n  - b\n- c\n  d"),
        ("table", "k | v\n1 | 2 3"),
        ("paragraph", "tail"),
    ]
    assert parsed.text == "\n\n".join(body for _, body in shown(parsed))


@pytest.mark.parametrize(
    ("head", "encoding"),
    [
        ("", "utf-8"),
        ("<meta charset=windows-1251>", "windows-1251"),
        ('<meta http-equiv="Content-Type" content="text/html; charset=euc-jp">', "euc-jp"),
        ("<meta charset='utf-7'>", "utf-8"),
        ("<meta charset=idna>", "utf-8"),
    ],
)
def test_html_is_decoded_as_it_says(head: str, encoding: str) -> None:
    word = {"windows-1251": "Привет", "euc-jp": "日本語"}.get(encoding, "thầu")

    assert html.parse(f"{head}<p>{word}".encode(encoding)).text == word


def test_html_that_is_not_what_it_says_is_rejected() -> None:
    with pytest.raises(Rejected, match="byte") as rejected:
        html.parse(b"<meta charset=euc-jp><p>\xff\xff")

    assert rejected.value.reason == "NOT_TEXT"


@pytest.mark.parametrize("source", [b"<html></html>", b"<script>x</script>", b"<!-- c -->"])
def test_html_without_words_is_rejected(source: bytes) -> None:
    with pytest.raises(Rejected) as rejected:
        html.parse(source)

    assert rejected.value.reason == "NO_TEXT"


def test_html_may_be_nested_deep_but_not_without_end() -> None:
    assert html.parse(b"<div>" * 50_000 + b"deep").text == "deep"
    flat = b"<div>flat</div>" * 60_000 + b"</div>" * 60_000
    assert html.parse(flat).text.startswith("flat")
    with pytest.raises(Rejected) as rejected:
        html.parse(b"<div>" * 50_001 + b"deeper")
    assert rejected.value.reason == "TOO_DEEP"


# -- PDF -------------------------------------------------------------------------------------------


def test_pdf_pages_become_paragraphs() -> None:
    first = [
        "The first page has a paragraph that goes over sev-",
        "eral lines, as they do when somebody sets them in",
        "a column. It ends.",
        "- an item of a list that is long enough for a line",
    ]
    parsed = pdf_format.parse(pdf(first, ["Second page."], title="A title"))

    assert shown(parsed) == [
        (
            "paragraph",
            (
                "The first page has a paragraph that goes over several lines, "
                "as they do when somebody sets them in a column. It ends."
            ),
        ),
        ("list", "- an item of a list that is long enough for a line"),
        ("paragraph", "Second page."),
    ]
    assert parsed.title == "A title"
    starts = [int(start) for start in parsed.metadata["page_starts"].split()]
    assert parsed.metadata["pages"] == "2"
    assert [parsed.text[start:][:6] for start in starts] == ["The fi", "Second"]


def test_a_pdf_that_opens_without_a_password_is_read() -> None:
    assert pdf_format.parse(encrypted(pdf(["Readable."]), "")).text == "Readable."


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "EMPTY"),
        (b"not a PDF at all", "DAMAGED"),
        (pdf(["Text."])[:120], "DAMAGED"),
        (b"%PDF-1.7\n" + b"\xff" * 2000, "DAMAGED"),
        (pdf([]), "NO_TEXT"),
        (encrypted(pdf(["Secret."]), "password"), "ENCRYPTED"),
    ],
)
def test_hostile_pdf_is_rejected_by_name(data: bytes, reason: str) -> None:
    with pytest.raises(Rejected) as rejected:
        pdf_format.parse(data)

    assert rejected.value.reason == reason


def test_faults_of_a_pdf_do_not_reach_stderr(tmp_path: Path) -> None:
    path = tmp_path / "damaged.pdf"
    path.write_bytes(pdf(["Text."]).replace(b"startxref\n", b"startxref\n9"))
    script = (
        "import sys, ragline.rag.formats.pdf as p; print(p.parse(open(sys.argv[1], 'rb').read()))"
    )

    # A process of its own: pytest handles log records before they could reach stderr.
    done = subprocess.run([sys.executable, "-c", script, str(path)], capture_output=True, text=True)

    assert "Text." in done.stdout
    assert done.stderr == ""


@settings(deadline=None)
@given(st.data())
def test_a_pdf_with_wrong_bytes_is_read_or_rejected(data: st.DataObject) -> None:
    whole = bytearray(pdf(["Some text."], ["And more."]))
    for _ in range(data.draw(st.integers(1, 8))):
        whole[data.draw(st.integers(9, len(whole) - 1))] = data.draw(st.integers(0, 255))
    try:
        parsed = pdf_format.parse(bytes(whole))
    except Rejected as rejected:
        assert rejected.reason in {"BOMB", "DAMAGED", "ENCRYPTED", "NO_TEXT"}  # noqa: PT017 - either way
    else:
        assert parsed.text.encode()


# -- which format ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "head", "expected"),
    [
        ("a.md", b"# x", "text/markdown"),
        ("A.HTML", b"x", "text/html"),
        ("a.rst", b"x", "text/plain"),
        ("a.pdf", b"garbage", "application/pdf"),
        ("a.txt", b"%PDF-1.7", "application/pdf"),
        ("README", b"Words", "text/plain"),
        ("README", "Wört".encode()[:2], "text/plain"),
        ("page", b"\n<!DOCTYPE html>", "text/html"),
        ("program", b"\x7fELF\0", None),
        ("latin", b"caf\xe9 au lait", None),
        ("a.docx", b"PK", DOCX),
        ("a.odt", b"PK", None),
        ("a.py", b"x = 1", "text/x-python"),
        ("a.TS", b"x = 1", "text/typescript"),
        ("run", b"#!/usr/bin/env python3\nx = 1", "text/x-python"),
        ("run", b"#!/bin/bash -e\nls", "text/x-shellscript"),
        ("run", b"#!/usr/bin/env -S node --x\nls", "text/javascript"),
        ("run", b"#!/usr/bin/perl\nls", "text/plain"),
        ("rows.csv", b"id,text", "text/csv"),
        ("rows.ndjson", b"{}", "application/jsonl"),
        ("empty", b"", None),
    ],
)
def test_media_type_is_chosen_by_name_and_content(
    name: str, head: bytes, expected: str | None
) -> None:
    assert media_type(Path(name), head) == expected


def test_every_named_parser_exists() -> None:
    for module in PARSERS.values():
        with pytest.raises(Rejected, match="empty"):
            parse(b"", module)


def test_a_parser_whose_package_is_missing_is_unsupported() -> None:
    with pytest.raises(Rejected, match="no_such_package") as rejected:
        parse(b"x", "no_such_package")

    assert rejected.value.reason == "UNSUPPORTED"
