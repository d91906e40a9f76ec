"""Word, e-mail, notebooks and source code: what is read from them, and what is refused."""

from __future__ import annotations

import zipfile
from email.message import EmailMessage
from io import BytesIO

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from growth import is_linear
from ragline.core.chunking import ChunkPolicy, chunk
from ragline.rag.formats import Parsed, Rejected, code, docx, mail, notebook
from samples import docx as word
from samples import notebook as cells
from samples import paragraph, zipped


def shown(parsed: Parsed) -> list[tuple[str, str]]:
    return [(block.kind, parsed.text[block.start : block.end]) for block in parsed.blocks]


def titles(parsed: Parsed) -> list[tuple[int, str | None]]:
    return [(block.level, block.title) for block in parsed.blocks if block.kind == "heading"]


def reason(parser: object, data: bytes, *arguments: str) -> str:
    with pytest.raises(Rejected) as rejected:
        parser.parse(data, *arguments)  # type: ignore[attr-defined]
    return rejected.value.reason


# -- Word ------------------------------------------------------------------------------------------

ITEM = '<w:numPr><w:ilvl w:val="{}"/><w:numId w:val="1"/></w:numPr>'
TABLE = (
    "<w:tbl><w:tr><w:tc>{}</w:tc><w:tc>{}</w:tc></w:tr><w:tr><w:tc>{}</w:tc><w:tc>{}</w:tc></w:tr>"
    "</w:tbl>"
)


def test_word_has_headings_lists_tables_and_paragraphs() -> None:
    inner = TABLE.format(*(paragraph(one) for one in ("i", "j", "k", "l")))
    parsed = docx.parse(
        word(
            paragraph("Top", "berschrift1")
            + paragraph("One &amp; two.")
            + paragraph("Below", "Own")
            + paragraph("a", more=ITEM.format(0))
            + paragraph("b", more=ITEM.format(1))
            + TABLE.format(*(paragraph(one) for one in ("k", "v", "1")), paragraph("2") + inner)
            + paragraph("Deep", "Outlined")
            + paragraph("  "),
            title="A title",
        )
    )

    assert shown(parsed) == [
        ("heading", "Top"),
        ("paragraph", "One & two."),
        ("heading", "Below"),
        ("list", "- a\n  - b"),
        ("table", "k | v\n1 | 2 i | j k | l"),
        ("heading", "Deep"),
    ]
    assert titles(parsed) == [(1, "Top"), (2, "Below"), (3, "Deep")]
    assert parsed.title == "A title"
    assert parsed.metadata == {"author": "Ann"}


def test_word_is_read_wherever_its_text_stands() -> None:
    notes = "<w:footnotes xmlns:w='urn:w'>" + paragraph("A note.") + "</w:footnotes>"
    parsed = docx.parse(
        word(
            "<w:p><w:r><w:t>One</w:t><w:tab/><w:t>two</w:t><w:br/><w:t>three</w:t></w:r>"
            "<w:del><w:r><w:delText>no</w:delText><w:t>no</w:t></w:r></w:del>"
            "<w:ins><w:r><w:t> four</w:t></w:r></w:ins>"
            "<w:hyperlink><w:r><w:t> five</w:t></w:r></w:hyperlink>"
            "<w:r><w:instrText>PAGE</w:instrText></w:r></w:p>"
            f"<w:sdt><w:sdtContent>{paragraph('Controlled.')}</w:sdtContent></w:sdt>",
            parts={"word/footnotes.xml": notes},
        )
    )

    assert shown(parsed) == [
        ("paragraph", "One\ttwo\nthree four five"),
        ("paragraph", "Controlled."),
        ("paragraph", "A note."),
    ]


def encrypted_zip(data: bytes) -> bytes:
    """The archive with the flag of encryption set on all its files."""
    found = bytearray(data)
    for mark, at in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        position = found.find(mark)
        while position >= 0:
            found[position + at] |= 1
            position = found.find(mark, position + 4)
    return bytes(found)


