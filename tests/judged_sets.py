"""Sets of questions with known answers, for tests and benchmarks: what is measured on them is known.

They lie beside the project and are no part of it. Where one is absent, `NotThere` says which.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ragline.core.cases import NOT_RELEVANT, Case, Dataset, Relevant
from ragline.rag.ingest import Text

DATA = Path(__file__).parents[2] / "shared/data"
RAGCHECKER = DATA / "ragchecker"


class NotThere(Exception):
    """A set is not on this machine."""


@dataclass(frozen=True, slots=True, kw_only=True)
class JudgedSet:
    """A dataset, and the texts that its relevant documents name by their sources."""

    dataset: Dataset
    texts: tuple[Text, ...]


def cranfield(*, is_graded: bool = False) -> JudgedSet:
    """Return Cranfield: 1,398 abstracts that are not empty, 225 questions.

    Codes 1 to 4 are relevant, all alike, or graded: 1 is the best and becomes grade 4. The judgements
    count the questions by their place in the file, not by the numbers in it.
    """
    documents, queries, judged = (
        file(DATA / "cranfield" / name).read_text()
        for name in ("cran.all.1400", "cran.qry", "cranqrel")
    )
    codes: dict[str, list[tuple[str, int]]] = {}
    for line in judged.splitlines():
        place, document, code = line.split()
        codes.setdefault(place, []).append((document, int(code)))
    titles = dict(_records(documents, "T"))
    texts = tuple(
        Text(source=number, title=_one_line(titles[number]), text=text)
        for number, text in _records(documents, "W")
        if text.strip()
    )
    cases = tuple(
        Case(
            id=str(place),
            question=_one_line(text),
            relevant=tuple(
                Relevant(document=document, grade=5 - code if is_graded else 1)
                for document, code in codes[str(place)]
                if 1 <= code <= 4
            ),
            extra=_not_relevant([one for one in codes[str(place)] if not 1 <= one[1] <= 4]),
        )
        for place, (_, text) in enumerate(_records(queries, "W"), start=1)
    )
    dataset = Dataset(name="cranfield", cases=cases, format="trec")
    return JudgedSet(dataset=dataset, texts=texts)


def squad() -> JudgedSet:
    """Return half of SQuAD 2's dev set: 646 paragraphs, 6,078 questions, 3,168 of them unanswerable.

    The paragraph of an answerable question is its relevant document, its article a tag.
    """
    content = file(DATA / "squad_v2_dev_half/dev-v2.0-half.json").read_text()
    texts, cases = [], []
    for article in json.loads(content)["data"]:
        title = article["title"].replace("_", " ")
        for place, paragraph in enumerate(article["paragraphs"]):
            source = f"{article['title']}-{place}"
            texts.append(Text(source=source, title=title, text=paragraph["context"]))
            cases += [_of_squad(entry, source, title) for entry in paragraph["qas"]]
    dataset = Dataset(name="squad", cases=tuple(cases), format="squad")
    return JudgedSet(dataset=dataset, texts=tuple(texts))


def file(path: Path) -> Path:
    """Return the path of a file that is there; NotThere names it where it is not."""
    if not path.is_file():
        raise NotThere(f"there is no {path.parent.name}/{path.name}")
    return path


def _of_squad(entry: dict[str, Any], source: str, title: str) -> Case:
    golds = list(dict.fromkeys(answer["text"] for answer in entry["answers"]))
    if entry["is_impossible"]:
        golds = []
    return Case(
        id=entry["id"],
        question=entry["question"],
        answer=golds[0] if golds else None,
        answers=tuple(golds[1:]),
        relevant=(Relevant(document=source),) if golds else (),
        is_answerable=bool(golds),
        tags=(title,),
    )


def _not_relevant(judged: list[tuple[str, int]]) -> dict[str, Any]:
    below = [{"document": document, "grade": code} for document, code in judged]
    return {NOT_RELEVANT: below} if below else {}


def _records(text: str, field: str) -> Iterator[tuple[str, str]]:
    """Yield the number and one field of each record of a file in SMART's format."""
    for record in re.split(r"^\.I\s+", text, flags=re.MULTILINE)[1:]:
        number, _, rest = record.partition("\n")
        parts = re.split(r"^\.([A-Z])[ \t]*\n", rest, flags=re.MULTILINE)
        fields = dict(zip(parts[1::2], parts[2::2], strict=True))
        yield number.strip(), fields.get(field, "")


def _one_line(text: str) -> str:
    return " ".join(text.split())
