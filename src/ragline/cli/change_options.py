"""What a change is measured by: options that `ragline change` and `ragline tune` share."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ragline.errors import UsageError

if TYPE_CHECKING:
    from ragline.core.gate import Asked
    from ragline.rag.app import App

_ANSWERS = ("none", "extractive", "generated")
_JUDGES = ("none", "lexical", "llm", "imported")

KeepInconclusive = Annotated[
    bool,
    typer.Option(
        "--keep-inconclusive",
        help="Keep it also where measuring did not decide; fails do not stay.",
    ),
]
KeepFor = Annotated[
    float,
    typer.Option(
        "--keep-for",
        min=0,
        max=3650,
        help="Days for which what it replaces is kept, so that undo is immediate.",
    ),
]


def asked(
    *,
    collection: Annotated[
        list[str] | None,
        typer.Option(
            "--collection",
            "-c",
            help="Collection to measure; may be given several times.",
            show_default="what the change concerns, else the largest",
        ),
    ] = None,
    dataset: Annotated[
        str | None,
        typer.Option(
            "--dataset", help="Measure the cases of this dataset as well.", metavar="NAME"
        ),
    ] = None,
    policy: Annotated[
        str | None,
        typer.Option(
            "--policy",
            help="Red lines beside the margins: a TOML file, or default, ragchecker-floor or faithful.",
        ),
    ] = None,
    questions: Annotated[
        int,
        typer.Option(
            "--questions",
            min=1,
            max=10_000,
            help="How many questions to make of a collection's own vectors.",
        ),
    ] = 200,
    filters: Annotated[
        list[str] | None,
        typer.Option(
            "--filter",
            "-f",
            help='Ask as many questions with this filter too, such as: lang = "en"; may be given '
            "several times.",
            show_default=False,
        ),
    ] = None,
    k: Annotated[
        int | None,
        typer.Option(
            "-k", "--k", min=1, max=1000, help="How many hits.", show_default="as searches do"
        ),
    ] = None,
    answers: Annotated[
        str,
        typer.Option(
            "--answers",
            help="Answer the dataset's cases where their contexts changed: none, extractive or "
            "generated.",
        ),
    ] = "none",
    judge: Annotated[
        str,
        typer.Option(
            "--judge", help="Judge the claims of those answers: none, lexical, llm or imported."
        ),
    ] = "none",
    quality_margin: Annotated[
        float,
        typer.Option(
            "--quality-margin", min=0, max=1, help="Recall and rows may lose so much of 1, no more."
        ),
    ] = 0.01,
    latency_margin: Annotated[
        float,
        typer.Option(
            "--latency-margin", min=0, max=10, help="The middle search time may grow by this share."
        ),
    ] = 0.25,
    budget: Annotated[
        float,
        typer.Option(
            "--budget", min=0, max=86400, help="Seconds that a measurement may take to decide."
        ),
    ] = 120.0,
    no_measure: Annotated[
        bool,
        typer.Option("--no-measure", help="Keep it on your word: nothing is measured."),
    ] = False,
    keep_inconclusive: KeepInconclusive = False,
) -> Asked | None:
    """Return what is measured; None where nothing is, on somebody's word.

    Raises UsageError, before anything is opened, for what could not be measured.
    """
    from ragline.core.filters import from_text
    from ragline.core.gate import Asked

    _check_word("--answers", answers, _ANSWERS)
    _check_word("--judge", judge, _JUDGES)
    if dataset is None and (answers != "none" or judge != "none"):
        raise UsageError("--answers and --judge are for the cases of a dataset: add --dataset NAME")
    for text in filters or ():
        from_text(text)
    lines = None if policy is None else _lines(policy)
    if no_measure:
        return None
    return Asked(
        collections=tuple(collection or ()),
        dataset=dataset,
        policy=lines,
        questions=questions,
        filters=tuple(filters or ()),
        k=k,
        answers=answers,
        judge=judge,
        quality_margin=quality_margin,
        latency_margin=latency_margin,
        budget_s=budget,
        keep_inconclusive=keep_inconclusive,
    )


async def check(app: App, asked: Asked | None) -> None:
    """Raise NotFound for collections and a dataset that are not there: nothing could be measured."""
    from ragline.evals import dataset

    if asked is None:
        return
    for name in asked.collections:
        await app.collection(name, fresh=True)
    if asked.dataset is not None:
        await dataset.one(app, asked.dataset)


def _lines(policy: str) -> str:
    """Return the name of a policy of ours, or the text of a file: it must not change under a plan."""
    from ragline.core.policies import PRESETS
    from ragline.evals import policy as policies

    policies.load(policy)
    if policy in PRESETS:
        return policy
    return Path(policy).read_text(encoding="utf-8")


def _check_word(option: str, said: str, words: Sequence[str]) -> None:
    if said not in words:
        raise UsageError(f"{option} is {said!r}; write one of {', '.join(words)}")