LAUGHS = (
    '<!DOCTYPE x [<!ENTITY a "ha">'
    + "".join(
        f'<!ENTITY {b} "{f"&{a};" * 10}">' for a, b in zip("abcdefgh", "bcdefghi", strict=True)
    )
    + "]>"
)
OUTSIDE = '<!DOCTYPE x [<!ENTITY a SYSTEM "file:///etc/hostname">]>'
OLE = b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + bytes(500)


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b"", "EMPTY"),
        (b"PK\x03\x04 no archive", "DAMAGED"),
        (word(paragraph("Text."))[:400], "DAMAGED"),
        (zipped({"a.txt": b"text"}), "DAMAGED"),
        (word("<w:p>"), "DAMAGED"),
        (word(""), "NO_TEXT"),
        (OLE + "EncryptedPackage".encode("utf-16-le"), "ENCRYPTED"),
        (OLE, "UNSUPPORTED"),
        (encrypted_zip(word(paragraph("Text."))), "ENCRYPTED"),
        (word(paragraph("&i;"), head=LAUGHS), "XML_DOCTYPE"),
        (word(paragraph("&a;"), head=OUTSIDE), "XML_DOCTYPE"),
        (word("<w:x>" * 5000 + "</w:x>" * 5000), "TOO_DEEP"),
        (word(paragraph("a" * (20 << 20))), "BOMB"),
    ],
)
def test_hostile_word_is_rejected_by_name(data: bytes, expected: str) -> None:
    assert reason(docx, data) == expected


