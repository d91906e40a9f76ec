"""`ragline search` and `ragline ask`."""

from __future__ import annotations

import sys
import textwrap
from contextlib import aclosing
from functools import partial
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from ragline.cli import output, runtime
from ragline.cli.options import AsJson, DataDir

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from ragline.core.results import Answer, Hit, SearchResult, Used
    from ragline.rag.app import App
    from ragline.rag.search import Query

Question = Annotated[str, typer.Argument(help="What to look for.")]
Collections = Annotated[
    list[str] | None,
    typer.Option(
        "--collection",
        "-c",
        help="Collection to search; may be given several times.",
        show_default="every collection",
    ),
]


Filter = Annotated[
    str | None,
    typer.Option(
        "--filter",
        "-f",
        help='Only documents whose metadata fits, such as: lang = "en" and year >= 2020',
    ),
]

Method = Literal["hybrid", "vector", "lexical"]
_BY_POLICY = "the collection's policy, else 10"
# To have a query checked before a database is opened for it.
_ANY = "any"


def search(
    question: Question,
    collection: Collections = None,
    k: Annotated[
        int | None,
        typer.Option("-k", help="How many hits.", show_default=_BY_POLICY),
    ] = None,
    method: Annotated[
        Method, typer.Option(help="Vectors and BM25 together, or one alone.")
    ] = "hybrid",
    ef_search: Annotated[
        int | None,
        typer.Option(
            help="Breadth of the vector index scan.",
            show_default="the collection's policy, else max(100, 2k)",
        ),
    ] = None,
    filter: Filter = None,  # noqa: A002 - what the option is called
    exact: Annotated[
        bool,
        typer.Option(
            "--exact", help="No shortcuts: compare every vector, weigh every chunk with a word."
        ),
    ] = False,
    explain: Annotated[
        bool, typer.Option("--explain", help="Show ranks, scores, plan and time of each stage.")
    ] = False,
    data_dir: DataDir = None,
    as_json: AsJson = False,
) -> None:
    """Find the chunks that fit a question best."""
    from ragline.rag import search as rag

    ask = partial(
        rag.query,
        question,
        k=k,
        method=method,
        ef_search=ef_search,
        explain=explain,
        filter=filter,
        exact=exact,
    )
    ask(collection or [_ANY])
    result = runtime.with_app(data_dir, lambda app: _searched(app, ask, collection))
    output.warn(result.warnings, as_json=as_json)
    output.emit(result, as_json=as_json, text=_shown(result, explain=explain))


def ask(
    question: Question,
    collection: Collections = None,
    k: Annotated[
        int | None,
        typer.Option("-k", help="How many chunks to search.", show_default=_BY_POLICY),
    ] = None,
    filter: Filter = None,  # noqa: A002 - what the option is called
    generate: Annotated[
        bool,
        typer.Option(
            "--generate",
            help="Have the configured chat model write the answer from the chunks found.",
        ),
    ] = False,
    data_dir: DataDir = None,
    as_json: AsJson = False,
) -> None:
    """Answer a question with sentences of the documents, each with its citation.

    With `--generate` a model writes the answer; each of its sentences is checked against what it
    cites, and marked where the words of that do not support it.
    """
    from ragline.rag import answer as rag
    from ragline.rag.search import query

    asked = partial(query, question, k=k, filter=filter)
    asked(collection or [_ANY])
    is_watched = generate and not as_json and sys.stdout.isatty()

    async def answered(app: App) -> Answer:
        whole = await _named(app, asked, collection)
        if generate:
            return await _generated(app, whole, show=is_watched)
        return await rag.answer_question(app, whole)

    result = runtime.with_app(data_dir, answered)
    output.warn(result.warnings, as_json=as_json)
    is_shown = is_watched and result.found
    text = "\n".join(_references(result)) if is_shown else answer_text(result)
    output.emit(result, as_json=as_json, text=text)


async def _searched(
    app: App, ask: Callable[[Sequence[str]], Query], collections: list[str] | None
) -> SearchResult:
    from ragline.rag.search import search_collections

    return await search_collections(app, await _named(app, ask, collections))


async def _named(
    app: App, ask: Callable[[Sequence[str]], Query], collections: list[str] | None
) -> Query:
    """Return the query for the collections named, or for every one there is."""
    from ragline.errors import NotFound
    from ragline.rag import catalog

    if collections:
        return ask(collections)
    names = [facts.name for facts in await catalog.collections(app)]
    if not names:
        raise NotFound("there is no collection to search yet: make one with `ragline ingest`")
    return ask(names)


async def _generated(app: App, asked: Query, *, show: bool) -> Answer:
    """Return the model's answer; `show` prints each sentence as it comes, and ends the last line."""
    from ragline.core.grounding import joined
    from ragline.core.results import Sentence
    from ragline.errors import ModelError
    from ragline.rag.generate import stream_answer

    shown: list[Sentence] = []
    try:
        async with aclosing(stream_answer(app, asked)) as parts:
            async for part in parts:
                if not isinstance(part, Sentence):
                    output.piece("\n" * bool(shown))
                    return part
                if show:
                    gap = "" if not shown else "\n" if part.starts_line else " "
                    output.piece(gap + joined([part]))
                    shown.append(part)
    except ModelError:
        if shown:
            output.note("\nwhat is above is no answer: the model failed before its end")
        raise
    raise AssertionError("a stream ends with its answer, or with an error")


def answer_text(answer: Answer) -> str:
    """Return an answer with its numbered citations for people."""
    paragraphs = [textwrap.fill(line, 100) for line in answer.text.split("\n")]
    return "\n".join([*paragraphs, *_references(answer)])


def _references(answer: Answer) -> list[str]:
    return [
        f"  [{c.number}] {output.on_one_line(c.title or c.source)}, characters {c.start}-{c.end} "
        f"({output.on_one_line(c.source)})"
        for c in answer.citations
    ]


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
    scan += ", exact" if used.is_exact else ""
    return _filter_line(used) + (
        f"{used.collection}: {used.method}, model {used.model_id or '-'}, "
        f"ef_search {used.ef_search or '-'}{scan}, {used.candidates} candidates a half, "
        f"{used.vector_plan or 'no vectors read'}, terms {' '.join(used.terms) or '-'}"
        f"{_policy(used)}"
    )


def _policy(used: Used) -> str:
    said = ", ".join(f"{name} {value}" for name, value in (used.policy or {}).items())
    return f"; policy: {said}" if said else ""


def _filter_line(used: Used) -> str:
    """Say how the chunks that a filter allows were reached, and why."""
    access = used.access
    if access is None:
        return ""
    how = (
        "all compared"
        if access.kind == "exact"
        else (f"index walked with ef_search {access.ef_search} for {access.rows} allowed chunks")
    )
    limit = (
        f"{access.exact_chunks:,} ({'measured' if access.is_calibrated else 'not measured yet'})"
    )
    return (
        f"{used.collection}: filter {used.filter}\n"
        f"    keeps about {access.share:.1%} = {access.allowed_chunks:,} chunks (of {access.sampled} "
        f"looked at); all are compared up to {limit}: {how}\n"
    )
