"""Retrieval quality of words, vectors and both, on judged questions, with the configured model.

Through the library, on a database of its own. A document stands where its best chunk does.
"""

from __future__ import annotations

import argparse
import asyncio
import shutil
import sys
import tempfile
from pathlib import Path

import judged
import measure
from corpus import NotRun, not_run
from judged import Judged
from measure import Figure
from ragline import config
from ragline.config import Config
from ragline.core.results import Method
from ragline.models import embed
from ragline.ops import embedded
from ragline.rag.app import App
from ragline.rag.ingest import ingest_texts
from ragline.rag.search import query, search_collections
from ragline.wiring import open_app

AT_LEAST = 0.43
# So many chunks hold ten documents.
CHUNKS = 50
METHODS: tuple[Method, ...] = ("lexical", "vector", "hybrid")
SAID = {"lexical": "BM25", "vector": "vectors", "hybrid": "hybrid"}


def main() -> int:
    """Print the figures; exit 1 when a limit is broken, 3 when data or model are not there."""
    parser = measure.options(__doc__)
    parser.add_argument("--squad", action="store_true", help="the paragraphs of SQuAD too")
    options = parser.parse_args()
    try:
        figures = asyncio.run(_run(options))
    except NotRun as error:
        return not_run(error)
    return measure.verdict(figures, options.json)


async def _run(options: argparse.Namespace) -> list[Figure]:
    sets = [judged.cranfield(), *([judged.squad()] if options.squad else [])]
    model = embed.model_folder(config.load())
    if model is None:
        raise NotRun("there is no model: run `ragline model fetch`")
    place = options.data or Path(tempfile.mkdtemp(prefix="ragline-bench-"))
    place.mkdir(parents=True, exist_ok=True)
    # As root the server runs as another user, who must be able to reach its data below.
    place.chmod(0o755)
    figures: list[Figure] = []
    try:
        async with open_app(Config(data_dir=place / "data", model_dir=model)) as app:
            for one in sets:
                figures += await _measured(app, one)
    finally:
        embedded.stop(place / "data")
        if options.data is None:
            shutil.rmtree(place)
    return figures


async def _measured(app: App, data: Judged) -> list[Figure]:
    name = data.name.lower()
    report = await ingest_texts(app, data.texts, name)
    if report.rejections:
        raise AssertionError(f"ingest rejected {report.rejections[0]}")
    model = (await app.collection(name)).space
    print(
        f"{data.name}: {len(data.texts):,} documents, {len(data.questions):,} questions, "
        f"{model.model_id if model else 'no model'}"
    )
    figures: list[Figure] = []
    for method in METHODS:
        ndcg, first = [], []
        for number, question in enumerate(data.questions):
            found = await search_collections(app, query(question, name, k=CHUNKS, method=method))
            sources = [hit.source for hit in found.hits]
            ndcg.append(data.ndcg(number, sources))
            first.append(data.is_first(number, sources))
        at_least = AT_LEAST if method == "hybrid" and name == "cranfield" else None
        figures.append(_figure(f"nDCG@10, {SAID[method]}", ndcg, at_least))
        figures.append(_figure(f"first hit is relevant, {SAID[method]}", first, None))
    return measure.said(figures)


def _figure(what: str, values: list[float], at_least: float | None) -> Figure:
    mean, low, high = measure.mean_of(values, seed=1)
    return Figure(what=what, value=mean, low=low, high=high, n=len(values), at_least=at_least)


if __name__ == "__main__":
    sys.exit(main())
