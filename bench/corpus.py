"""A corpus of real text for the benchmarks: the HTML documentation that Debian packages bring.

Pages are cut at headings into documents of some thousand characters, which go through the library's
own ingest. Vectors, where a benchmark wants them, are made up: clusters with a decaying spectrum, as
embeddings of text have, one cluster a document; the model would take twenty minutes for 120,000.
"""

from __future__ import annotations

import hashlib
import html
import json
import random
import shutil
import sys
import tempfile
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager
from functools import cache
from pathlib import Path

import asyncpg
import numpy as np
import numpy.typing as npt

from ragline import config as configuration
from ragline.config import Config
from ragline.core.chunking import Block
from ragline.core.dsn import Dsn
from ragline.db.vectors import decode_vector, encode_vector
from ragline.models import embed
from ragline.models.embed import Embedded, ModelFacts
from ragline.ops import embedded
from ragline.rag.app import App
from ragline.rag.formats import Parsed, Rejected
from ragline.rag.formats.html import parse
from ragline.rag.ingest import Policy, Text, ingest_texts
from ragline.wiring import open_app

# Judged sets and doubles of providers are the tests', which hold them to what is known of them.
sys.path.append(str(Path(__file__).parents[1] / "tests"))

DOC = Path("/usr/share/doc")
SQUAD = Path(__file__).parents[2] / "shared/data/squad_v2_dev_half/dev-v2.0-half.json"
# package -> where its pages are; other versions do as well.
PACKAGES = {
    "postgresql-doc-15": "postgresql-doc-*/html",
    "python3.11-doc": "python3.*/html",
    "sqlite3-doc": "sqlite3",
    "python-django-doc": "python-django-doc/html",
    "python-sqlalchemy-doc": "python-sqlalchemy-doc/html",
    "git-doc": "git-doc",
}
CHUNKING = Policy(chunk_size=128, chunk_overlap=16)
# A page is cut at the first heading after so many characters, or at any block after twice as many.
DOCUMENT_CHARACTERS = 4000
BUCKETS = 1000
DIMENSION = 384
CLUSTERS = 400
NOT_RUN = 3
# Characters a chunk has about; the last rounds of `_fill` find out.
_CHARACTERS_A_CHUNK = 330


class NotRun(Exception):
    """What a benchmark needs is not there."""


def not_run(error: NotRun) -> int:
    """Say why nothing was measured; return the exit code, which is no success."""
    print(f"not run: {error}", file=sys.stderr)
    return NOT_RUN


# -- text ----------------------------------------------------------------------------------------


def documents() -> Iterator[Text]:
    """Yield the documents of all packages, mixed; raise NotRun, naming the packages that lack.

    `bucket` counts 0 to 999 evenly, whatever a document is about; `topic` goes with its vectors.
    """
    pages = [page for package, root in _roots().items() for page in _pages(package, root)]
    random.Random(0).shuffle(pages)
    number = 0
    for source, path in pages:
        try:
            parsed = parse(path.read_bytes())
        except Rejected:
            continue
        for part, (title, blocks) in enumerate(_parts(parsed)):
            yield Text(
                source=f"{source}#{part}",
                text=_as_html(parsed.text, blocks),
                media_type="text/html",
                title=title,
                metadata={
                    # 617 and 1,000 have no common factor: every bucket comes once in a thousand.
                    "bucket": number * 617 % BUCKETS,
                    "topic": f"topic-{cluster(title)}",
                },
            )
            number += 1


def _roots() -> dict[str, Path]:
    found = {package: sorted(DOC.glob(pattern)) for package, pattern in PACKAGES.items()}
    roots = {package: paths[-1] for package, paths in found.items() if paths}
    missing = [
        package
        for package in PACKAGES
        if package not in roots or not any(_pages(package, roots[package]))
    ]
    if missing:
        raise NotRun(f"install {' '.join(missing)} (apt-get install --no-install-recommends …)")
    return roots


def _pages(package: str, root: Path) -> Iterator[tuple[str, Path]]:
    for path in sorted(root.resolve().rglob("*.html")):
        if path.is_file():
            yield f"{package}/{path.relative_to(root.resolve())}", path


