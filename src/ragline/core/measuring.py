"""What one case of an evaluation measures, from what was found and what was said. No averages."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from typing import Literal, NamedTuple

from ragline.core import claims, overlap, ranking, reading
from ragline.core.cases import Case
from ragline.core.claims import ClaimLabels
from ragline.core.plaintext import MARK
from ragline.core.results import Answer, Hit

Way = Literal["source", "name", "stem", "row"]
"""How a dataset names documents: as the collection does, by the last part of that, by that without its
suffix, or by the id of a row of a file, `184` for `corpus.jsonl#184`. Where no file of rows is known by
its suffix, that is what stands behind the last "#"."""
WAYS: tuple[Way, ...] = ("source", "name", "stem", "row")
_EPSILON = 1e-6
# An id may have a "#" itself. db/sql/relevance.sql has the same.
_ROW = re.compile(r"\.(?:jsonl|ndjson|csv|tsv|mbox)#(.*)", re.IGNORECASE | re.ASCII | re.DOTALL)


class Found(NamedTuple):
    """A chunk that was found: its collection, its number, its document's source, its text and score."""

    collection: str
    chunk_id: int
    source: str
    body: str
    score: float


def chunks(hits: Iterable[Hit]) -> list[Found]:
    """Return what is measured of a search's hits."""
    return [Found(h.collection, h.chunk_id, h.source, h.body, h.score) for h in hits]


def named(source: str, way: Way) -> str:
    """Return what a dataset calls a document of the collection.

    >>> named("docs/guide.md", "name"), named("docs/guide.md", "stem")
    ('guide.md', 'guide')
    """
    if way == "source":
        return source
    if way == "row":
        row = _ROW.search(source)
        return row[1] if row else source.rsplit("#", 1)[-1]
    name = source.rsplit("/", 1)[-1]
    stem, dot, _ = name.rpartition(".")
    return stem if way == "stem" and dot and stem else name


def way_of(wanted: Iterable[str], present: Mapping[Way, set[str]]) -> Way:
    """Return the way by which most of the documents are there; of equal ones, the strictest."""
    names = set(wanted)
    return max(WAYS, key=lambda way: (len(names & present.get(way, set())), -WAYS.index(way)))


def grades(case: Case) -> dict[str, int]:
    """Return the grade of each relevant item: a document, or a passage of one."""
    found: dict[str, int] = {}
    for place, relevant in enumerate(case.relevant):
        item = _item(place, relevant.document, relevant.passage)
        found[item] = max(relevant.grade, found.get(item, relevant.grade))
    return found


def ranked(case: Case, found: Iterable[Found], way: Way) -> list[str]:
    """Return the items in the order in which their best chunks stand, each once.

    Where passages are relevant, a chunk stands for those whose words it holds, each with a place of
    its own, and for itself where it holds none. Otherwise a chunk stands for its document.
    """
    passages: dict[str, list[tuple[str, str]]] = {}
    for place, relevant in enumerate(case.relevant):
        if relevant.passage is not None:
            item = _item(place, relevant.document, relevant.passage)
            passages.setdefault(relevant.document, []).append((item, plain(relevant.passage)))
    whole = {r.document for r in case.relevant if r.passage is None}
    items: dict[str, None] = {}
    for chunk in found:
        document = named(chunk.source, way)
        held: list[str] = []
        if wanted := passages.get(document):
            body = plain(chunk.body)
            held = [item for item, passage in wanted if passage in body]
        if not passages or document in whole:
            held.append(document)
        items.update(dict.fromkeys(held or [f"{chunk.collection}\0{chunk.chunk_id}"]))
    return list(items)


def retrieval(case: Case, found: Sequence[Found], k: int, way: Way) -> dict[str, float]:
    """Return the metrics of a search, under `core.ranking`'s names; none without relevant items."""
    return ranking.retrieval(k, ranked(case, found, way), grades(case)) if case.relevant else {}


@cache
def retrieval_names(k: int) -> tuple[str, ...]:
    """Return the names of these metrics."""
    return tuple(ranking.retrieval(k, ["a"], {"a": 1}))


