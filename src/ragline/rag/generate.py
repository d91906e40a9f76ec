"""Answers that a model writes from the passages found, each sentence checked against what it cites."""

from __future__ import annotations

import re
import time
from collections.abc import AsyncGenerator, AsyncIterator, Mapping, Sequence
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass, field, replace

from ragline.core import grounding, prompts
from ragline.core.prompts import Passage
from ragline.core.results import Answer, Citation, Hit, SearchResult, Sentence, Usage
from ragline.core.thoughts import Thoughts
from ragline.errors import ModelError, ModelReplyInvalid, ModelUnavailable, UsageError
from ragline.models.llm import ChatFacts, ChatModel, Message, Piece
from ragline.rag.answer import NOT_FOUND, citation
from ragline.rag.app import App
from ragline.rag.search import Query, search_collections
from ragline.signals import spans

UNKNOWN = Usage(input_tokens=None, output_tokens=None, cost_micro_usd=None)
_WAS_CUT_OFF = frozenset({"length", "max_tokens"})
_REASON = re.compile(r"[A-Za-z_\-]{1,40}")
# A text that grows is cut again when it is this share longer: cut at every piece, a sentence without
# an end would take time that grows with the square of its length.
_GROWTH = 1 / 16
# A model that goes on past its limit would be read, and paid, for ever.
_MOST_CHARACTERS_A_TOKEN = 40


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """How much a model is shown, and how long its answer may be, in tokens (estimated for passages)."""

    passages: int = 8
    context_tokens: int = 3000
    max_tokens: int = 500

    def __post_init__(self) -> None:
        for name, most in (("passages", 100), ("context_tokens", 200_000), ("max_tokens", 8192)):
            if not 1 <= getattr(self, name) <= most:
                raise UsageError(
                    f"{name} is {getattr(self, name)}; it must lie between 1 and {most:,}"
                )


async def generated_answer(app: App, query: Query, limits: Limits | None = None) -> Answer:
    """Return the answer that the configured model writes; raises ModelError where it does not."""
    return await _whole(stream_answer(app, query, limits))


async def generated_from(
    app: App, query: Query, found: SearchResult, limits: Limits | None = None
) -> Answer:
    """Return the same from what a search found."""
    model = await _model(app)
    with spans.span("generate"):
        return await _whole(_stream(app, model, query, found, limits or Limits()))


async def stream_answer(
    app: App, query: Query, limits: Limits | None = None
) -> AsyncGenerator[Sentence | Answer, None]:
    """Yield the sentences of an answer as they are written and checked, and at the end the answer.

    Raises ModelError, before the first sentence or behind one, when the model cannot be asked or
    stops before its end: sentences without an Answer behind them are no answer.
    """
    model = await _model(app)
    found = await search_collections(app, query)
    async with aclosing(_stream(app, model, query, found, limits or Limits())) as parts:
        async for part in parts:
            yield part


async def _whole(stream: AsyncGenerator[Sentence | Answer, None]) -> Answer:
    async with aclosing(stream) as parts:
        async for part in parts:
            if isinstance(part, Answer):
                return part
    raise AssertionError("a stream ends with its answer, or with an error")


async def _stream(
    app: App, model: ChatModel, query: Query, found: SearchResult, limits: Limits
) -> AsyncGenerator[Sentence | Answer, None]:
    started = time.perf_counter()
    draft = await _draft(app, query, found, limits)
    if draft.passages:
        async with aclosing(_written(model, draft, limits)) as sentences:
            async for sentence in sentences:
                draft.sentences.append(sentence)
                yield sentence
    yield _answer(draft, model.facts, (time.perf_counter() - started) * 1000)


@dataclass(slots=True, kw_only=True)
class _Draft:
    """An answer while it is written."""

    query: Query
    found: SearchResult
    passages: Mapping[int, Hit]
    sources: Mapping[int, grounding.Source]
    sentences: list[Sentence] = field(default_factory=list)
    finish_reason: str | None = None
    usage: Usage = UNKNOWN


async def _model(app: App) -> ChatModel:
    model = await app.chat_model()
    if model is None:
        raise ModelError(
            "no chat model is configured, so no answer can be generated: set RAGLINE_CHAT_PROVIDER "
            "and RAGLINE_CHAT_MODEL (docs/howto/answers.md says how), or ask without generating, for "
            "the documents' own sentences"
        )
    return model


async def _draft(app: App, query: Query, found: SearchResult, limits: Limits) -> _Draft:
    hits = found.hits[: limits.passages]
    texts = prompts.fitting([hit.body for hit in hits], limits.context_tokens)
    shown = {
        number: replace(hit, body=text, end=hit.start + len(text))
        for number, (hit, text) in enumerate(zip(hits, texts, strict=False), start=1)
    }
    languages = {u.collection: (await app.collection(u.collection)).language for u in found.used}
    sources = {n: grounding.source(hit.body, languages[hit.collection]) for n, hit in shown.items()}
    return _Draft(query=query, found=found, passages=shown, sources=sources)


