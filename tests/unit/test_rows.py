"""Files of rows, read piece by piece: what is a row, what is none, and where reading goes on."""

from __future__ import annotations

import csv
import io
import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ragline.rag.formats import RECORDS, Rejected, mail, rows
from ragline.rag.formats.rows import Fault, Fields, Place, Row

MBOX = "application/mbox"


def read(
    path: Path, kind: str = "application/jsonl", fields: Fields | None = None
) -> tuple[list[Row], list[Fault]]:
    """All rows and faults of a file, however many pieces it takes."""
    place: Place | None = Place(fields=fields or Fields())
    found: list[Row] = []
    faults: list[Fault] = []
    while place is not None:
        batch = rows.read(path, RECORDS[kind], place)
        assert batch.place is None or batch.place.offset > place.offset
        found += batch.rows
        faults += batch.faults
        place = batch.place
    return found, faults


def written(folder: Path, data: str | bytes, name: str = "rows") -> Path:
    path = folder / name
    path.write_bytes(data if isinstance(data, bytes) else data.encode())
    return path


def texts(found: list[Row]) -> dict[str, str]:
    return {one.id: one.content.decode() for one in found}


def reason(path: Path, kind: str, fields: Fields | None = None) -> str:
    with pytest.raises(Rejected) as rejected:
        read(path, kind, fields)
    return rejected.value.reason


# -- JSONL -----------------------------------------------------------------------------------------


def test_a_line_of_jsonl_is_a_document_and_its_other_fields_keep_their_types(
    tmp_path: Path,
) -> None:
    line = {
        "id": 7,
        "title": "T",
        "text": "Words.",
        "year": 2026,
        "price": 1.5,
        "tags": ["a", None],
    }
    found, faults = read(written(tmp_path, json.dumps(line) + "\n\n"))

    assert found == [
        Row(
            id="7",
            line=1,
            content=b"Words.",
            media_type="text/plain",
            title="T",
            metadata={"year": 2026, "price": 1.5, "tags": ["a", None]},
        )
    ]
    assert faults == []


def test_fields_are_named_or_looked_for(tmp_path: Path) -> None:
    usual = written(tmp_path, '{"_id": "a", "body": "one", "content": "two"}\n')
    assert texts(read(usual)[0]) == {"a": "one"}

    named = Fields(text=("content", "body"), id="key", title="name")
    found, _ = read(
        written(tmp_path, '{"key": 1, "name": " N ", "body": "b", "content": "c"}'), fields=named
    )
    assert texts(found) == {"1": "c\n\nb"}
    assert (found[0].title, found[0].metadata) == ("N", {})


@pytest.mark.parametrize(
    ("line", "expected", "id_"),
    [
        ('{"id": "x", "text": "a"', "BAD_LINE", None),
        ('["x"]', "BAD_LINE", None),
        ('{"id": "x", "text": "a", "n": NaN}', "BAD_LINE", None),
        ('{"text": "a"}', "MISSING_FIELD", None),
        ('{"id": "", "text": "a"}', "MISSING_FIELD", None),
        ('{"id": true, "text": "a"}', "BAD_FIELD", None),
        ('{"id": 1.5, "text": "a"}', "BAD_FIELD", None),
        ('{"id": "%s", "text": "a"}' % ("x" * 2000), "NAME_TOO_LONG", None),
        ('{"id": "x"}', "MISSING_FIELD", "x"),
        ('{"id": "x", "%s": 1}' % ("f" * 5000), "MISSING_FIELD", "x"),
        ('{"id": "x", "text": null}', "EMPTY", "x"),
        ('{"id": "x", "text": " "}', "EMPTY", "x"),
        ('{"id": "x", "text": 5}', "BAD_FIELD", "x"),
        ('{"id": "x", "text": "\\ud800"}', "NOT_TEXT", "x"),
        ('{"id": "x", "title": "\\ud800", "text": "a"}', "NOT_TEXT", "x"),
        ('{"id": "x", "text": "a", "m": %s}' % ("[" * 500 + "]" * 500), "TOO_DEEP", "x"),
        ('{"id": "x", "text": "a", "m": [' + "[]," * 20_000 + "0]}", "TOO_LARGE", "x"),
        ('{"id": "x", "text": "a", "m": "%s"}' % ("m" * (2 << 20)), "TOO_LARGE", "x"),
        ("[" * 100_000, "TOO_DEEP", None),
        ("{" + ", ".join(f'"f{n}": 1' for n in range(2000)) + "}", "TOO_MANY_FIELDS", None),
        ('{"id": "x", "text": "a\0"}', "NUL_BYTE", None),
    ],
)
def test_a_line_that_is_no_document_is_rejected_by_name_and_the_rest_goes_on(
    tmp_path: Path, line: str, expected: str, id_: str | None
) -> None:
    good = '{"id": "%s", "text": "good"}'
    found, faults = read(written(tmp_path, "\n".join([good % 1, line, good % 2])))

    assert texts(found) == {"1": "good", "2": "good"}
    assert [(one.line, one.reason, one.id) for one in faults] == [(2, expected, id_)]
    assert faults[0].message.startswith("line 2: ")
    assert len(faults[0].message) <= 500


