"""A judge behind the double of a provider: it reads its prompt back and answers from what it knows.

    with OpenAIServer() as server:
        judge = ScriptedJudge(claims={"The Nile is long.": [("The Nile", "is", "long")]})
        listens(server, judge)
        judge.labels[("The Nile", "is", "long"), "It is 6,650 km long."] = "Entailment"

What it does not know is a fault of the test's: the server says it when its block ends. To answer
otherwise, script the server: `server.script(Answer(pieces=("nonsense",)), Fail(status=500))`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from doubles.bedrock_server import BedrockServer
from doubles.openai_server import OpenAIServer
from ragline.core.claims import Claim, Label


class ScriptedJudge:
    """See the module's docstring. `otherwise` is the label of claims that it does not know."""

    def __init__(
        self,
        claims: Mapping[str, Sequence[Claim]] | None = None,
        labels: Mapping[tuple[Claim, str], Label] | None = None,
        *,
        otherwise: Label | None = None,
    ) -> None:
        self.claims = dict(claims or {})
        self.labels = dict(labels or {})
        self.otherwise = otherwise
        self.asked: list[list[dict[str, Any]]] = []
        """The lines of each prompt, as they were read back."""

    def answer(self, framed: str) -> str:
        """Return the JSON that answers a prompt."""
        lines = [json.loads(line) for line in framed.split("\n")]
        self.asked.append(lines)
        if "question" in lines[0]:
            (_, text) = lines
            return json.dumps({"claims": self.claims[text["text"]]})
        first, *numbered, last = lines
        said = [tuple(line["says"]) for line in numbered]
        assert [line["claim"] for line in numbered] == list(range(1, last["labels"] + 1))
        return json.dumps({"labels": [self._label(claim, first["passage"]) for claim in said]})

    def _label(self, claim: Claim, passage: str) -> Label:
        known = self.labels.get((claim, passage), self.otherwise)
        assert known is not None, f"no label for {claim} and {passage!r}"
        return known


def listens(server: OpenAIServer | BedrockServer, judge: ScriptedJudge) -> None:
    """Have a server's chat model answer as this judge."""

    def say(messages: list[dict[str, Any]]) -> str:
        content = messages[-1]["content"]
        return judge.answer(content if isinstance(content, str) else content[0]["text"])

    server.say = say