async def _written(
    model: ChatModel, draft: _Draft, limits: Limits
) -> AsyncGenerator[Sentence, None]:
    """Yield the model's sentences, checked; what it used and why it stopped go into the draft."""
    rest, enough = "", 0
    async with aclosing(_said(model, draft, limits)) as texts:
        async for text in texts:
            rest += text
            if len(rest) < enough:
                continue
            done, rest = grounding.cut(rest, is_whole=False)
            enough = int(len(rest) * (1 + _GROWTH))
            for raw, starts_line in done:
                if sentence := _sentence(draft, raw, starts_line):
                    yield sentence
    for raw, starts_line in grounding.cut(rest, is_whole=True)[0]:
        if sentence := _sentence(draft, raw, starts_line):
            yield sentence


def _sentence(draft: _Draft, raw: str, starts_line: bool) -> Sentence | None:
    if prompts.is_refusal(raw):
        return None
    sentence = grounding.checked(raw, draft.sources, starts_line=starts_line)
    return sentence if sentence.text else None


async def _said(model: ChatModel, draft: _Draft, limits: Limits) -> AsyncGenerator[str, None]:
    """Yield the pieces of what is said, without the thoughts before it."""
    thoughts = Thoughts()
    async with aclosing(_texts(model, draft, limits)) as texts:
        async for text in texts:
            if said := thoughts.said(text):
                yield said
    if said := thoughts.rest():
        yield said


async def _texts(model: ChatModel, draft: _Draft, limits: Limits) -> AsyncGenerator[str, None]:
    """Yield the pieces of text; raise RemoteModelError when they end without an end, or never do."""
    left = limits.max_tokens * _MOST_CHARACTERS_A_TOKEN
    stream = model.stream(_messages(draft), max_tokens=limits.max_tokens, temperature=0.0)
    async with _closed(stream):
        async for piece in stream:
            draft.usage = piece.usage or draft.usage
            draft.finish_reason = piece.finish_reason or draft.finish_reason
            left -= len(piece.text)
            if left < 0:
                raise ModelReplyInvalid(
                    f"model {model.facts.model_id} wrote more than the {limits.max_tokens} tokens "
                    "that it was limited to can hold; what it wrote is no answer"
                )
            if piece.text:
                yield piece.text
    if draft.finish_reason is None:
        raise ModelUnavailable(
            f"model {model.facts.model_id} stopped without an end, so what it wrote is no answer; "
            "ask again"
        )


@asynccontextmanager
async def _closed(stream: AsyncIterator[Piece]) -> AsyncIterator[None]:
    """Have the model's connection back at once when nobody waits for the answer any longer."""
    try:
        yield
    finally:
        if isinstance(stream, AsyncGenerator):
            await stream.aclose()


def _messages(draft: _Draft) -> list[Message]:
    passages = [
        Passage(number=number, title=hit.title or hit.source, text=hit.body)
        for number, hit in draft.passages.items()
    ]
    return [
        Message(role="system", content=prompts.RULES),
        Message(role="user", content=prompts.framed(draft.query.question, passages)),
    ]


def _answer(draft: _Draft, facts: ChatFacts, took_ms: float) -> Answer:
    sentences = tuple(draft.sentences)
    is_found = any(sentence.is_supported for sentence in sentences)
    return Answer(
        question=draft.query.question,
        found=is_found,
        text=grounding.joined(sentences) if is_found else NOT_FOUND,
        confidence=grounding.confidence(sentences),
        citations=_citations(draft) if is_found else (),
        warnings=(*draft.found.warnings, *_warnings(draft, is_found=is_found)),
        timings_ms={
            **draft.found.timings_ms,
            "generate": took_ms,
            "total": draft.found.timings_ms["total"] + took_ms,
        },
        method="generated",
        sentences=sentences,
        is_partial=draft.finish_reason in _WAS_CUT_OFF,
        model_id=facts.model_id if draft.passages else None,
        prompt_version=prompts.PROMPT_VERSION if draft.passages else None,
        usage=draft.usage if draft.passages else None,
    )


def _citations(draft: _Draft) -> tuple[Citation, ...]:
    cited = sorted({number for sentence in draft.sentences for number in sentence.citations})
    hits = [(number, draft.passages[number]) for number in cited]
    return tuple(citation(number, hit, hit.start, hit.end, hit.score) for number, hit in hits)


def _warnings(draft: _Draft, *, is_found: bool) -> Sequence[str]:
    said = []
    if draft.finish_reason in _WAS_CUT_OFF:
        said.append("the answer was cut off at its limit of tokens, so its end is missing")
    elif draft.finish_reason not in (None, "stop", "end_turn", "stop_sequence"):
        # A word of the protocol, or else anything that a provider cares to write.
        is_word = _REASON.fullmatch(draft.finish_reason)
        reason = (
            repr(draft.finish_reason) if is_word else "a reason that is no word of its protocol"
        )
        said.append(f"the model stopped because of {reason}")
    unsupported = sum(not sentence.is_supported for sentence in draft.sentences)
    if unsupported and is_found:
        said.append(
            f"{unsupported} of {len(draft.sentences)} sentences are not supported by the words of "
            "what they cite"
        )
    if draft.sentences and not is_found:
        said.append("the model wrote an answer that no passage it cites supports; it is not shown")
    return said
