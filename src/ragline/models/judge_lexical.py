"""A judge that compares words and numbers: no model, no cost, and no entailment.

It says whether a text has the words of a claim, which is less than whether it bears the claim out: a
meaning turned round goes unseen, and so does one said in other words. Its metrics have names of their
own for that reason.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from ragline.core import overlap
from ragline.core.claims import Claim, Label
from ragline.core.sentences import sentences
from ragline.models.accounting import Spending
from ragline.models.judge import Check, Labels, Tally

NAME = "lexical-v1"


class LexicalJudge:
    """A Judge: a claim is a sentence, and a passage that has its words counts as bearing it out.

    Its label for that is the one that models use, for want of another; nothing shows it by that name.
    """

    prefix = "lex_"

    def __init__(self, language: str = "english") -> None:
        # Words are cut by language, so that another one gives other verdicts.
        self.id = NAME if language == "english" else f"{NAME}:{language}"
        self.tally = Tally()
        self._language = language

    @property
    def spent(self) -> Spending | None:
        return None

    async def claims(
        self, question: str, texts: Sequence[str], tally: Tally
    ) -> list[tuple[Claim, ...]]:
        return [_sentences(text) for text in texts]

    async def check(self, checks: Sequence[Check], tally: Tally) -> list[Labels]:
        found: list[Labels] = []
        for check in checks:
            found.append(tuple(self._label(claim, check.passage) for claim in check.claims))
            # Others wait for the same processor.
            await asyncio.sleep(0)
        return found

    async def close(self) -> None:
        """Nothing is held."""

    def _label(self, claim: Claim, passage: str) -> Label:
        is_borne_out = overlap.supported(claim, passage, self._language)
        return "Entailment" if is_borne_out else "Neutral"


def _sentences(text: str) -> tuple[Claim, ...]:
    said = (text[start:end] for start, end in sentences(text))
    return tuple(dict.fromkeys((one,) for one in said if any(map(str.isalnum, one))))