def test_rows_before_the_first_with_the_usual_fields_are_rejected_alone(tmp_path: Path) -> None:
    found, faults = read(written(tmp_path, '{"id": 1}\n{"text": "b"}\n{"id": 3, "text": "c"}\n'))

    assert texts(found) == {"3": "c"}
    assert [(one.line, one.reason) for one in faults] == [(1, "NO_TEXT_FIELD"), (2, "NO_ID_FIELD")]
    many = written(tmp_path, '{"id": 1}\n' * 100_000)
    assert reason(many, "application/jsonl") == "NO_TEXT_FIELD"


def test_a_line_that_is_not_utf8_is_rejected_alone(tmp_path: Path) -> None:
    found, faults = read(written(tmp_path, b'{"id": 1, "text": "caf\xe9"}\n{"id": 2, "text": "b"}'))

    assert texts(found) == {"2": "b"}
    assert [one.reason for one in faults] == ["INVALID_UTF8"]


@pytest.mark.parametrize("kind", ["application/jsonl", "text/csv", "application/mbox"])
def test_a_line_that_is_too_long_is_rejected_alone(
    tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rows, "LONGEST_BYTES", 1000)
    monkeypatch.setattr(rows, "_SKIPPED_BYTES", 64)
    long = "x" * 5000
    data = {
        "application/jsonl": f'{{"id": 1, "text": "{long}"}}\n{{"id": 2, "text": "b"}}\n',
        "text/csv": f"id,text\n1,{long}\n2,b\n",
        "application/mbox": f"From a\nMessage-ID: 1\n\n{long}\nend\n\nFrom b\nMessage-ID: 2\n\nb\n",
    }
    found, faults = read(written(tmp_path, data[kind]), kind)

    assert [one.id for one in found] == ["2"]
    assert [one.reason for one in faults] == ["TOO_LARGE"]


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b"", "EMPTY"),
        ('{"id": 1, "text": "a"}'.encode("utf-16"), "NOT_TEXT"),
        (b'{"id": 1, "words": "a"}', "NO_TEXT_FIELD"),
        (b'{"key": 1, "text": "a"}', "NO_ID_FIELD"),
    ],
)
def test_a_file_without_rows_is_rejected_as_a_whole(
    tmp_path: Path, data: bytes, expected: str
) -> None:
    assert reason(written(tmp_path, data), "application/jsonl") == expected


def test_the_refusal_names_the_fields_that_there_are(tmp_path: Path) -> None:
    with pytest.raises(Rejected, match=r"there are 'id', 'words'.*--text-field"):
        read(written(tmp_path, '{"id": 1, "words": "a"}'))


# -- CSV -------------------------------------------------------------------------------------------


def test_csv_values_are_text_and_empty_cells_say_nothing(tmp_path: Path) -> None:
    data = '\ufeffid,text,year,note,\r\n1,"two\nlines, ""quoted""",2026,,x\r\n\r\n2,b,,n,\r\n'
    found, faults = read(written(tmp_path, data), "text/csv")

    assert texts(found) == {"1": 'two\nlines, "quoted"', "2": "b"}
    assert [one.metadata for one in found] == [{"year": "2026"}, {"note": "n"}]
    assert [one.line for one in found] == [2, 5]
    assert faults == []