def ann_recall(k: int, found: Sequence[Found], exact: Sequence[Found]) -> float | None:
    """Return the share of the exact search's best `k` that were found; None where there are none.

    Of chunks that score alike, any will do: one that was found counts when it scores just what the
    last of the exact ones does.
    """
    best = exact[:k]
    if not best:
        return None
    ids = {(hit.collection, hit.chunk_id) for hit in best}
    last = best[-1].score
    close = _EPSILON * max(1.0, abs(last))
    right = sum(
        (hit.collection, hit.chunk_id) in ids or abs(hit.score - last) <= close for hit in found[:k]
    )
    return min(right, len(best)) / len(best)


def answering(case: Case, answer: Answer, way: Way | None) -> dict[str, float]:
    """Return what an answer is worth by the words of its gold ones, and whether it was right to be.

    SQuAD's measures take the first citation of an extractive answer, and a generated one without its
    marks; of a declined one, nothing. `cited` says whether a citation of a relevant document holds a
    gold answer, for cases that name the passage too: there gold answers are words of the documents.
    """
    if not case.is_answerable:
        return {"declined": float(not answer.found)}
    measured = {"answered": float(answer.found)}
    golds = gold_answers(case)
    if not golds:
        return measured
    # A gold answer of articles and punctuation alone, such as "A", is empty to SQuAD: declining it is
    # not right all the same.
    said = _said(answer) if answer.found else None
    measured["exact_match"] = 0.0 if said is None else reading.exact_match(said, golds)
    measured["token_f1"] = 0.0 if said is None else reading.f1(said, golds)
    if any(relevant.passage for relevant in case.relevant):
        measured["cited"] = float(_is_cited(case, answer, golds, way or "source"))
    return measured


def answering_names(case: Case) -> tuple[str, ...]:
    """Return the names of the metrics that an answer to this case would have."""
    if not case.is_answerable:
        return ("declined",)
    golds = ("exact_match", "token_f1") if gold_answers(case) else ()
    cited = ("cited",) if golds and any(r.passage for r in case.relevant) else ()
    return ("answered", *golds, *cited)


def gold_answers(case: Case) -> tuple[str, ...]:
    """Return the gold answer and those that are as good."""
    return (*((case.answer,) if case.answer else ()), *case.answers)


def judged(
    labels: ClaimLabels, prefix: str, answer: str, gold: str, contexts: Sequence[str], language: str
) -> dict[str, float]:
    """Return the metrics of an answer's claims; those of a judge that compares words are `lex_…`.

    Its precision, recall and F1 are of the words themselves, and `lex_containment` is the share of
    the answer's words that stand in the contexts.
    """
    measured = {f"{prefix}{name}": value for name, value in claims.metrics(labels).items()}
    if not prefix:
        return measured
    measured |= overlap.scores(answer, gold, language)
    measured["lex_containment"] = overlap.containment(answer, "\n".join(contexts), language)
    return measured


def judged_names(prefix: str) -> tuple[str, ...]:
    """Return the names of these metrics."""
    return (*(f"{prefix}{name}" for name in claims.METRICS), *(("lex_containment",) * bool(prefix)))


def plain(text: str) -> str:
    """Return a text as passages are compared: whatever its white space, case, and way to write é."""
    return " ".join(unicodedata.normalize("NFC", text).split()).casefold()


def _item(place: int, document: str, passage: str | None) -> str:
    # No document's name has a NUL, so no item is taken for one.
    return document if passage is None else f"{document}\0{place}"


def _said(answer: Answer) -> str:
    if answer.method == "extractive" and answer.citations:
        return answer.citations[0].text
    return MARK.sub(" ", answer.text)


def _is_cited(case: Case, answer: Answer, golds: Iterable[str], way: Way) -> bool:
    relevant = {one.document for one in case.relevant}
    held = [plain(c.text) for c in answer.citations if named(c.source, way) in relevant]
    wanted = [words for gold in golds if (words := plain(gold))]
    return answer.found and any(words in text for words in wanted for text in held)
