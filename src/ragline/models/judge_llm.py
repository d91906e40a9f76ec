"""A chat model as a judge: each question is asked once, and not again while its answer is known."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, aclosing, asynccontextmanager, nullcontext
from typing import TypeVar

from ragline.core import judging
from ragline.core.claims import Claim
from ragline.core.dsn import Secret
from ragline.core.judging import Malformed, Prompt
from ragline.core.plaintext import visible
from ragline.errors import ModelError, ModelReplyInvalid, first
from ragline.models.accounting import Metered, Spending
from ragline.models.calls import scrubbed
from ragline.models.judge import Check, Labels, Memory, Tally
from ragline.models.llm import ChatModel, Message, Piece
from ragline.signals import spans

_Read = TypeVar("_Read")
_Reader = Callable[[Prompt, str], _Read]

_ATTEMPTS = 2
# Answers go into the memory so many at a time: what breaks off loses no more of them.
_KEPT_TOGETHER = 25
# A model that goes on past its limit would be read, and paid, for ever.
_MOST_CHARACTERS_A_TOKEN = 40
_WAS_CUT_OFF = frozenset({"length", "max_tokens"})


class LlmJudge:
    """A Judge. `concurrency` is how many of its calls are under way at once, of all cases together.

    `memory` None remembers nothing. `max_tokens` bounds an answer, with what the model thinks aloud;
    None is what the form asked for needs. `secret` is the model's key, which no error may quote.
    """

    prefix = ""

    def __init__(
        self,
        chat: ChatModel,
        memory: Memory | None,
        concurrency: int,
        *,
        max_tokens: int | None = None,
        secret: Secret | None = None,
    ) -> None:
        self.id = judging.llm_id(chat.facts.provider, chat.facts.model_id)
        self.tally = Tally()
        self._chat = chat
        self._memory = memory
        self._concurrency = concurrency
        self._max_tokens = max_tokens
        self._secret = secret.reveal() if secret else None
        # Not the model's own lanes: a call that waits there long enough is an error.
        self._lanes = asyncio.Semaphore(concurrency)

    @property
    def spent(self) -> Spending | None:
        return self._chat.spent if isinstance(self._chat, Metered) else None

    async def claims(
        self, question: str, texts: Sequence[str], tally: Tally
    ) -> list[tuple[Claim, ...]]:
        prompts = {text: judging.extraction(question, text) for text in texts if _has_words(text)}
        known = await self._answers(prompts.values(), _claims, tally)
        return [known[prompts[text]] if text in prompts else () for text in texts]

    async def check(self, checks: Sequence[Check], tally: Tally) -> list[Labels]:
        prompts = [_prompts(check) for check in checks]
        known = await self._answers((one for some in prompts for one in some), _labels, tally)
        return [
            tuple(label for prompt in some for label in known[prompt])
            if some
            else _of_nothing(check)
            for check, some in zip(checks, prompts, strict=True)
        ]

    async def close(self) -> None:
        await self._chat.close()

    async def _answers(
        self, prompts: Iterable[Prompt], read: _Reader[_Read], tally: Tally
    ) -> dict[Prompt, _Read]:
        """Return what is answered to each of the prompts, from memory or by the model."""
        wanted = {judging.key(self.id, prompt): prompt for prompt in prompts}
        own = Tally()
        try:
            known = await self._remembered(wanted, read)
            missing = {key: prompt for key, prompt in wanted.items() if key not in known}
            own.hits, own.misses = len(known), len(missing)
            known |= await self._asked(missing, read, own)
        finally:
            tally.add(own)
            self.tally.add(own)
        return {prompt: known[key] for key, prompt in wanted.items()}

    async def _remembered(
        self, wanted: Mapping[bytes, Prompt], read: _Reader[_Read]
    ) -> dict[bytes, _Read]:
        if self._memory is None or not wanted:
            return {}
        with spans.span("cache"):
            found = await self._memory.get(list(wanted))
        known = {}
        for key, reply in found.items():
            try:
                known[key] = read(wanted[key], reply)
            except Malformed:  # kept before the form was what it is now: asked again
                continue
        return known

    async def _asked(
        self, missing: Mapping[bytes, Prompt], read: _Reader[_Read], tally: Tally
    ) -> dict[bytes, _Read]:
        """Ask the model, side by side. After a failure nothing more is asked.

        What is under way is still heard and kept then: it is paid for, and spared the next time.
        """
        waiting = deque(missing.items())
        known: dict[bytes, _Read] = {}
        unkept: list[tuple[bytes, str]] = []
        failures: list[ModelError] = []

        async def work() -> None:
            while waiting:
                async with self._lane():
                    if not waiting or failures:
                        return
                    key, prompt = waiting.popleft()
                    try:
                        reply, known[key] = await self._answer(prompt, read, tally)
                    except ModelError as error:
                        failures.append(error)
                        return
                unkept.append((key, reply))
                if len(unkept) >= _KEPT_TOGETHER:
                    await self._keep(unkept)

        try:
            async with asyncio.TaskGroup() as group:
                for _ in range(min(self._concurrency, len(missing))):
                    group.create_task(work())
        except BaseExceptionGroup as several:
            raise first(several) from several
        finally:
            await self._keep(unkept)
        if failures:
            raise failures[0]
        return known

    async def _answer(
        self, prompt: Prompt, read: _Reader[_Read], tally: Tally
    ) -> tuple[str, _Read]:
        """Return an answer of the form asked for, and what it says."""
        why = ""
        for _ in range(_ATTEMPTS):
            tally.calls += 1
            try:
                with spans.span():
                    reply = await self._reply(prompt)
                return reply, read(prompt, reply)
            except Malformed as error:
                tally.malformed += 1
                # There are gateways that answer "invalid key sk-..." as if the model had said it.
                why = scrubbed(str(error), self._secret)
        raise ModelReplyInvalid(
            f"judge {self.id}: {_ATTEMPTS} answers in a row are not of the form asked for, the last "
            f"because {why}; nothing is judged by them. Name a model in RAGLINE_JUDGE_MODEL that keeps "
            "to JSON, or repeat it"
        )

    async def _reply(self, prompt: Prompt) -> str:
        limit = self._max_tokens or prompt.max_tokens
        messages = [
            Message(role="system", content=prompt.rules),
            Message(role="user", content=prompt.framed),
        ]
        said: list[str] = []
        left = limit * _MOST_CHARACTERS_A_TOKEN
        reason: str | None = None
        stream = self._chat.stream(messages, max_tokens=limit, temperature=0.0)
        async with _closed(stream):
            async for piece in stream:
                said.append(piece.text)
                reason = piece.finish_reason or reason
                left -= len(piece.text)
                if left < 0:
                    raise Malformed(f"it goes on past what {limit} tokens can hold")
        if reason is None or reason.lower() in _WAS_CUT_OFF:
            raise Malformed(
                f"it was cut off at {limit} tokens (RAGLINE_JUDGE_MAX_TOKENS; a model that thinks "
                "first needs more)"
                if reason
                else "it stopped without an end"
            )
        return "".join(said)

    async def _keep(self, unkept: list[tuple[bytes, str]]) -> None:
        rows = unkept.copy()
        unkept.clear()
        if self._memory is not None and rows:
            with spans.span("cache"):
                await self._memory.put(self.id, rows)

    @asynccontextmanager
    async def _lane(self) -> AsyncIterator[None]:
        with spans.span("limiter"):
            await self._lanes.acquire()
        try:
            yield
        finally:
            self._lanes.release()


def _prompts(check: Check) -> list[Prompt]:
    if not _has_words(check.passage):
        return []
    return [judging.checking(group, check.passage) for group in judging.groups(check.claims)]


def _has_words(text: str) -> bool:
    """Return whether anything is left of a text in its frame."""
    return bool(visible(text).strip())


def _of_nothing(check: Check) -> Labels:
    """Return the labels by a passage without words: it bears out nothing, and contradicts nothing."""
    return tuple("Neutral" for _ in check.claims)


def _claims(_: Prompt, reply: str) -> tuple[Claim, ...]:
    return judging.claims(reply)


def _labels(prompt: Prompt, reply: str) -> Labels:
    return judging.labels(reply, prompt.labels or 0)


def _closed(stream: AsyncIterator[Piece]) -> AbstractAsyncContextManager[object]:
    """Have the model's connection back at once when nobody reads the answer any longer."""
    return aclosing(stream) if isinstance(stream, AsyncGenerator) else nullcontext()
