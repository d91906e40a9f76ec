"""What a judge is to ragline: it finds the claims of a text, and says what bears each of them out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from ragline.config import Config
from ragline.core import judging
from ragline.core.claims import Claim, ClaimLabels, Label
from ragline.core.runs import JudgeKind
from ragline.errors import ModelError
from ragline.models.accounting import Spending

Labels = tuple[Label, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """Claims to hold against one passage."""

    claims: tuple[Claim, ...]
    passage: str


@dataclass(slots=True, kw_only=True)
class Tally:
    """What was asked of a judge: of a model, and of the memory before it."""

    calls: int = 0
    """Of a model, those after a malformed answer included; retries of a request are not."""
    hits: int = 0
    misses: int = 0
    malformed: int = 0
    """Answers that were not of the form asked for."""

    def add(self, other: Tally) -> None:
        """Count what another one counted."""
        self.calls += other.calls
        self.hits += other.hits
        self.misses += other.misses
        self.malformed += other.malformed


class Memory(Protocol):
    """Where well-formed answers of judges are kept, by the hash of judge and whole prompt."""

    async def get(self, keys: Sequence[bytes]) -> Mapping[bytes, str]:
        """Return the answers that are known."""

    async def put(self, judge_id: str, rows: Sequence[tuple[bytes, str]]) -> None:
        """Keep answers."""


class Judge(Protocol):
    """What decides whether a claim is borne out; always named.

    Both questions take many at once, so that a memory is asked once. They raise a ModelError where
    there is no answer to each of them, and fill `tally` all the same.
    """

    @property
    def id(self) -> str:
        """Its name, which changes with whatever changes its verdicts."""

    @property
    def prefix(self) -> str:
        """How the names of its metrics begin."""

    @property
    def spent(self) -> Spending | None:
        """What its model has taken since it was opened; None where it has none that is counted."""

    @property
    def tally(self) -> Tally:
        """What was asked since it was opened."""

    async def claims(
        self, question: str, texts: Sequence[str], tally: Tally
    ) -> list[tuple[Claim, ...]]:
        """Return the claims of each text; an empty text has none."""

    async def check(self, checks: Sequence[Check], tally: Tally) -> list[Labels]:
        """Return for each check one label for each of its claims."""

    async def close(self) -> None:
        """Give back what it holds; it cannot be used afterwards."""


class OpenJudge(Protocol):
    """How a judge is opened, by whoever knows the configuration."""

    async def __call__(self, kind: JudgeKind, memory: Memory | None, language: str) -> Judge | None:
        """Return the judge, with a memory of its own or none; see `open_judge`."""


async def labels(
    judge: Judge,
    question: str,
    answer: str,
    gold: str,
    contexts: Sequence[str],
    tally: Tally | None = None,
) -> ClaimLabels:
    """Return the claims of an answer and of the gold answer, and what bears each of them out.

    Raises ModelError where one verdict is missing: a case is judged whole or not at all.
    """
    tally = tally or Tally()
    answer = judging.without_marks(answer)
    of_answer, of_gold = await judge.claims(question, [answer, gold], tally)
    checks = [Check(claims=of_answer, passage=gold), Check(claims=of_gold, passage=answer)]
    checks += [Check(claims=of_answer, passage=context) for context in contexts]
    checks += [Check(claims=of_gold, passage=context) for context in contexts]
    answer_by_gold, gold_by_answer, *by_context = await judge.check(checks, tally)
    return ClaimLabels(
        answer_claims=of_answer,
        gold_claims=of_gold,
        answer_by_gold=answer_by_gold,
        gold_by_answer=gold_by_answer,
        answer_by_context=_by_claim(by_context[: len(contexts)], len(of_answer)),
        gold_by_context=_by_claim(by_context[len(contexts) :], len(of_gold)),
    )


def open_judge(
    config: Config, kind: JudgeKind, memory: Memory | None, *, language: str = "english"
) -> Judge | None:
    """Return a judge of this kind; None where labels come from elsewhere, or from nobody.

    `language` is the collection's (`core.lexical.LANGUAGES`), for the lexical judge. Raises ModelError
    where a model is asked for and none is configured, and ConfigError for unusable prices.
    """
    if kind in ("none", "imported"):
        return None
    if kind == "lexical":
        from ragline.models.judge_lexical import LexicalJudge

        return LexicalJudge(language)
    if config.judge is None:
        raise ModelError(
            "no model is configured to judge answers: set RAGLINE_JUDGE_PROVIDER and "
            "RAGLINE_JUDGE_MODEL (docs/howto/judges.md says how), or use the lexical judge, which "
            "compares words"
        )
    from ragline.models.judge_llm import LlmJudge
    from ragline.models.llm import open_model

    return LlmJudge(
        open_model(config.judge, config.prices, is_patient=True),
        memory,
        config.judge.limits.concurrency,
        max_tokens=config.judge_max_tokens,
        secret=config.judge.key,
    )


def _by_claim(by_passage: Sequence[Labels], claims: int) -> tuple[Labels, ...]:
    return tuple(tuple(labels[at] for labels in by_passage) for at in range(claims))