def test_a_bomb_in_many_parts_is_stopped_by_what_it_is_in_all(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(docx, "_MOST_UNPACKED_BYTES", 100_000)
    notes = "<w:footnotes xmlns:w='urn:w'>" + paragraph("note " * 12_000) + "</w:footnotes>"

    assert reason(docx, word(paragraph("word " * 12_000), parts={"word/footnotes.xml": notes})) == (
        "BOMB"
    )


@settings(deadline=None)
@given(st.data())
def test_a_word_file_with_wrong_bytes_is_read_or_rejected(data: st.DataObject) -> None:
    whole = bytearray(word(paragraph("Some text.") + paragraph("More.", "Own")))
    for _ in range(data.draw(st.integers(1, 8))):
        whole[data.draw(st.integers(0, len(whole) - 1))] = data.draw(st.integers(0, 255))
    try:
        parsed = docx.parse(bytes(whole))
    except Rejected as rejected:
        assert rejected.reason  # noqa: PT017 - either way
    else:
        assert parsed.text.encode()


@settings(deadline=None)
@given(st.data())
def test_xml_of_word_with_wrong_bytes_is_read_or_rejected(data: st.DataObject) -> None:
    with zipfile.ZipFile(BytesIO(word(paragraph("Some text.", "Own") + TABLE))) as archive:
        files = {name: bytearray(archive.read(name)) for name in archive.namelist()}
    for _ in range(data.draw(st.integers(1, 8))):
        one = files[data.draw(st.sampled_from(sorted(files)))]
        one[data.draw(st.integers(0, len(one) - 1))] = data.draw(st.integers(0, 255))
    try:
        parsed = docx.parse(zipped({name: bytes(one) for name, one in files.items()}))
    except Rejected as rejected:
        assert rejected.reason  # noqa: PT017 - either way
    else:
        assert parsed.text.encode()


@pytest.mark.parametrize("encoding", ["aTF-8", "hex", "shift_jis", "idna", "cp1140"])
def test_xml_of_word_in_an_encoding_that_cannot_be_read_is_rejected(encoding: str) -> None:
    with zipfile.ZipFile(BytesIO(word(paragraph("Some text.")))) as archive:
        files = {name: archive.read(name) for name in archive.namelist()}
    body = files["word/document.xml"].split(b"?>", 1)[-1]
    head = f'<?xml version="1.0" encoding="{encoding}"?>'.encode()
    files["word/document.xml"] = head + body

    with pytest.raises(Rejected, match="cannot be"):
        docx.parse(zipped(files))


# -- e-mail ----------------------------------------------------------------------------------------


def message(text: str | None = None, html: str | None = None) -> EmailMessage:
    made = EmailMessage()
    made["Subject"] = "Grüße aus Hà Nội"
    made["From"] = "Ann Ä <ann@example.com>"
    made["To"] = "bob@example.com, cy@example.com"
    made["Date"] = "Thu, 19 Nov 2026 10:00:00 +0700"
    made["Message-ID"] = "<1@example.com>"
    if text is not None:
        made.set_content(text)
    if html is not None:
        made.add_alternative(html, subtype="html")
    return made


def test_mail_gives_subject_people_date_and_plain_text() -> None:
    made = message("Nhà thầu.\n\nBye.", "<p>other</p>")
    made.add_attachment(b"secret", maintype="application", subtype="pdf", filename="plan.pdf")
    parsed = mail.parse(made.as_bytes())

    assert shown(parsed) == [("paragraph", "Nhà thầu."), ("paragraph", "Bye.")]
    assert parsed.title == "Grüße aus Hà Nội"
    assert parsed.metadata == {
        "from": "Ann Ä <ann@example.com>",
        "to": "bob@example.com, cy@example.com",
        "date": "2026-11-19T10:00:00+07:00",
        "message_id": "1@example.com",
        "attachments": ["plan.pdf"],
    }


@pytest.mark.parametrize("text", [None, " \n"])
def test_mail_without_plain_text_is_read_from_its_html(text: str | None) -> None:
    made = message(text, '<meta charset="koi8-r"><h1>Xin chào</h1><p>Words.')

    assert shown(mail.parse(made.as_bytes())) == [("heading", "Xin chào"), ("paragraph", "Words.")]


def test_a_charset_that_nobody_knows_does_not_lose_the_text() -> None:
    raw = b"Subject: s\nContent-Type: text/plain; charset=x-none\n\nPlain words.\n"

    assert mail.parse(raw).text == "Plain words."


def nested(depth: int) -> bytes:
    head = b"Subject: s\n"
    for n in range(depth):
        head += b"Content-Type: multipart/mixed; boundary=b%d\n\n--b%d\n" % (n, n)
    return head + b"Content-Type: text/plain\n\nWords.\n"


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b"", "EMPTY"),
        (b"\n\n no header", "DAMAGED"),
        (b"Subject: s\n\n", "NO_TEXT"),
        (b"Subject: s\nContent-Type: application/pdf\n\nx", "NO_TEXT"),
        (nested(60), "TOO_DEEP"),
        (nested(2000), "TOO_DEEP"),
    ],
)
def test_hostile_mail_is_rejected_by_name(data: bytes, expected: str) -> None:
    assert reason(mail, data) == expected


@settings(deadline=None)
@given(st.binary(max_size=300), st.integers(0, 300))
def test_mail_with_wrong_bytes_is_read_or_rejected(wrong: bytes, at: int) -> None:
    whole = message("Some text.", "<p>Some</p>").as_bytes()
    try:
        parsed = mail.parse(whole[:at] + wrong + whole[at:])
    except Rejected as rejected:
        assert rejected.reason  # noqa: PT017 - either way
    else:
        assert parsed.text.encode()


# -- notebooks -------------------------------------------------------------------------------------


def test_notebooks_show_text_code_and_printed_output_but_no_images() -> None:
    outputs = [
        {"output_type": "stream", "text": ["1\n", "2\n"]},
        {"output_type": "display_data", "data": {"image/png": "iVBORw0KGgo="}},
        {"output_type": "execute_result", "data": {"text/html": "<b>", "text/plain": "shown"}},
        {"output_type": "error", "ename": "KeyError", "evalue": "'a'", "traceback": ["\x1b[0m"]},
    ]
    parsed = notebook.parse(
        cells(
            {"cell_type": "markdown", "source": ["# Top\n", "\n", "Text."]},
            {"cell_type": "code", "source": "x = 1\n\nx", "outputs": outputs},
            {"cell_type": "markdown", "source": ""},
            {"cell_type": "raw", "source": "Raw."},
        )
    )

    assert shown(parsed) == [
        ("heading", "# Top"),
        ("paragraph", "Text."),
        ("code", "x = 1\n\nx"),
        ("code", "1\n2"),
        ("code", "shown"),
        ("code", "KeyError: 'a'"),
        ("paragraph", "Raw."),
    ]
    assert (parsed.title, parsed.metadata) == ("Top", {"language": "python"})


