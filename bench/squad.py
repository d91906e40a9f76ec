"""Extractive answers and abstention on SQuAD 2, whose questions are half unanswerable on purpose.

The threshold below which a question counts as not answered is calibrated on one half of the articles
and reported on the other. Halves are of articles, not of questions: the questions of a paragraph, and
an unanswerable question with the answerable one that it was made from, stay on the same side. Every
question is asked through the library, of all 646 paragraphs at once.

Exact match and F1 are SQuAD's own: lower case, without punctuation and articles, the best of the gold
answers; an unanswerable question scores 1 when it is declined and 0 when not. Our answers are
sentences and the gold answers are phrases, so exact match is all but nothing by construction, and F1
is low; whether a citation holds the answer is what a reader notices.

Intervals are 95 %, by bootstrap over paragraphs, whose questions are not independent.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

import measure
from corpus import SQUAD, NotRun, not_run
from measure import Figure
from ragline import config
from ragline.config import Config
from ragline.core.extraction import COVERAGE_THRESHOLD, SIMILARITY_THRESHOLD
from ragline.core.reading import exact_match, f1
from ragline.core.results import Answer, Method
from ragline.models import embed
from ragline.models.embed import Embedded, Embedder, Vector
from ragline.ops import embedded
from ragline.rag.answer import answer_question
from ragline.rag.app import App
from ragline.rag.ingest import Text, ingest_texts
from ragline.rag.search import query
from ragline.wiring import open_app

COLLECTION = "squad"
KEPT_ANSWERED = 0.92
# How far the calibrated threshold may lie from the one in the code before somebody should look.
TOLERANCE = 0.02
RESAMPLES = 1000
Array = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """A question, the paragraph that it was written for, and its gold answers; none: unanswerable."""

    question: str
    paragraph: str
    article: str
    golds: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Scored:
    """A case with what was answered. `exact`, `f1` and `is_held` are of the first citation."""

    case: Case
    confidence: float
    is_answered: bool
    exact: float
    f1: float
    is_held: bool
    """Some citation holds a gold answer."""


class Remembering:
    """The model, which reads each passage once: many questions look at the same sentences."""

    def __init__(self, model: Embedder) -> None:
        self.facts = model.facts
        self._model = model
        self._known: dict[str, Vector] = {}

    async def embed_query(self, text: str) -> Vector:
        return await self._model.embed_query(text)

    async def embed_documents(self, texts: Sequence[str]) -> Embedded:
        new = [text for text in dict.fromkeys(texts) if text not in self._known]
        if new:
            made = await self._model.embed_documents(new)
            self._known |= dict(zip(new, made.vectors, strict=True))
        vectors = np.array([self._known[text] for text in texts])
        return Embedded(vectors=vectors, truncated=0, tokens=0)

    async def close(self) -> None:
        await self._model.close()


def main() -> int:
    """Print the figures; exit 1 when a limit is broken, 3 when data or model are not there."""
    options = measure.options(__doc__).parse_args()
    try:
        figures = asyncio.run(_run(options))
    except NotRun as error:
        return not_run(error)
    return measure.verdict(figures, options.json)


async def _run(options: argparse.Namespace) -> list[Figure]:
    texts, cases = _data()
    folder = embed.model_folder(config.load())
    if folder is None:
        raise NotRun("there is no model: run `ragline model fetch`")
    place = options.data or Path(tempfile.mkdtemp(prefix="ragline-bench-"))
    place.mkdir(parents=True, exist_ok=True)
    # As root the server runs as another user, who must be able to reach its data below.
    place.chmod(0o755)
    try:
        async with open_app(Config(data_dir=place / "data", model_dir=folder)) as app:
            as_configured = app.open_embedder

            async def open_embedder() -> Embedder | None:
                model = await as_configured()
                return Remembering(model) if model else None

            app.open_embedder = open_embedder
            report = await ingest_texts(app, texts, COLLECTION)
            if report.rejections:
                raise AssertionError(f"ingest rejected {report.rejections[0]}")
            return await _measured(app, cases)
    finally:
        embedded.stop(place / "data")
        if options.data is None:
            shutil.rmtree(place)


async def _measured(app: App, cases: Sequence[Case]) -> list[Figure]:
    halves = _halves(cases)
    print(
        f"{len(cases):,} questions about {len({c.paragraph for c in cases})} paragraphs of "
        f"{len({c.article for c in cases})} articles; calibrated on {len(halves[0]):,}, "
        f"reported on {len(halves[1]):,}, of which "
        f"{sum(not case.golds for case in halves[1]):,} are unanswerable"
    )
    figures: list[Figure] = []
    ways: tuple[tuple[Method, float, str], ...] = (
        ("hybrid", SIMILARITY_THRESHOLD, "hybrid, confidence is the cosine"),
        ("lexical", COVERAGE_THRESHOLD, "by words alone, confidence is the share of covered words"),
    )
    for method, threshold, what in ways:
        started = time.perf_counter()
        calibration, test = [await _scored(app, half, method) for half in halves]
        print(f"\n{what} ({time.perf_counter() - started:.0f} s)")
        calibrated = _calibrated(calibration)
        if method == "hybrid":
            figures += measure.said([_of_threshold(calibrated, threshold, len(calibration))])
        else:
            print(
                f"  threshold {threshold:g}, chosen on the demo; here it would be {calibrated:.2f}"
            )
        figures += measure.said(_abstention(test))
        if method == "hybrid":
            figures += measure.said(_answers(test))
        _operating_points(calibration, test)
    return figures


async def _scored(app: App, cases: Iterable[Case], method: Method) -> list[Scored]:
    found = []
    for case in cases:
        asked = query(case.question, COLLECTION, method=method)
        found.append(_score(case, await answer_question(app, asked)))
    return found


def _score(case: Case, answer: Answer) -> Scored:
    said = answer.citations[0].text if answer.found else ""
    return Scored(
        case=case,
        confidence=answer.confidence,
        is_answered=answer.found,
        exact=exact_match(said, case.golds),
        f1=f1(said, case.golds),
        is_held=any(gold in citation.text for gold in case.golds for citation in answer.citations),
    )


# -- figures ---------------------------------------------------------------------------------------


def _calibrated(cases: Sequence[Scored]) -> float:
    """Return the threshold that leaves so many of the answerable questions answered."""
    answerable = [one.confidence for one in cases if one.case.golds]
    return float(np.quantile(answerable, 1 - KEPT_ANSWERED))


def _of_threshold(calibrated: float, used: float, n: int) -> Figure:
    return Figure(
        what="threshold: calibrated and used lie apart by",
        value=abs(calibrated - used),
        n=n,
        at_most=TOLERANCE,
        note=f"{calibrated:.3f} leaves {KEPT_ANSWERED:.0%} answered; the code has {used:g}",
    )


def _abstention(cases: Sequence[Scored]) -> list[Figure]:
    declined = np.array([not one.is_answered for one in cases], dtype=np.float64)
    nothing = np.array([not one.case.golds for one in cases], dtype=np.float64)
    confidence = np.array([one.confidence for one in cases])

    def precision(weights: Array) -> float:
        return _share(declined * nothing * weights, declined * weights)

    def recall(weights: Array) -> float:
        return _share(declined * nothing * weights, nothing * weights)

    def both(weights: Array) -> float:
        right = 2 * float((declined * nothing * weights).sum())
        return right / float((declined * weights).sum() + (nothing * weights).sum())

    def answered(weights: Array) -> float:
        return _share((1 - declined) * (1 - nothing) * weights, (1 - nothing) * weights)

    def area(weights: Array) -> float:
        return auc(confidence, 1 - nothing, weights)

    ways: list[tuple[str, Callable[[Array], float]]] = [
        ("abstention: precision", precision),
        ("abstention: recall", recall),
        ("abstention: F1", both),
        ("answerable questions answered", answered),
        ("area under the curve of the confidence", area),
    ]
    base = nothing.mean()
    print(
        f"  (declining everything: precision {base:.2f}, recall 1, F1 {2 * base / (1 + base):.2f})"
    )
    return [_figure(what, one, cases) for what, one in ways]


def _answers(cases: Sequence[Scored]) -> list[Figure]:
    some = [one for one in cases if one.case.golds]
    answered = [one for one in some if one.is_answered]
    rows: list[tuple[str, Sequence[Scored], Callable[[Scored], float]]] = [
        ("exact match, all questions", cases, lambda one: one.exact),
        ("F1, all questions", cases, lambda one: one.f1),
        ("exact match, answerable ones", some, lambda one: one.exact),
        ("F1, answerable ones", some, lambda one: one.f1),
        ("a citation holds the answer, answerable ones", some, lambda one: one.is_held),
        ("a citation holds the answer, of those answered", answered, lambda one: one.is_held),
    ]
    return [_mean(what, among, value) for what, among, value in rows]


def _mean(what: str, cases: Sequence[Scored], value: Callable[[Scored], float]) -> Figure:
    values = np.array([value(one) for one in cases], dtype=np.float64)
    return _figure(what, lambda weights: _share(values * weights, weights), cases)


def _figure(what: str, one: Callable[[Array], float], cases: Sequence[Scored]) -> Figure:
    places = {name: at for at, name in enumerate(sorted({c.case.paragraph for c in cases}))}
    paragraph = np.array([places[c.case.paragraph] for c in cases])
    generator = np.random.default_rng(1)
    resampled = []
    for _ in range(RESAMPLES):
        drawn = generator.integers(len(places), size=len(places))
        times = np.bincount(drawn, minlength=len(places)).astype(np.float64)
        resampled.append(one(times[paragraph]))
    low, high = np.quantile(resampled, [0.025, 0.975])
    return Figure(
        what=what, value=one(np.ones(len(cases))), low=float(low), high=float(high), n=len(cases)
    )


def _share(part: Array, whole: Array) -> float:
    return float(part.sum() / whole.sum()) if whole.sum() else float("nan")


def auc(scores: Array, is_positive: Array, weights: Array) -> float:
    """Return how often a positive case scores above a negative one; ties count half."""
    _, place = np.unique(scores, return_inverse=True)
    up = np.bincount(place, weights=weights * is_positive)
    down = np.bincount(place, weights=weights * (1 - is_positive))
    below = np.cumsum(down) - down
    return float((up * (below + down / 2)).sum() / (up.sum() * down.sum()))


def _operating_points(calibration: Sequence[Scored], test: Sequence[Scored]) -> None:
    print(
        "  other thresholds: calibrated to answer / threshold / on the other half answered, declined"
    )
    known = [one.confidence for one in calibration if one.case.golds]
    for kept in (0.95, 0.92, 0.9, 0.8, 0.7, 0.6):
        threshold = float(np.quantile(known, 1 - kept))
        answered = [one.confidence >= threshold for one in test if one.case.golds]
        declined = [one.confidence < threshold for one in test if not one.case.golds]
        print(
            f"    {kept:.2f} / {threshold:.2f} / {np.mean(answered):.2f}, {np.mean(declined):.2f}"
        )


# -- data ------------------------------------------------------------------------------------------


def _data() -> tuple[list[Text], list[Case]]:
    if not SQUAD.is_file():
        raise NotRun(f"there is no {SQUAD.parent.name}/{SQUAD.name}")
    articles = json.loads(SQUAD.read_text(encoding="utf-8"))["data"]
    texts, cases = [], []
    for title, source, paragraph in _paragraphs(articles):
        texts.append(Text(source=source, text=paragraph["context"], title=title.replace("_", " ")))
        cases += [
            Case(
                question=item["question"].strip(),
                paragraph=source,
                article=title,
                golds=tuple(answer["text"] for answer in item["answers"]),
            )
            for item in paragraph["qas"]
        ]
    return texts, cases


def _paragraphs(articles: Sequence[Any]) -> Iterator[tuple[str, str, Any]]:
    for article in articles:
        for number, paragraph in enumerate(article["paragraphs"]):
            yield article["title"], f"{article['title']}/{number}", paragraph


def _halves(cases: Sequence[Case]) -> tuple[list[Case], list[Case]]:
    """Return the cases of every other article, in the order of the hashes of their titles."""
    titles = sorted(
        {c.article for c in cases}, key=lambda title: sha256(title.encode()).hexdigest()
    )
    first = set(titles[::2])
    return [c for c in cases if c.article in first], [c for c in cases if c.article not in first]


if __name__ == "__main__":
    sys.exit(main())