def _parts(page: Parsed) -> Iterator[tuple[str, list[Block]]]:
    """Cut a page at headings into documents, each with its title."""
    title = page.title or "Untitled"
    part: list[Block] = []
    named = title
    for block in page.blocks:
        length = block.end - part[0].start if part else 0
        is_heading = block.kind == "heading"
        if length > DOCUMENT_CHARACTERS * (1 if is_heading else 2):
            yield named, part
            part = []
            named = f"{title}: {block.title}"[:300] if is_heading and block.title else named
        part.append(block)
    if part:
        yield named, part


def _as_html(text: str, blocks: Sequence[Block]) -> str:
    parts = []
    for block in blocks:
        body = html.escape(text[block.start : block.end])
        tag = f"h{block.level}" if block.kind == "heading" else "p"
        tag = tag if block.kind in ("heading", "paragraph") else "pre"
        parts.append(f"<{tag}>{body}</{tag}>")
    return "\n".join(parts)


def squad_questions() -> list[str]:
    """Return the distinct questions of SQuAD, shuffled; raise NotRun where the file is not there."""
    if not SQUAD.is_file():
        raise NotRun(f"there is no {SQUAD.parent.name}/{SQUAD.name}")
    questions = {
        entry["question"].strip()
        for article in json.loads(SQUAD.read_text())["data"]
        for paragraph in article["paragraphs"]
        for entry in paragraph["qas"]
    }
    return _shuffled(questions)


async def headings(connection: asyncpg.Connection[asyncpg.Record], collection: str) -> list[str]:
    """Return the distinct section headings of a collection that say something, shuffled."""
    rows = await connection.fetch(
        """
        select distinct rtrim(headings[cardinality(headings)], '¶ ') from ragline.chunk
        where cardinality(headings) > 0
          and collection_id = (select id from ragline.collection where name = $1)
        """, collection,
    )  # fmt: skip
    return _shuffled({row[0] for row in rows if sum(c.isalpha() for c in row[0]) >= 4})


def _shuffled(questions: set[str]) -> list[str]:
    ordered = sorted(questions)
    random.Random(1).shuffle(ordered)
    return ordered


# -- vectors -------------------------------------------------------------------------------------


class Clustered:
    """An embedding model of no meaning: a text's first line says which cluster its vector lies in.

    That is the title of its document, so chunks of one document are neighbours.
    """

    def __init__(self) -> None:
        self.facts = ModelFacts(
            model_id="bench-clustered",
            weights_hash=f"bench-clustered-{DIMENSION}",
            dimension=DIMENSION,
            normalised=True,
            languages=(),
            max_tokens=100_000,
        )

    async def embed_query(self, text: str) -> npt.NDArray[np.float32]:
        """Return the vector of a question."""
        return vector(text)

    async def embed_documents(self, texts: Sequence[str]) -> Embedded:
        """Return the vectors of passages, in their order."""
        made = np.stack([vector(text) for text in texts]) if texts else np.empty((0, DIMENSION))
        return Embedded(vectors=made.astype(np.float32), truncated=0, tokens=0)

    async def close(self) -> None:
        """Nothing is held."""


def vector(text: str) -> npt.NDArray[np.float32]:
    """Return the unit vector of a text, shape (384,), the same whenever it is asked for."""
    centres, scale = _space()
    noise = _generator(text).normal(size=DIMENSION) * scale
    made = centres[cluster(text.split("\n", 1)[0])] + 0.8 * noise
    unit: npt.NDArray[np.float32] = (made / np.linalg.norm(made)).astype(np.float32)
    return unit


@cache
def _space() -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    scale = np.power(1.0 + np.arange(DIMENSION), -0.5).astype(np.float64)
    centres = np.random.default_rng(DIMENSION).normal(size=(CLUSTERS, DIMENSION))
    return centres * scale, scale


@cache
def cluster(line: str) -> int:
    """Return the cluster of a title: a quarter of them are in the first, one in ten in the second."""
    return int(_generator(f"cluster of {line}").zipf(1.3)) % CLUSTERS


