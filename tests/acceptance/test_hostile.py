"""Files made to break their reader, in one folder with good ones, through the real command line.

The growth of the process is measured as the difference between the peaks (VmHWM, which begins anew
with each program) of two fresh processes that run `ragline ingest --json`: one on the good files
alone, one on the same files with the hostile ones beside them.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
import subprocess
import sys
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import pypdf
import pytest

from command import Command, one_object, place
from samples import docx, notebook, paragraph

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")

MOST_GROWTH_MB = 50
LONG_LINE = 100 << 20

MEASURED = """
import atexit, re, sys
from pathlib import Path
def say():
    found = re.search(r"VmHWM:\\s+(\\d+) kB", Path("/proc/self/status").read_text())
    print("peak_kb", found[1], file=sys.stderr)
atexit.register(say)
from ragline.cli import main
main()
"""


# -- the files -------------------------------------------------------------------------------------

GOOD = {
    "good/one.md": b"# One\n\nThe quick brown fox.\n",
    "good/two.txt": b"Words that are harmless.\n",
    "good/three.docx": docx(paragraph("A letter.")),
    "good/rows.jsonl": b'{"id": 1, "text": "row one"}\n{"id": 2, "text": "row two"}\n',
    "good/four.py": b"def f():\n    return 1\n",
}


def packed(megabytes: int, unit: bytes = b" ") -> bytes:
    """Zlib's output for so many megabytes of one byte."""
    press = zlib.compressobj(9)
    return b"".join(press.compress(unit * (1 << 20)) for _ in range(megabytes)) + press.flush()


def pdf(*objects: bytes) -> bytes:
    """A PDF of these objects, the first of which is the catalog."""
    data, offsets = b"%PDF-1.4\n", []
    for number, one in enumerate(objects, 1):
        offsets.append(len(data))
        data += b"%d 0 obj\n%s\nendobj\n" % (number, one)
    table = b"".join(b"%010d 00000 n \n" % offset for offset in offsets)
    size = len(objects) + 1
    xref = b"xref\n0 %d\n0000000000 65535 f \n%s" % (size, table)
    trailer = b"trailer\n<< /Size %d /Root 1 0 R >>\n" % size
    return data + xref + trailer + b"startxref\n%d\n%%%%EOF\n" % len(data)


CATALOG = b"<< /Type /Catalog /Pages 2 0 R >>"
PAGES = b"<< /Type /Pages /Kids [3 0 R] /Count 1 >>"


def pdf_of(stream: bytes, filters: bytes) -> bytes:
    # Without a font nobody would look at what the page shows.
    font = b"<< /Font << /F1 << /Type /Font /Subtype /Type1 /BaseFont /Helvetica >> >> >>"
    page = b"<< /Type /Page /Parent 2 0 R /Contents 4 0 R /Resources %s >>" % font
    content = b"<< /Length %d /Filter %s >>\nstream\n%s\nendstream" % (len(stream), filters, stream)
    return pdf(CATALOG, PAGES, page, content)


def locked_pdf() -> bytes:
    writer = pypdf.PdfWriter()
    writer.add_blank_page(100, 100)
    writer.encrypt("secret")
    out = BytesIO()
    writer.write(out)
    return out.getvalue()


def bomb(megabytes: int, name: str = "word/document.xml") -> bytes:
    """An archive of some kilobytes whose one file is so long."""
    out = BytesIO()
    with (
        zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive,
        archive.open(name, "w") as file,
    ):
        file.write(b"<w:document xmlns:w='urn:w'><w:body><w:p><w:r><w:t>")
        for _ in range(megabytes):
            file.write(b"a" * (1 << 20))
        file.write(b"</w:t></w:r></w:p></w:body></w:document>")
    return out.getvalue()


def laughs() -> str:
    steps = zip("abcdefghi", "bcdefghij", strict=True)
    return (
        '<!DOCTYPE x [<!ENTITY a "ha">'
        + "".join(f'<!ENTITY {b} "{f"&{a};" * 10}">' for a, b in steps)
        + "]>"
    )


def nested_mail(depth: int) -> bytes:
    head = b"Subject: s\n"
    for n in range(depth):
        head += b"Content-Type: multipart/mixed; boundary=b%d\n\n--b%d\n" % (n, n)
    return head + b"Content-Type: text/plain\n\nWords.\n"