@pytest.mark.parametrize(
    ("kind", "data"),
    [
        ("text/csv", "id;text\n1;a, b\n"),
        ("text/csv", "id\ttext\n1\ta, b\n"),
        ("text/tab-separated-values", "id\ttext\n1\ta, b\n"),
    ],
)
def test_the_delimiter_is_seen_in_the_header(tmp_path: Path, kind: str, data: str) -> None:
    assert texts(read(written(tmp_path, data), kind)[0]) == {"1": "a, b"}


@pytest.mark.parametrize(
    ("bad", "expected"),
    [
        ("1,a,b", "BAD_LINE"),
        ("1", "BAD_LINE"),
        ('1,"a" b', "BAD_LINE"),
        ('1,"never closed', "BAD_LINE"),
        (",a", "MISSING_FIELD"),
        ("1,", "EMPTY"),
        ("1,a\0", "NUL_BYTE"),
        ('1,"a\nb\0"', "NUL_BYTE"),
        ("1" + "," * 1_000_000, "BAD_LINE"),
    ],
)
def test_a_row_of_csv_that_is_no_document_is_rejected_by_name_and_the_rest_goes_on(
    tmp_path: Path, bad: str, expected: str
) -> None:
    found, faults = read(written(tmp_path, f"id,text\n{bad}\n8,good\n9,good\n"), "text/csv")

    assert {"8", "9"} <= texts(found).keys()
    assert (faults[0].line, faults[0].reason) == (2, expected)


def test_quotes_that_nobody_closes_cost_no_more_than_a_few_readings(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rows, "_MOST_REREAD_BYTES", 1_000_000)
    path = written(tmp_path, "id,text\n1,good\n" + 'a","\n' * 20_000)
    taken = 0
    raw = rows.Lines.raw

    def counted(lines: rows.Lines) -> bytes:
        nonlocal taken
        taken += 1
        return raw(lines)

    monkeypatch.setattr(rows.Lines, "raw", counted)
    found, faults = read(path, "text/csv")

    assert texts(found) == {"1": "good"}
    assert "the rest of the file is left out" in faults[-1].message
    assert faults[-1].id is None
    assert taken < 100_000


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        ("id,text,id", "BAD_HEADER"),
        ("key,text", "NO_ID_FIELD"),
        ("id,words", "NO_TEXT_FIELD"),
        (",".join(f"c{n}" for n in range(1_000_000)), "TOO_MANY_FIELDS"),
        ("id,te\0xt", "NUL_BYTE"),
        (" \n ", "EMPTY"),
    ],
)
def test_a_header_that_says_too_little_is_rejected(
    tmp_path: Path, header: str, expected: str
) -> None:
    assert reason(
        written(tmp_path, f"{header}\n1,a\n"[: None if header.strip() else 3]), "text/csv"
    ) == (expected)


def test_a_named_column_that_is_missing_is_said(tmp_path: Path) -> None:
    path = written(tmp_path, "id,text\n1,a\n")

    assert reason(path, "text/csv", Fields(text=("txt",))) == "MISSING_FIELD"
    assert reason(path, "text/csv", Fields(id="key")) == "MISSING_FIELD"


cells = st.text(alphabet=st.characters(codec="utf-8", exclude_characters="\0"), max_size=30)


@settings(
    deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
@given(
    table=st.lists(st.tuples(cells.filter(str.strip), cells), max_size=20),
    size=st.integers(1, 60),
)
def test_whatever_csv_holds_is_read_back_in_any_pieces(
    tmp_path: Path, table: list[tuple[str, str]], size: int
) -> None:
    out = io.StringIO(newline="")
    writer = csv.writer(out, quoting=csv.QUOTE_ALL)
    writer.writerows([("id", "text", "more"), *((str(n), *row) for n, row in enumerate(table))])
    path = written(tmp_path, out.getvalue())
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(rows, "_BATCH_BYTES", size)
        found, faults = read(path, "text/csv")

    assert faults == []
    assert texts(found) == {str(n): text for n, (text, _) in enumerate(table)}
    assert [one.metadata.get("more", "") for one in found] == [more for _, more in table]


json_values: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | cells,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(cells, inner, max_size=3),
    max_leaves=8,
)  # fmt: skip


