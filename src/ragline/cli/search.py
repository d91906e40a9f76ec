"""`ragline search` and `ragline ask`."""

from __future__ import annotations

import textwrap
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated

import typer

from ragline.cli import output, runtime
from ragline.cli.options import AsJson, DataDir

if TYPE_CHECKING:
    from ragline.core.results import Answer, Hit, SearchResult, Used

Question = Annotated[str, typer.Argument(help="What to look for.")]
Collections = Annotated[
    list[str],
    typer.Option("--collection", "-c", help="Collection to search; may be given several times."),
]


class Method(StrEnum):
    hybrid = "hybrid"
    vector = "vector"
    lexical = "lexical"


def search(
    question: Question,
    collection: Collections,
    k: Annotated[int, typer.Option("-k", help="How many hits.")] = 10,
    method: Annotated[Method, typer.Option(help="Vectors and BM25 together, or one alone.")] = (
        Method.hybrid
    ),
    ef_search: Annotated[
        int | None,
        typer.Option(help="Breadth of the vector index scan.", show_default="max(100, 2k)"),
    ] = None,
    explain: Annotated[
        bool, typer.Option("--explain", help="Show ranks, scores, plan and time of each stage.")
    ] = False,
    data_dir: DataDir = None,
    as_json: AsJson = False,
) -> None:
    """Find the chunks that fit a question best."""
    from ragline.rag import search as rag

    query = rag.query(
        question, collection, k=k, method=method.value, ef_search=ef_search, explain=explain
    )
    result = runtime.with_app(data_dir, lambda app: rag.search_collections(app, query))
    _warn(result.warnings, as_json=as_json)
    output.emit(result, as_json=as_json, text=_shown(result, explain=explain))


def ask(
    question: Question,
    collection: Collections,
    k: Annotated[int, typer.Option("-k", help="How many chunks to search.")] = 10,
    data_dir: DataDir = None,
    as_json: AsJson = False,
) -> None:
    """Answer a question with sentences of the documents, each with its citation."""
    from ragline.rag import answer as rag
    from ragline.rag.search import query

    asked = query(question, collection, k=k)
    result = runtime.with_app(data_dir, lambda app: rag.answer_question(app, asked))
    _warn(result.warnings, as_json=as_json)
    output.emit(result, as_json=as_json, text=answer_text(result))


def answer_text(answer: Answer) -> str:
    """Return an answer with its numbered citations for people."""
    lines = [textwrap.fill(answer.text, 100)]
    lines += [
        f"  [{c.number}] {output.on_one_line(c.title or c.source)}, characters {c.start}-{c.end} "
        f"({output.on_one_line(c.source)})"
        for c in answer.citations
    ]
    return "\n".join(lines)


def _warn(warnings: tuple[str, ...], *, as_json: bool) -> None:
    if not as_json:
        for warning in warnings:
            output.note(f"warning: {warning}")


def _shown(result: SearchResult, *, explain: bool) -> str:
    if not result.hits:
        return "nothing found"
    lines = []
    for place, hit in enumerate(result.hits, start=1):
        lines.append(
            f"{place:>3}. {output.on_one_line(hit.title or hit.source)}  {hit.start}-{hit.end}"
        )
        if explain:
            lines.append(f"     {_ranks(hit)}")
        lines.append(textwrap.indent(textwrap.shorten(hit.body, 240, placeholder=" …"), "     "))
    if explain:
        lines += _how(result)
    return "\n".join(lines)


def _ranks(hit: Hit) -> str:
    vector = "-" if hit.vector_rank is None else f"{hit.vector_rank} ({hit.vector_distance:.4f})"
    words = "-" if hit.lexical_rank is None else f"{hit.lexical_rank} ({hit.lexical_score:.3f})"
    return f"score {hit.score:.5f}   vector rank {vector}   BM25 rank {words}"


def _how(result: SearchResult) -> list[str]:
    lines = ["", *(_used_line(used) for used in result.used)]
    lines += [f"{name:>24}  {ms:9.3f} ms" for name, ms in result.timings_ms.items()]
    return lines


def _used_line(used: Used) -> str:
    scan = ", iterative" if used.is_iterative else ""
    return (
        f"{used.collection}: {used.method}, model {used.model_id or '-'}, "
        f"ef_search {used.ef_search or '-'}{scan}, {used.candidates} candidates a half, "
        f"{used.vector_plan or 'no vectors read'}, terms {' '.join(used.terms) or '-'}"
    )
