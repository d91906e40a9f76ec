"""Options that many commands share, declared once."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

Command = Callable[..., None]

DataDir = Annotated[
    Path | None,
    typer.Option(
        "--data-dir",
        help="Folder of the embedded database and the models "
        "(default: RAGLINE_DATA_DIR, else the platform's data folder).",
        show_default=False,
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object on stdout.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Print only results and errors.")]
Yes = Annotated[bool, typer.Option("--yes", help="Do it; without this, only say what.")]

FailOn = Annotated[
    Literal["new", "any", "never"],
    typer.Option(
        "--fail-on", help="Which findings make it fail: those not in the baseline, or any."
    ),
]
Baseline = Annotated[
    Path | None, typer.Option(help="File of the findings that are known.", show_default=False)
]
WriteBaseline = Annotated[
    bool,
    typer.Option("--write-baseline", help="Write what is found to the baseline, and succeed."),
]


def gathering(name: str, gather: Callable[..., Any]) -> Callable[[Command], Command]:
    """Have a command take the options of `gather` in the place of one parameter: what that returns.

    So commands that share many options declare them once, with how they are read.
    """
    # Values are for type checkers, and imported for them alone; options are Typer's to see.
    gather.__annotations__.pop("return", None)
    options = list(inspect.signature(gather, eval_str=True).parameters.values())

    def decorated(command: Command) -> Command:
        del command.__annotations__[name]
        own = inspect.signature(command, eval_str=True)
        parameters = [
            option
            for one in own.parameters.values()
            for option in (options if one.name == name else [one])
        ]

        def run(**said: Any) -> None:
            gathered = gather(**{option.name: said.pop(option.name) for option in options})
            command(**said, **{name: gathered})

        run.__name__, run.__doc__ = command.__name__, command.__doc__
        run.__annotations__ = {one.name: one.annotation for one in parameters}
        run.__signature__ = own.replace(parameters=parameters)  # type: ignore[attr-defined]
        return run

    return decorated