@settings(
    deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
@given(values=st.lists(json_values, min_size=1, max_size=20), size=st.integers(1, 60))
def test_whatever_jsonl_holds_is_read_back_in_any_pieces(
    tmp_path: Path, values: list[Any], size: int
) -> None:
    lines = [{"id": n, "text": "t", "value": value} for n, value in enumerate(values)]
    path = written(tmp_path, "\n".join(json.dumps(line) for line in lines))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(rows, "_BATCH_BYTES", size)
        found, faults = read(path)

    assert faults == []
    assert [one.metadata["value"] for one in found] == values
    assert [one.line for one in found] == list(range(1, len(values) + 1))


# -- mbox ------------------------------------------------------------------------------------------

MAILS = """From a@example.com Thu Nov 19 10:00:00 2026
Message-ID: <1@x>
Subject: One

First.
>From here on.

From b@example.com Thu Nov 19 10:00:00 2026
Subject: Two

Second.
From the middle of a paragraph.
"""


def test_an_mbox_is_many_messages(tmp_path: Path) -> None:
    found, faults = read(written(tmp_path, MAILS), "application/mbox")

    assert [one.media_type for one in found] == ["message/rfc822"] * 2
    assert [one.id[:7] for one in found] == ["1@x", "sha256-"]
    assert b"\nFrom here on." in found[0].content
    assert b"From the middle" in found[1].content
    assert faults == []


@pytest.mark.parametrize(
    "bad",
    [b"<", b"<>", b"", b"<@", b"<a@[", b"(" * 3000, b"=?utf-8?q?a?= " * 20_000, b'"', b"<a@\xff>",
     b"<" + b"a." * 400_000 + b"@b>", b"=?x?q?\xff?="],
)  # fmt: skip
def test_a_message_with_a_bad_id_keeps_its_place_among_the_others(
    tmp_path: Path, bad: bytes
) -> None:
    one = b"From a@b Thu Jan  1 00:00:00 2026\nMessage-ID: %s\nSubject: s\n\nwords\n\n"
    path = written(tmp_path, one % b"<1@x>" + one % bad + one % b"<3@x>")
    found, faults = read(path, "application/mbox")

    assert faults == []
    assert [row.id for row in (found[0], found[2])] == ["1@x", "3@x"]
    assert len(found[1].id) < 100
    parsed = mail.parse(found[1].content)
    assert (parsed.text, parsed.title) == ("words", "s")


def test_a_sentence_after_a_blank_line_does_not_end_a_message(tmp_path: Path) -> None:
    body = "Dear all,\n\nFrom the first of May the price is 5 euro.\n\nFrom 2026 on, 6.\n"
    text = f"From a@b Thu Jan  1 00:00:00 2026\nMessage-ID: <1@x>\n\n{body}\n"
    found, faults = read(written(tmp_path, text + "From c\nMessage-ID: <2@x>\n\nEnd.\n"), MBOX)

    assert faults == []
    assert [one.id for one in found] == ["1@x", "2@x"]
    assert body.encode() in found[0].content


def test_what_is_no_mbox_is_rejected(tmp_path: Path) -> None:
    assert reason(written(tmp_path, "Subject: x\n\ny\n"), "application/mbox") == "DAMAGED"
    assert reason(written(tmp_path, "From here on it rains.\n\ny\n"), MBOX) == "DAMAGED"


# -- pieces ----------------------------------------------------------------------------------------


def test_a_file_is_read_in_pieces_of_bounded_size(tmp_path: Path) -> None:
    path = written(
        tmp_path, "".join(f'{{"id": {n}, "text": "{"x" * 900}"}}\n' for n in range(5000))
    )
    first = rows.read(path, RECORDS["application/jsonl"], Place())

    assert 0 < len(first.rows) <= 500
    assert len(read(path)[0]) == 5000


def test_a_file_that_changes_while_it_is_read_is_not_read_on(tmp_path: Path) -> None:
    path = written(tmp_path, "".join(f'{{"id": {n}, "text": "t"}}\n' for n in range(1000)))
    place = rows.read(path, RECORDS["application/jsonl"], Place()).place
    assert place is not None
    os.utime(path, ns=(1, 1))

    with pytest.raises(Rejected) as rejected:
        rows.read(path, RECORDS["application/jsonl"], place)
    assert rejected.value.reason == "CHANGED"
    again = rows.read(path, RECORDS["application/jsonl"], replace(place, file=()))
    assert again.rows[0].id == "500"
