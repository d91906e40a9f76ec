"""A fake judge for tests: its verdicts are a function of the texts, or what a table says."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from ragline.core.claims import Claim, Label
from ragline.core.sentences import sentences
from ragline.errors import ModelUnavailable
from ragline.models.accounting import Spending
from ragline.models.judge import Check, Labels, Tally


class FakeJudge:
    """A claim is a sentence, and a passage entails it that has it word for word.

    `claims` of a text, and `labels` of a claim (its parts with spaces between) and a passage, go
    before that. After `fails_after` calls it fails with ModelUnavailable, and whoever sets that to None
    has it work again. A text taken apart is a call, and so is a claim held against a passage.
    """

    prefix = ""

    def __init__(
        self,
        claims: Mapping[str, Sequence[Claim]] | None = None,
        labels: Mapping[tuple[str, str], Label] | None = None,
        *,
        name: str = "llm:fake/judge@0",
        fails_after: int | None = None,
    ) -> None:
        self.id = name
        self.tally = Tally()
        self.fails_after = fails_after
        self.is_closed = False
        self._claims = claims or {}
        self._labels = labels or {}

    @property
    def spent(self) -> Spending | None:
        return None

    async def claims(
        self, question: str, texts: Sequence[str], tally: Tally
    ) -> list[tuple[Claim, ...]]:
        return [self._taken_apart(text, tally) for text in texts]

    async def check(self, checks: Sequence[Check], tally: Tally) -> list[Labels]:
        return [
            tuple(self._label(claim, check.passage, tally) for claim in check.claims)
            for check in checks
        ]

    async def close(self) -> None:
        """Nothing is held, and it says so."""
        self.is_closed = True

    def _taken_apart(self, text: str, tally: Tally) -> tuple[Claim, ...]:
        if text in self._claims:
            self._count(tally)
            return tuple(self._claims[text])
        found = tuple((text[start:end],) for start, end in sentences(text))
        if found:
            self._count(tally)
        return found

    def _label(self, claim: Claim, passage: str, tally: Tally) -> Label:
        self._count(tally)
        said = " ".join(claim)
        if found := self._labels.get((said, passage)):
            return found
        return "Entailment" if said.casefold() in passage.casefold() else "Neutral"

    def _count(self, tally: Tally) -> None:
        if self.fails_after is not None and self.tally.calls >= self.fails_after:
            raise ModelUnavailable(f"judge {self.id} was told to fail; repeat it later")
        one = Tally(calls=1, misses=1)
        tally.add(one)
        self.tally.add(one)