def test_what_is_null_in_a_notebook_is_empty() -> None:
    data = b'{"metadata": null, "cells": [{"cell_type": "code", "source": null, "outputs": null},'
    data += b'{"cell_type": "code", "source": "x", "outputs": [{"data": null, "text": null}]}]}'

    assert shown(notebook.parse(data)) == [("code", "x")]


def test_tabs_of_word_cost_no_more_than_their_number() -> None:
    def work(size: int) -> None:
        tabs = "<w:tab/>" * size
        assert docx.parse(word(f"<w:p><w:r><w:tab/><w:t>a</w:t>{tabs}</w:r></w:p>")).text == "a"

    assert is_linear(work, 100_000)


def test_old_notebooks_are_read() -> None:
    old = b'{"worksheets": [{"cells": [{"cell_type": "heading", "level": 2, "source": "Old"},'
    old += b'{"cell_type": "code", "input": "y", "outputs": [{"text": "5"}]}]}]}'

    assert shown(notebook.parse(old)) == [("heading", "## Old"), ("code", "y"), ("code", "5")]


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b"", "EMPTY"),
        (b'{"cells": [', "DAMAGED"),
        (b"[1]", "DAMAGED"),
        (b'{"cells": [3]}', "DAMAGED"),
        (b'{"cells": [{"source": "x"}]}', "DAMAGED"),
        (b"[" * 100_000, "TOO_DEEP"),
        (cells({"cell_type": "heading", "level": "x", "source": "y"}), "DAMAGED"),
        (cells({"cell_type": "code", "source": " ", "outputs": []}), "NO_TEXT"),
    ],
)
def test_hostile_notebooks_are_rejected_by_name(data: bytes, expected: str) -> None:
    assert reason(notebook, data) == expected


# -- source code -----------------------------------------------------------------------------------

SOURCES = {
    "python": (
        ('"""Doc."""\nimport a\n\n# about\n@wrap\nclass Foo(Bar):\n    x = 1\n\n    async def get(self):'
        "\n        def inner(): pass\n        return 1\n\ndef main() -> None:\n    pass\n"),
        [(1, "class Foo(Bar)"), (2, "async def get(self)"), (1, "def main() -> None")],
    ),
    "javascript": (
        ("export const add = (a) => a\nexport default class Foo extends Bar {\n  async get(a) {\n"
        "    if (a) {\n      return f(a)\n    }\n  }\n}\nfunction g() {}\n"),
        [
            (1, "export const add = (a) => a"),
            (1, "export default class Foo extends Bar"),
            (2, "async get(a)"),
            (1, "function g() {}"),
        ],
    ),
    "java": (
        ("package a;\n\n/** Doc. */\n@Component\npublic class Foo {\n    private int x = f(1);\n"
        "    public List<String> get(int a) throws E {\n        while (a > 1) {\n        }\n    }\n}\n"),
        [(1, "public class Foo"), (2, "public List<String> get(int a) throws E")],
    ),
    "go": (
        "type Foo struct {\n\tA int\n}\n\n// Doc\nfunc (f *Foo) Get() int {\n\treturn 1\n}\n",
        [(1, "type Foo struct"), (1, "func (f *Foo) Get() int")],
    ),
    "rust": (
        "impl<T> Foo<T> {\n    pub fn get(&self) -> i32 {\n        1\n    }\n}\nfn main() {}\n",
        [(1, "impl<T> Foo<T>"), (2, "pub fn get(&self) -> i32"), (1, "fn main() {}")],
    ),
    "c": (
        ("#include <a.h>\nint f(void);\nstatic int add(int a,\n               int b)\n{\n    g(a);\n}\n"
        "struct p {\n    int x;\n};\n"),
        [(1, "static int add(int a,"), (1, "struct p")],
    ),
    "sql": ("-- a\ncreate table a (\n b);\n\nselect 1;\n", [(1, "create table a ("), (1, "select 1;")]),
    "shell": ("#!/bin/sh\nset -e\nfoo() {\n  ls\n}\n", [(1, "foo()")]),
    "toml": ("a = 1\n\n[b.c]\nd = [\n  1,\n]\n", [(1, "[b.c]")]),
    "yaml": ("a: 1\nb:\n  c: 2\n", [(1, "b")]),
    "json": ('{"a": [1, 2]}', []),
    "lines": ("a { b: c }\n", []),
}  # fmt: skip


