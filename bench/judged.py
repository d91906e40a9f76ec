"""Questions with known relevant documents: the Cranfield collection and the paragraphs of SQuAD."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from corpus import SQUAD, NotRun
from ragline.core.ranking import ndcg_at
from ragline.rag.ingest import Text

CRANFIELD = SQUAD.parents[1] / "cranfield"
K = 10


@dataclass(frozen=True, slots=True, kw_only=True)
class Judged:
    """Texts by their source, and questions with the sources that are relevant to each."""

    name: str
    texts: Sequence[Text]
    questions: Sequence[str]
    relevant: Sequence[frozenset[str]]

    def ndcg(self, number: int, sources: Sequence[str]) -> float:
        """Return nDCG@10 of the documents, each where its best chunk stands; binary relevance."""
        return ndcg_at(K, list(dict.fromkeys(sources)), self.relevant[number])

    def is_first(self, number: int, sources: Sequence[str]) -> float:
        """Return 1.0 when the first hit is of a relevant document."""
        return float(bool(sources) and sources[0] in self.relevant[number])


def cranfield() -> Judged:
    """Return Cranfield: 1,400 abstracts, 225 questions, codes 1 to 4 relevant.

    The judgements count the questions by their place in the file, not by the numbers in it.
    """
    files = {name: CRANFIELD / name for name in ("cran.all.1400", "cran.qry", "cranqrel")}
    if missing := [name for name, path in files.items() if not path.is_file()]:
        raise NotRun(f"there is no {CRANFIELD.name}/{missing[0]}")
    questions = [_one_line(text) for _, text in _records(files["cran.qry"].read_text(), "W")]
    relevant: list[set[str]] = [set() for _ in questions]
    for line in files["cranqrel"].read_text().splitlines():
        place, document, code = line.split()
        if 1 <= int(code) <= 4:
            relevant[int(place) - 1].add(document)
    documents = files["cran.all.1400"].read_text()
    titles = dict(_records(documents, "T"))
    texts = [
        Text(source=number, title=_one_line(titles[number]), text=text)
        for number, text in _records(documents, "W")
        if text.strip()  # two of the abstracts are empty
    ]
    return Judged(
        name="Cranfield",
        texts=texts,
        questions=questions,
        relevant=[frozenset(some) for some in relevant],
    )


def squad() -> Judged:
    """Return the paragraphs of SQuAD 2, and the questions that one of them answers."""
    if not SQUAD.is_file():
        raise NotRun(f"there is no {SQUAD.parent.name}/{SQUAD.name}")
    texts, questions, relevant = [], [], []
    for article in json.loads(SQUAD.read_text())["data"]:
        for place, paragraph in enumerate(article["paragraphs"]):
            source = f"{article['title']}-{place}"
            title = article["title"].replace("_", " ")
            texts.append(Text(source=source, title=title, text=paragraph["context"]))
            for entry in paragraph["qas"]:
                if not entry["is_impossible"]:
                    questions.append(entry["question"])
                    relevant.append(frozenset((source,)))
    return Judged(name="SQuAD", texts=texts, questions=questions, relevant=relevant)


def _records(text: str, field: str) -> Iterator[tuple[str, str]]:
    """Yield the number and one field of each record of a file in SMART's format."""
    for record in re.split(r"^\.I\s+", text, flags=re.MULTILINE)[1:]:
        number, _, rest = record.partition("\n")
        parts = re.split(r"^\.([A-Z])[ \t]*\n", rest, flags=re.MULTILINE)
        fields = dict(zip(parts[1::2], parts[2::2], strict=True))
        yield number.strip(), fields.get(field, "")


def _one_line(text: str) -> str:
    return " ".join(text.split())
