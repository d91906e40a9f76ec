"""`ragline attach` and `ragline detach`: tables of the user's own as collections, in place."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal

import typer

from ragline.cli import output, runtime
from ragline.cli.options import AsJson, DataDir, Yes
from ragline.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ragline.core.results import CollectionFacts
    from ragline.rag.app import App
    from ragline.rag.attach import Plan
    from ragline.rag.detach import Detachment


Table = Annotated[str, typer.Argument(help="The table, or schema.table.")]
IdOption = Annotated[
    str | None,
    typer.Option("--id", help="Column that names a row: unique, never null.", show_default=False),
]
TextOption = Annotated[
    str | None, typer.Option("--text", help="Column with the text.", show_default=False)
]
EmbeddingOption = Annotated[
    str | None,
    typer.Option("--embedding", help="Column of type vector or halfvec.", show_default=False),
]
MetadataOption = Annotated[
    str | None,
    typer.Option("--metadata", help="Column of type jsonb or json.", show_default=False),
]
FilterOption = Annotated[
    list[str] | None,
    typer.Option("--filter", help="Column that filters may name; repeatable.", show_default=False),
]
OnlyOption = Annotated[
    list[str] | None,
    typer.Option(
        "--only",
        help="COLUMN=VALUE: only rows with this value belong; repeatable.",
        show_default=False,
    ),
]
CollectionOption = Annotated[
    str | None,
    typer.Option(
        "--collection", "-c", help="What the collection is called.", show_default="the table's name"
    ),
]
ModelOption = Annotated[
    str | None,
    typer.Option(
        "--model",
        help='Id of the configured model that the vectors are of, or "unknown".',
        show_default="compared with the vectors",
    ),
]
MetricOption = Annotated[
    Literal["cosine", "l2", "inner_product"] | None,
    typer.Option(
        "--metric", help="Distance.", show_default="that of the vector index, else cosine"
    ),
]


def attach(
    table: Table,
    id_: IdOption = None,
    text: TextOption = None,
    embedding: EmbeddingOption = None,
    metadata: MetadataOption = None,
    filter_: FilterOption = None,
    only: OnlyOption = None,
    collection: CollectionOption = None,
    model: ModelOption = None,
    metric: MetricOption = None,
    yes: Yes = False,
    data_dir: DataDir = None,
    as_json: AsJson = False,
) -> None:
    """Search a table of your own in place: it becomes a collection, and is not changed.

    Tables of LangChain, LlamaIndex and Haystack are recognised; what an option says goes first.
    """
    from ragline.core.attaching import Request
    from ragline.rag import attach as attaching

    request = Request(
        table=table,
        id=id_,
        text=text,
        embedding=embedding,
        metadata=metadata,
        filters=tuple(filter_ or ()),
        only=_pairs(only or ()),
        collection=collection,
        model=model,
        metric=metric,
    )
    if not yes:
        plan = runtime.with_app(data_dir, lambda app: attaching.plan(app, request))
        value = {"attached": None, "plan": plan}
        again = "the same with --yes"
        output.only_said(value, as_json=as_json, text=_planned(plan), again=again)

    async def both(app: App) -> tuple[Plan, CollectionFacts]:
        return await attaching.attach(app, request)

    plan, facts = runtime.with_app(data_dir, both, settles=True)
    output.emit({"attached": facts, "plan": plan}, as_json=as_json, text=_attached(plan, facts))


def detach(
    name: Annotated[str, typer.Argument(help="Name of the attached collection.")],
    yes: Yes = False,
    data_dir: DataDir = None,
    as_json: AsJson = False,
) -> None:
    """Give an attached table back: our rows and the rights we gave go, the table stays as it is."""
    from ragline import wiring
    from ragline.rag import detach as detaching

    if not yes:
        found = runtime.with_app(data_dir, lambda app: detaching.plan(app, name))
        output.only_said(
            {"detached": None, "plan": found},
            as_json=as_json,
            text="\n".join(_detached(found, would=True)),
            again=f"ragline detach {name} --yes",
        )

    async def done(app: App) -> Detachment:
        return await detaching.detach(app, name, settle=lambda: wiring.settle(app))

    found = runtime.with_app(data_dir, done, settles=True)
    text = "\n".join(_detached(found, would=False))
    output.emit({"detached": name, "plan": found}, as_json=as_json, text=text)


def _pairs(said: Sequence[str]) -> tuple[tuple[str, str], ...]:
    pairs = [one.partition("=") for one in said]
    for one, (name, equals, _) in zip(said, pairs, strict=True):
        if not (name and equals):
            raise UsageError(f"--only is COLUMN=VALUE, not {one!r}")
    return tuple((name, value) for name, _, value in pairs)


def _planned(plan: Plan) -> str:
    attached = plan.attached
    lines = [f"would attach {plan.table} as collection {plan.collection}: {plan.rows:,} rows"]
    if attached.layout:
        lines.append(f"  recognised as {attached.layout}: {plan.why}")
    lines += _columns(plan)
    lines += [f"  would let {who} read it" for who in _roles(plan)]
    lines += [f"  warning: {warning}" for warning in plan.warnings]
    return "\n".join(lines)


def _columns(plan: Plan) -> list[str]:
    attached, space = plan.attached, plan.space
    said = [
        f"id {attached.key}",
        f"text {attached.text}",
        f"embedding {attached.embedding}",
        *([f"metadata {attached.metadata}"] if attached.metadata else []),
        *(
            [f"filters {', '.join(name for name, _ in attached.filters)}"]
            if attached.filters
            else []
        ),
        *[f"only {name} = {value}" for name, value in attached.only],
    ]
    likeness = f", likeness {plan.similarity:.2f}" if plan.similarity is not None else ""
    index = f"index {plan.index.name}" if plan.index.name else "no index"
    words = f"words by {attached.words}" if attached.words else "no words"
    vectors = (
        f"  vectors: {space.dimension} dimensions of model {space.model_id}{likeness}; "
        f"{plan.index.metric} distance, {index}; {words}"
    )
    return [f"  columns: {'; '.join(said)}", vectors]


def _roles(plan: Plan) -> list[str]:
    roles = ", ".join(dict.fromkeys(grant.role for grant in plan.grants))
    return [roles] if roles else []


def _attached(plan: Plan, facts: CollectionFacts) -> str:
    lines = [f"attached {plan.table} as collection {facts.name}: {facts.chunks:,} rows"]
    lines += _columns(plan)
    lines += [f"  warning: {warning}" for warning in plan.warnings]
    return "\n".join([*lines, f"next: ragline search -c {facts.name} QUESTION"])


def _detached(found: Detachment, *, would: bool) -> list[str]:
    verb = "would detach" if would else "detached"
    lines = [f"{verb} collection {found.collection}: table {found.table} stays as it is"]
    if found.taken_back:
        roles = ", ".join(dict.fromkeys(grant.role for grant in found.taken_back))
        lines.append(
            f"  {'would take' if would else 'took'} back the right to read it from {roles}"
        )
    lines += [
        f"  index {name} stays: a change that was kept made it" for name in found.kept_indexes
    ]
    lines += [
        f"  index {name} stays dropped: by a change that was kept" for name in found.gone_indexes
    ]
    lines += [
        f"  change {id_} can be taken back until then: ragline change undo {id_}"
        for id_ in (found.ended_changes if would else ())
    ]
    lines += [
        f"  {'would drop' if would else 'dropped'} index {name}, which a trial left"
        for name in found.dropped_indexes
    ]
    lines += [f"  warning: {warning}" for warning in found.warnings]
    lines.append("  evaluations and changes of it stay in ragline's history")
    return lines