def _generator(text: str) -> np.random.Generator:
    digest = hashlib.blake2b(text.encode(), digest_size=8).digest()
    return np.random.default_rng(int.from_bytes(digest, "little"))


# -- the database --------------------------------------------------------------------------------


@asynccontextmanager
async def opened(
    folder: Path | None, collection: str, chunks: int, *, has_vectors: bool
) -> AsyncIterator[tuple[App, Dsn]]:
    """Open ragline with a collection of at least so many chunks, in a database of its own.

    It is gone afterwards, unless `folder` says where to keep it; what is there is used again.
    """
    place = _place(folder)
    model = Clustered() if has_vectors else None

    async def open_model() -> Clustered | None:
        return model

    try:
        async with open_app(Config(data_dir=place / "data")) as app:
            app.open_embedder = open_model
            dsn = embedded.dsn(embedded.ensure(place / "data"))
            await _fill(app, dsn, collection, chunks)
            yield app, dsn
    finally:
        embedded.stop(place / "data")
        if folder is None:
            shutil.rmtree(place)


@asynccontextmanager
async def embedded_for_real(
    folder: Path | None, collection: str, chunks: int
) -> AsyncIterator[tuple[App, Dsn, Config]]:
    """Open ragline as `opened` does, with the vectors that the configured model makes of the chunks.

    Another process can open the database with the configuration, too. Raises NotRun without a model.
    """
    model = embed.model_folder(configuration.load())
    if model is None:
        raise NotRun("there is no model: run `ragline model fetch`")
    place = _place(folder)
    config = Config(data_dir=place / "data", model_dir=model)
    try:
        async with open_app(config) as app:
            dsn = embedded.dsn(embedded.ensure(place / "data"))
            await _fill(app, dsn, collection, chunks)
            yield app, dsn, config
    finally:
        embedded.stop(place / "data")
        if folder is None:
            shutil.rmtree(place)


def _place(folder: Path | None) -> Path:
    place = folder.resolve() if folder else Path(tempfile.mkdtemp(prefix="ragline-bench-"))
    place.mkdir(parents=True, exist_ok=True)
    # As root the server runs as another user, who must be able to reach its data below.
    place.chmod(0o755)
    return place


async def _fill(app: App, dsn: Dsn, collection: str, chunks: int) -> None:
    connection = await connect(dsn)
    try:
        have = await _count(connection, collection)
        coming = documents()
        ratio = float(_CHARACTERS_A_CHUNK)
        while have < chunks:
            texts, characters = _next(coming, (chunks - have) * ratio)
            if not texts:
                raise NotRun(f"the packages hold {have:,} chunks only, and {chunks:,} are needed")
            before = have
            report = await ingest_texts(app, texts, collection, policy=CHUNKING)
            if report.rejections:
                raise AssertionError(f"ingest rejected {report.rejections[0]}")
            have = await _count(connection, collection)
            if have > before:
                ratio = max(characters / (have - before), 50.0)
        await connection.execute("vacuum (analyze)")
    finally:
        await connection.close()


def _next(coming: Iterator[Text], characters: float) -> tuple[list[Text], int]:
    taken: list[Text] = []
    size = 0
    while size < characters and (text := next(coming, None)):
        taken.append(text)
        size += len(text.text)
    return taken, size


async def _count(connection: asyncpg.Connection[asyncpg.Record], collection: str) -> int:
    found: int = await connection.fetchval(
        """
        select count(*) from ragline.chunk
        where collection_id = (select id from ragline.collection where name = $1)
        """, collection,
    )  # fmt: skip
    return found


async def connect(dsn: Dsn) -> asyncpg.Connection[asyncpg.Record]:
    """Return a bare connection with ragline's tables in reach; vectors travel in binary."""
    login = dsn.for_asyncpg("bench")
    login["server_settings"] = {**login["server_settings"], "search_path": "ragline, public"}
    connection: asyncpg.Connection[asyncpg.Record] = await asyncpg.connect(**login)
    await connection.set_type_codec(
        "vector", schema="public", format="binary", encoder=encode_vector, decoder=decode_vector
    )
    return connection


def megabytes(size: int) -> str:
    """Return a size to print."""
    return f"{size / 1e6:,.1f} MB"