OLE = b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + bytes(500) + "EncryptedPackage".encode("utf-16-le")
MESSAGE = b"Message-ID: %s\nSubject: s\n\nbody\n\n"
BAD_ID = b"(" * 3000
ROW = '{"id": "%s", "text": "row %s"}\n'

Content = bytes | Callable[[], bytes]  # the long ones are made when they are needed

# file -> its bytes, and the reason for which it is rejected
REJECTED: dict[str, tuple[Content, str]] = {
    "bomb.docx": (lambda: bomb(1024), "BOMB"),
    "bomb.pdf": (lambda: pdf_of(packed(2048), b"/FlateDecode"), "BOMB"),
    "bomb-in-bomb.pdf": (
        lambda: pdf_of(zlib.compress(packed(2048), 9), b"[/FlateDecode /FlateDecode]"),
        "BOMB",
    ),
    "loop.pdf": (pdf(CATALOG, b"<< /Type /Pages /Kids [2 0 R 2 0 R] /Count 1 >>"), "DAMAGED"),
    "deep.pdf": (pdf(CATALOG, PAGES, b"[" * 100_000 + b"]" * 100_000), "DAMAGED"),
    "deep-tree.pdf": (
        pdf(CATALOG, *(b"<< /Type /Pages /Kids [%d 0 R] /Count 1 >>" % n for n in range(3, 5000))),
        "BOMB",
    ),
    "locked.pdf": (locked_pdf(), "ENCRYPTED"),
    "locked.docx": (OLE, "ENCRYPTED"),
    "torn.pdf": (pdf_of(packed(1), b"/FlateDecode")[:200], "DAMAGED"),
    "torn.docx": (docx(paragraph("Text."))[:500], "DAMAGED"),
    "nul.txt": (b"a\0b", "NUL_BYTE"),
    "nul.eml": (b"Subject: s\n\n\0\n", "NO_TEXT"),
    "latin.txt": (b"caf\xe9", "INVALID_UTF8"),
    "latin.py": (b"x = 'caf\xe9'", "INVALID_UTF8"),
    "empty.txt": (b"", "EMPTY"),
    "empty.csv": (b"", "EMPTY"),
    "empty.docx": (b"", "EMPTY"),
    "header-only.csv": (b"id,text\n", "EMPTY"),
    "laughs.docx": (docx(paragraph("&j;"), head=laughs()), "XML_DOCTYPE"),
    "deep.docx": (docx("<w:x>" * 100_000 + "</w:x>" * 100_000), "TOO_DEEP"),
    "deep.eml": (nested_mail(10_000), "TOO_DEEP"),
    "deeper.html": (b"<div>" * 100_000 + b"deep down", "TOO_DEEP"),
    "deep.json": (b"[" * 100_000 + b"]" * 100_000, "TOO_DEEP"),
    "deep.ipynb": (b'{"cells":' + b"[" * 100_000 + b"]" * 100_000 + b"}", "TOO_DEEP"),
    "wide.csv": (b",".join(b"c%d" % n for n in range(1_000_000)), "TOO_MANY_FIELDS"),
    "fieldless.jsonl": (b'{"id": 1, "words": "x"}\n', "NO_TEXT_FIELD"),
}
# file -> its bytes, the rows that come in, and the reasons of those that do not
ROWS: dict[str, tuple[bytes, set[str], list[str]]] = {
    "deep.jsonl": (
        f"{ROW % (1, 1)}{'[' * 100_000}\n{ROW % (2, 2)}".encode(),
        {"1", "2"},
        ["TOO_DEEP"],
    ),
    "twice.jsonl": (f"{ROW % (1, 1)}{ROW % (1, 2)}".encode(), {"1"}, ["DUPLICATE_ID"]),
    "torn.csv": (b'id,text\n1,a\n2,"b\n3,c\n', {"1", "3"}, ["BAD_LINE"]),
    "titles.jsonl": (
        b'{"id": 1, "title": "\\ud800x", "text": "a"}\n' + (ROW % (2, 2)).encode(),
        {"2"},
        ["NOT_TEXT"],
    ),
    "metadata.jsonl": (
        b'{"id": 1, "text": "a", "m": [' + b"[]," * 5_000_000 + b"[]]}\n"
        b'{"id": 2, "text": "a", "m": '
        + b"[" * 700
        + b"]" * 700
        + b"}\n"
        + (ROW % (3, 3)).encode(),
        {"3"},
        ["TOO_DEEP", "TOO_LARGE"],
    ),
    "quotes.csv": (
        b"id,text\n1,a\n" + b'a","\n' * 900_000,
        {"1"},
        ["BAD_LINE"],
    ),
    "ids.mbox": (
        b"".join(b"From a@b\n" + MESSAGE % one for one in (b"<1@x>", BAD_ID, b"<3@x>")),
        {"1@x", "sha256-" + hashlib.sha256(MESSAGE % BAD_ID).hexdigest(), "3@x"},
        [],
    ),
    "many.jsonl": ((ROW % (1, 1)).encode() + b"x\n" * 200_000, {"1"}, ["AND_MORE", "BAD_LINE"]),
}
# What can be read without harm is read.
HARMLESS: dict[str, Content] = {
    "deep.html": b"<div>" * 10_000 + b"deep down",
    "pictures.ipynb": lambda: notebook(
        {"cell_type": "markdown", "source": "# Pictures"},
        {
            "cell_type": "code",
            "source": "plot()",
            "outputs": [{"data": {"image/png": base64.b64encode(bytes(37 << 20)).decode()}}],
        },
    ),
    "new\nline.txt": b"A name that begins another line.",
}


