"""The default model in 8 bits beside the whole one: how much faster, and what it loses.

Both compute the same texts with the same threads, in turns. The loss is measured on judged questions
with exact search over chunks cut as an ingest cuts them, by the difference for each question.
"""

from __future__ import annotations

import argparse
import asyncio
import shutil
import sys
import tempfile
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

import judged
import measure
from corpus import NotRun, not_run
from judged import Judged
from measure import Figure
from ragline import config
from ragline.core.chunking import ChunkPolicy, chunk
from ragline.models import embed, minilm
from ragline.models.embed_local import Encoder
from ragline.rag.compose import passage
from ragline.rag.formats import text as plain_text

PASSAGES = 16
CHUNKS = 50

Vectors = npt.NDArray[np.float32]


def main() -> int:
    """Print the figures; exit 3 when data or model are not there."""
    parser = measure.options(__doc__)
    parser.add_argument("--blocks", type=int, default=15)
    options = parser.parse_args()
    settings = config.load()
    config.pin_threads(settings.threads)
    folder = Path(tempfile.mkdtemp(prefix="ragline-bench-"))
    try:
        figures = _run(folder, settings, options)
    except NotRun as error:
        return not_run(error)
    finally:
        shutil.rmtree(folder)
    return measure.verdict(figures, options.json)


def _run(folder: Path, settings: config.Config, options: argparse.Namespace) -> list[Figure]:
    sets = [judged.cranfield(), judged.squad()]
    whole_folder = settings.data_dir / "models" / embed.DEFAULT_MODEL
    if not minilm.is_complete(whole_folder):
        raise NotRun("the default model is not there: run `ragline model fetch`")
    minilm.build_int8(whole_folder, folder / "int8")
    whole = Encoder.open(whole_folder, threads=settings.threads)
    small = Encoder.open(folder / "int8", threads=settings.threads)
    passages = {one.name: _passages(one) for one in sets}
    print(f"{whole.facts.model_id} in 8 bits beside the whole one, {settings.threads} threads")
    figures = measure.said(
        _speed(whole, small, passages["SQuAD"][1], sets[1].questions, options.blocks)
    )
    for one in sets:
        figures += measure.said(_loss(whole, small, one, *passages[one.name]))
    return figures


def _passages(data: Judged) -> tuple[list[str], list[str]]:
    """Return the source of each chunk, and what is embedded of it."""
    sources, texts = [], []
    for one in data.texts:
        parsed = plain_text.parse(one.text.encode())
        for piece in chunk(parsed.text, parsed.blocks, ChunkPolicy()):
            sources.append(one.source)
            texts.append(passage(one.title, piece.headings, piece.body))
    return sources, texts


def _speed(
    whole: Encoder, small: Encoder, texts: Sequence[str], questions: Sequence[str], blocks: int
) -> list[Figure]:
    figures = []
    for what, count, embed_all in (
        ("passages", PASSAGES, _documents(texts)),
        ("questions", 100, _queries(questions)),
    ):
        ratio = asyncio.run(
            measure.interleaved(
                embed_all(small), embed_all(whole),
                queries=len(texts) if what == "passages" else len(questions),
                block=count, blocks=blocks, seed=8,
            )
        )  # fmt: skip
        note = f"{ratio.ours_ms:.2f} against {ratio.theirs_ms:.2f} ms each"
        figures.append(
            Figure(
                what=f"time for {what}, 8 bits / whole", unit="x", value=ratio.median,
                low=ratio.low, high=ratio.high, n=ratio.queries, note=note,
            )
        )  # fmt: skip
    return figures


def _documents(texts: Sequence[str]) -> Callable[[Encoder], measure.Block]:
    def of(encoder: Encoder) -> measure.Block:
        async def block(numbers: Sequence[int]) -> None:
            encoder.documents([texts[number] for number in numbers])

        return block

    return of


def _queries(questions: Sequence[str]) -> Callable[[Encoder], measure.Block]:
    def of(encoder: Encoder) -> Callable[[Sequence[int]], Awaitable[None]]:
        async def block(numbers: Sequence[int]) -> None:
            for number in numbers:
                encoder.query(questions[number])

        return block

    return of


def _loss(
    whole: Encoder, small: Encoder, data: Judged, sources: Sequence[str], texts: Sequence[str]
) -> list[Figure]:
    stored = [encoder.documents(texts).vectors for encoder in (whole, small)]
    asked = [
        np.stack([encoder.query(question) for question in data.questions])
        for encoder in (whole, small)
    ]
    apart = 1 - (stored[0] * stored[1]).sum(axis=1)
    ndcg, first = (
        [_scores(score, asked[n], stored[n], sources) for n in (0, 1)]
        for score in (data.ndcg, data.is_first)
    )
    return [
        _figure(f"{data.name}: 1 - cosine to the whole model's vectors", apart.tolist()),
        _figure(f"{data.name}: nDCG@10 of vectors alone, whole", ndcg[0]),
        _figure(f"{data.name}: nDCG@10, 8 bits less whole", np.subtract(ndcg[1], ndcg[0]).tolist()),
        _figure(
            f"{data.name}: first hit relevant, 8 bits less whole",
            np.subtract(first[1], first[0]).tolist(),
        ),
    ]


def _scores(
    score: Callable[[int, Sequence[str]], float],
    asked: Vectors,
    stored: Vectors,
    sources: Sequence[str],
) -> list[float]:
    best = np.argsort(-(asked @ stored.T), axis=1, kind="stable")[:, :CHUNKS]
    return [score(number, [sources[at] for at in row]) for number, row in enumerate(best)]


def _figure(what: str, values: list[float]) -> Figure:
    mean, low, high = measure.mean_of(values, seed=8)
    return Figure(what=what, value=mean, low=low, high=high, n=len(values))


if __name__ == "__main__":
    sys.exit(main())
