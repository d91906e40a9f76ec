"""ragline's own schema, spaces and models."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from ragline.core.checkup import Finding
from ragline.core.doctor.facts import Facts, Model, Space, Unknown
from ragline.core.doctor.words import failed, many, passed, some, unknown, warned


def judge(facts: Facts) -> Iterator[Finding]:
    """Yield how ragline's schema and spaces are."""
    yield _schema(facts)
    yield from _dimensions(facts)
    yield from _models(facts)


def _schema(facts: Facts) -> Finding:
    id_, schema = "schema.head", facts.schema
    if isinstance(schema, Unknown):
        return unknown(id_, schema)
    if schema.complaint is not None:
        return failed(
            id_, schema.complaint, fix="`ragline migrate status` says more; nothing was read"
        )
    if schema.applied == schema.head:
        return passed(id_, f"at version {schema.head}")
    if schema.applied is None:
        # Whoever only looks at a database of theirs has nothing to mend.
        return warned(
            id_,
            f"there is no ragline schema in {facts.server.database} yet",
            fix="to use ragline here, `ragline migrate apply`; on a replica, on its primary",
        )
    said = f"at version {schema.applied}; this ragline needs {schema.head}"
    if schema.applied in schema.versions:
        return failed(id_, said, fix="see `ragline migrate plan`, then `ragline migrate apply`")
    return failed(id_, f"{said}: it is newer than the code", fix="install a newer ragline")


def _dimensions(facts: Facts) -> Iterator[Finding]:
    id_ = "dimension.consistency"
    if isinstance(facts.spaces, Unknown):
        yield unknown(id_, facts.spaces)
        return
    found = [one for space in facts.spaces if (one := _column(space)) is not None]
    yield from found
    if not found:
        count = len(facts.spaces)
        yield passed(
            id_,
            "no space yet"
            if not count
            else f"{many(count, 'space')}, each with vectors of its dimension",
        )


def _column(space: Space) -> Finding | None:
    id_ = "dimension.consistency"
    table = space.attached_to or f"ragline.embedding_{space.id}"
    subject = f"collection {space.collection}"
    if space.column_type is None:
        return failed(
            id_,
            f"{subject}: {table}, or its column of vectors, is not there",
            subject=subject,
            fix=_restored(space, "restore the table from a backup"),
        )
    # A table of somebody else's may state no dimension; searches cast its vectors then.
    is_open = space.attached_to is not None and space.column_dimension is None
    if not is_open and space.column_dimension != space.dimension:
        return failed(
            id_,
            f"{subject}: the space says {space.dimension} dimensions, the column of {table} says "
            f"{space.column_dimension or 'none'}",
            subject=subject,
            fix=_restored(space, "find out who altered the table"),
        )
    if space.attached_to is None and space.column_type != space.storage:
        return failed(
            id_,
            f"{subject}: the space says {space.storage}, the column of {table} is {space.column_type}",
            subject=subject,
            fix=_restored(space, "find out who altered the table"),
        )
    return None


def _restored(space: Space, first: str) -> str:
    if space.attached_to is not None:
        return f"`ragline detach {space.collection}`, and attach the table as it is now"
    return f"{first}; or `ragline collection remove {space.collection}` and ingest it again"


def _models(facts: Facts) -> Iterator[Finding]:
    id_ = "model.spaces"
    if isinstance(facts.spaces, Unknown):
        yield unknown(id_, facts.spaces)
        return
    active = [one for one in facts.spaces if one.is_active and one.model_id != "unknown"]
    if not active:
        yield passed(id_, "no collection needs a model yet")
        return
    if isinstance(facts.models, Unknown):
        yield unknown(id_, facts.models)
        return
    found = [one for space in active if (one := _model(space, facts.models)) is not None]
    yield from found
    if not found:
        names = sorted({space.model_id for space in active})
        yield passed(
            id_, f"{many(len(active), 'collection')}, made with {some(names)}, which is configured"
        )


def _model(space: Space, models: Sequence[Model]) -> Finding | None:
    id_, subject = "model.spaces", f"collection {space.collection}"
    made = f"{subject} was made with {space.model_id} ({space.dimension} dimensions)"
    if not models:
        return warned(
            id_,
            f"{made}, and no model is configured: it is searched by words only",
            subject=subject,
            fix="`ragline model fetch`, or name a folder in RAGLINE_MODEL_DIR",
        )
    if any(model.weights_hash == space.weights_hash for model in models):
        return None
    known = some([f"{model.model_id} ({model.dimension})" for model in models])
    return warned(
        id_,
        f"{made}, and configured is {known}: its vectors cannot be searched here",
        subject=subject,
        fix=f"name its model in RAGLINE_MODEL_DIR (`ragline model show`); or move the collection: "
        f"`ragline change plan space {space.collection} model=FOLDER`",
    )