def write(folder: Path, files: Mapping[str, Content]) -> Path:
    for name, data in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data if isinstance(data, bytes) else data())
    return folder


def write_long_lines(folder: Path) -> None:
    """Files with a line of 100 MB, between two that are fine where lines are documents."""
    line = b"x" * LONG_LINE
    (folder / "long.txt").write_bytes(line)
    with (folder / "long.jsonl").open("wb") as file:
        file.write((ROW % ("a", "a")).encode() + b'{"id": "b", "text": "')
        file.write(line)
        file.write(b'"}\n' + (ROW % ("c", "c")).encode())
    with (folder / "long.csv").open("wb") as file:
        file.write(b'id,text\na,row a\nb,"')
        file.write(line)
        file.write(b'"\nc,row c\n')


LONG_ROWS = {"long.jsonl": ({"a", "c"}, ["TOO_LARGE"]), "long.csv": ({"a", "c"}, ["TOO_LARGE"])}


def write_special(folder: Path, outside: Path) -> dict[str, str]:
    """Things that are no files to read; returns the reason of each."""
    (folder / "link.txt").symlink_to(outside / "secret.txt")
    (folder / "device.txt").symlink_to("/dev/zero")
    (folder / "dangling.txt").symlink_to(folder / "nothing")
    os.mkfifo(folder / "pipe.txt")
    os.mkfifo(folder / "pipe.jsonl")
    Path(os.fsdecode(os.fsencode(folder) + b"/caf\xe9.txt")).write_text("Words.")
    reasons = {
        "link.txt": "SYMLINK_OUTSIDE",
        "device.txt": "SYMLINK_OUTSIDE",
        "dangling.txt": "UNREADABLE",
        "pipe.txt": "UNREADABLE",
        "pipe.jsonl": "UNREADABLE",
        "caf\\udce9.txt": "UNREADABLE",
    }
    if os.geteuid() != 0:  # root reads everything
        (folder / "shut.txt").write_text("Words.")
        (folder / "shut.txt").chmod(0)
        reasons["shut.txt"] = "UNREADABLE"
    return reasons


# -- the run ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Run:
    """What one process said of its ingest, and its peak of memory."""

    report: dict[str, Any]
    peak_mb: float


def measured(ragline: Command, *arguments: str | Path) -> Run:
    done = subprocess.run(
        [sys.executable, "-c", MEASURED, *map(str, arguments), "--json"],
        env=ragline.environment,
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
        timeout=280,
    )
    assert done.returncode == 0, done.stderr
    *_, peak = done.stderr.split()
    return Run(one_object(done.stdout), int(peak) / 1024)


@dataclass(frozen=True)
class Corpus:
    """A folder of good and hostile files, and what two runs made of it."""

    folder: Path
    reasons: dict[str, str]
    alone: Run
    together: Run
    documents: dict[str, Any]

    def rejected(self, name: str) -> list[str]:
        """The reasons of all rejections of a file and its rows."""
        path = str(self.folder.resolve() / name)
        return sorted(
            {
                one["reason"]
                for one in self.together.report["rejections"]
                if one["source"] == path or one["source"].startswith(path + "#")
            }
        )

    def rows(self, name: str) -> set[str]:
        path = str(self.folder.resolve() / name) + "#"
        return {source.removeprefix(path) for source in self.documents if source.startswith(path)}