@pytest.mark.parametrize("language", SOURCES)
def test_code_is_cut_where_definitions_begin_and_stays_as_it_is(language: str) -> None:
    source, expected = SOURCES[language]
    parsed = code.parse(source.encode(), language)

    assert parsed.text == source
    assert titles(parsed) == expected


def test_a_comment_stays_with_what_it_is_about() -> None:
    source = "x = 1\n\n# about f\n@wrap\ndef f(): pass\n"

    assert shown(code.parse(source.encode(), "python")) == [
        ("code", "x = 1\n\n"),
        ("heading", "# about f\n@wrap\ndef f(): pass"),
    ]


def test_chunks_of_a_method_name_its_class() -> None:
    body = "".join(f"        value_{n} = compute(value_{n}, {n})\n" for n in range(60))
    source = f"class Foo:\n    def first(self):\n{body}\n    def second(self):\n{body}"
    parsed = code.parse(source.encode(), "python")

    chunks = chunk(parsed.text, parsed.blocks, ChunkPolicy())
    assert len(chunks) > 4
    assert {c.headings for c in chunks} == {
        ("class Foo:"[:-1], "def first(self)"),
        ("class Foo", "def second(self)"),
    }


def test_code_without_definitions_is_cut_at_blank_lines() -> None:
    source = "\n\n".join(f"a{n} = " + "x + " * 40 + "1" for n in range(20))
    parsed = code.parse(source.encode(), "lines")

    assert len(parsed.blocks) > 4
    assert all(parsed.text[b.start : b.end].strip().startswith("a") for b in parsed.blocks)


@pytest.mark.parametrize("language", [*SOURCES, "kotlin", "scala", "swift", "ruby", "php", "lua"])
@settings(deadline=None, max_examples=30)
@given(
    pieces=st.lists(
        st.sampled_from(
            ["class A", "def f(x)", "fn g()", "func h()", "{", "}", "(", ")", "\n", "\n\n", "  ", "\t",
             "# c", "// c", "/*", "*/", "@x", "[t]", "x: y", "return", ";", '"""', "é"]
        ),
        max_size=40,
    )
)  # fmt: skip
def test_no_character_of_code_is_lost(language: str, pieces: list[str]) -> None:
    source = "".join(pieces)
    try:
        parsed = code.parse(source.encode(), language)
    except Rejected as rejected:
        assert rejected.reason == "EMPTY"  # noqa: PT017 - either way
        return
    covered = "".join(parsed.text[b.start : b.end] for b in parsed.blocks)
    assert covered.split() == parsed.text.split() or "".join(covered.split()) == "".join(
        parsed.text.split()
    )


def test_long_lines_of_generated_code_cost_no_time() -> None:
    for language in SOURCES:
        if language != "json":
            code.parse(("public " * 50_000 + "a" * 200_000 + "(").encode(), language)


def test_json_nested_too_deep_is_rejected_and_json_with_comments_is_read() -> None:
    assert reason(code, b"[" * 100_000, "json") == "TOO_DEEP"
    assert code.parse(b'{"a": 1, // why\n}', "json").text