@pytest.fixture(scope="module")
def corpus() -> Iterator[Corpus]:
    with place() as ragline:
        outside = write(
            ragline.folder / "outside", {"secret.txt": b"A secret.", "bomb.zip": bomb(8)}
        )
        good = write(ragline.folder / "docs", GOOD)
        ragline.json("ingest", good, "-c", "first")  # starts the server
        alone = measured(ragline, "ingest", good, "-c", "alone")

        hostile = {name: data for name, (data, _) in REJECTED.items()}
        rows = {name: data for name, (data, _, _) in ROWS.items()}
        folder = write(good, {**hostile, **rows, **HARMLESS})
        write_long_lines(folder)
        reasons = write_special(folder, outside)
        reasons |= {name: reason for name, (_, reason) in REJECTED.items()}
        reasons["long.txt"] = "TOO_LARGE"
        together = measured(
            ragline, "ingest", folder, outside / "bomb.zip", "/dev/zero", "-c", "together"
        )
        yield Corpus(folder, reasons, alone, together, documents(ragline, "together"))


def documents(ragline: Command, collection: str) -> dict[str, Any]:
    """Text and metadata of a collection's documents by source."""
    script = (
        "import asyncio, json, sys, ragline\n"
        "from ragline.rag import catalog\n"
        "async def main():\n"
        "    async with ragline.connect() as rag:\n"
        "        found = await catalog.documents(rag.app, sys.argv[1], limit=1000)\n"
        "        texts = [await catalog.document(rag.app, one.id) for one in found]\n"
        "        print(json.dumps({one.facts.source: one.text for one in texts}))\n"
        "asyncio.run(main())\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, collection],
        env=ragline.environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def test_each_hostile_file_is_rejected_by_its_named_reason(corpus: Corpus) -> None:
    found = {name: corpus.rejected(name) for name in corpus.reasons}

    assert found == {name: [reason] for name, reason in corpus.reasons.items()}
    rejections = corpus.together.report["rejections"]
    assert all(one["message"] for one in rejections)


def test_files_that_are_named_but_no_documents_are_rejected(corpus: Corpus) -> None:
    reasons = {one["source"]: one["reason"] for one in corpus.together.report["rejections"]}

    assert reasons["/dev/zero"] == "UNREADABLE"
    assert reasons[str(corpus.folder.resolve().parent / "outside/bomb.zip")] == "UNSUPPORTED"


@pytest.mark.parametrize("name", [*ROWS, *LONG_ROWS])
def test_a_hostile_row_is_rejected_and_the_rest_of_its_file_comes_in(
    corpus: Corpus, name: str
) -> None:
    rows, reasons = LONG_ROWS.get(name) or ROWS[name][1:]

    assert corpus.rows(name) == rows
    assert corpus.rejected(name) == reasons


def test_good_files_and_harmless_ones_come_in(corpus: Corpus) -> None:
    whole = {str(corpus.folder.resolve() / name) for name in (*GOOD, *HARMLESS)}
    whole.discard(str(corpus.folder.resolve() / "good/rows.jsonl"))

    assert whole <= corpus.documents.keys()
    assert corpus.rows("good/rows.jsonl") == {"1", "2"}
    assert corpus.documents[str(corpus.folder.resolve() / "deep.html")] == "deep down"
    assert (
        corpus.documents[str(corpus.folder.resolve() / "pictures.ipynb")] == "# Pictures\n\nplot()"
    )


def test_nothing_but_these_came_in(corpus: Corpus) -> None:
    rows = sum(len(rows) for _, rows, _ in ROWS.values()) + sum(
        len(r) for r, _ in LONG_ROWS.values()
    )
    count = len(GOOD) + 1 + len(HARMLESS) + rows

    assert len(corpus.documents) == corpus.together.report["added"] == count
    assert "A secret." not in corpus.documents.values()


def test_the_process_hardly_grows_by_hostile_files(corpus: Corpus) -> None:
    growth = corpus.together.peak_mb - corpus.alone.peak_mb

    assert corpus.alone.report["added"] == len(GOOD) + 1
    assert growth < MOST_GROWTH_MB, (
        f"{corpus.alone.peak_mb:.0f} MB alone, {growth:+.0f} MB beside them"
    )
