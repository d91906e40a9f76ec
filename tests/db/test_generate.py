"""Generated answers: what a model writes is checked, streamed, accounted, and never invented."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import aclosing
from pathlib import Path

import pytest

from conftest import opened
from ragline.core import grounding
from ragline.core.dsn import Dsn
from ragline.core.prompts import PROMPT_VERSION, RULES
from ragline.core.results import Answer, Sentence, Usage
from ragline.core.tokens import count_tokens
from ragline.errors import ModelError, RemoteModelError, UsageError
from ragline.library import Rag
from ragline.models.embed_fake import FakeEmbedder
from ragline.models.llm import ChatModel, Message
from ragline.models.llm_fake import FakeChat, obeying, passages, quoting
from ragline.rag.answer import NOT_FOUND
from ragline.rag.app import App
from ragline.rag.generate import Limits, generated_answer, stream_answer
from ragline.rag.ingest import Text, ingest_texts
from ragline.rag.search import query

CELLAR = "The cellar holds forty barrels of cider. Each barrel is turned once a week."
KEY = "The key of the cellar hangs behind the clock in the kitchen."
QUESTION = "Where does the key of the cellar hang?"
PAID = Usage(input_tokens=120, output_tokens=9, cost_micro_usd=33)


@pytest.fixture
async def house(own_dsn: Dsn, tmp_path: Path) -> AsyncIterator[App]:
    async with opened(own_dsn, tmp_path, FakeEmbedder(dimension=256)) as app:
        texts = [Text(source="cellar.txt", text=CELLAR), Text(source="key.txt", text=KEY)]
        await ingest_texts(app, texts, "house")
        yield app


def speaks(app: App, model: ChatModel | None) -> None:
    """Have the app find this chat model configured."""

    async def configured() -> ChatModel | None:
        return model

    app.open_chat_model = configured


async def said(app: App, write: Callable[[Sequence[Message]], str] | str) -> Answer:
    """Return the answer when a model writes this."""
    speaks(app, FakeChat((lambda _: write) if isinstance(write, str) else write))
    return await generated_answer(app, query(QUESTION, "house"))


async def collected(
    stream: AsyncIterator[Sentence | Answer], parts: list[Sentence | Answer]
) -> None:
    async for part in stream:
        parts.append(part)  # noqa: PERF401 - what came before an error is wanted


def of_key(messages: Sequence[Message]) -> int:
    (number,) = (part["passage"] for part in passages(messages) if "clock" in part["text"])
    return int(number)


async def test_an_answer_is_the_models_with_citations_of_whole_passages(house: App) -> None:
    model = FakeChat(lambda m: f"The key hangs behind the kitchen clock [{of_key(m)}].", usage=PAID)
    speaks(house, model)

    answer = await generated_answer(house, query(QUESTION, "house"))

    (citation,) = answer.citations
    assert answer.found
    assert answer.text == f"The key hangs behind the kitchen clock [{citation.number}]."
    assert (citation.source, citation.text) == ("key.txt", KEY)
    assert (citation.start, citation.end) == (0, len(KEY))
    assert [s.is_supported for s in answer.sentences] == [True]
    assert answer.confidence == pytest.approx(1)
    assert (answer.method, answer.model_id, answer.usage) == ("generated", "fake-chat", PAID)
    assert (answer.prompt_version, answer.is_partial, answer.warnings) == (
        PROMPT_VERSION,
        False,
        (),
    )
    assert {"search", "generate", "total"} <= answer.timings_ms.keys()


async def test_the_model_is_told_the_rules_the_passages_and_the_question(house: App) -> None:
    model = FakeChat()
    speaks(house, model)

    await generated_answer(house, query(QUESTION, "house"), Limits(max_tokens=77))

    ((system, user),) = model.asked
    assert (system.role, system.content) == ("system", RULES)
    assert {part["text"] for part in passages([user])} == {CELLAR, KEY}
    assert user.content.endswith(f'{{"question": "{QUESTION}"}}')
    assert model.limits == [77]


async def test_what_it_took_stays_unknown_when_nobody_says_it(house: App) -> None:
    answer = await said(house, quoting)

    assert answer.usage == Usage(input_tokens=None, output_tokens=None, cost_micro_usd=None)


async def test_sentences_without_support_are_marked_and_counted(house: App) -> None:
    answer = await said(
        house, lambda m: f"The key hangs behind the clock [{of_key(m)}]. Ask the butler. It is [9]."
    )

    assert answer.found
    assert answer.text.endswith("Ask the butler. [unsupported] It is. [unsupported]")
    assert [s.is_supported for s in answer.sentences] == [True, False, False]
    assert answer.sentences[2].invalid_citations == (9,)
    assert any("2 of 3 sentences are not supported" in warning for warning in answer.warnings)


@pytest.mark.parametrize(
    "text",
    [
        "NOT FOUND",
        "NOT FOUND.\n",
        "NOT FOUND [1].",
        "<think>The key hangs behind the clock [1][2].</think>",
        "<think>The key hangs behind the clock [1][2].",
        "It is [1][2].",
        "",
        "   \n",
        "I cannot help with that.",
        "The key hangs behind the clock.",
        "The key hangs behind the clock [17].",
        "The king of Spain signed a treaty in 1648 [1][2].",
    ],
)
async def test_without_one_supported_sentence_nothing_is_found(house: App, text: str) -> None:
    answer = await said(house, text)

    assert (answer.found, answer.text, answer.citations) == (False, NOT_FOUND, ())
    assert not any(sentence.is_supported for sentence in answer.sentences)


async def test_a_question_without_any_passage_costs_no_model(house: App) -> None:
    model = FakeChat()
    speaks(house, model)
    await ingest_texts(house, [], "empty")

    answer = await generated_answer(house, query(QUESTION, "empty"))

    assert (answer.found, answer.text, answer.usage, answer.model_id) == (
        False,
        NOT_FOUND,
        None,
        None,
    )
    assert model.asked == []


async def test_sentences_come_while_the_model_still_writes(house: App) -> None:
    model = FakeChat(lambda m: f"One key [{of_key(m)}]. Two keys [1]. Three keys [2].", piece=3)
    speaks(house, model)

    async with aclosing(stream_answer(house, query(QUESTION, "house"))) as parts:
        first = await anext(parts)
        assert isinstance(first, Sentence)
        assert model.open_streams == 1
        rest = [part async for part in parts]

    assert [type(part) for part in rest] == [Sentence, Sentence, Answer]
    answer = rest[-1]
    assert isinstance(answer, Answer)
    assert answer.sentences == (first, *rest[:-1])


async def test_who_leaves_early_stops_the_model(house: App) -> None:
    model = FakeChat(lambda _: "One. Two. Three. Four. Five.", piece=2)
    speaks(house, model)

    async with aclosing(stream_answer(house, query(QUESTION, "house"))) as parts:
        await anext(parts)

    assert model.open_streams == 0


@pytest.mark.parametrize(
    ("model", "reason"),
    [
        (FakeChat(breaks_after=0), "broke off"),
        (FakeChat(obeying, breaks_after=9), "broke off"),
        (FakeChat(finish_reason=None), "stopped without an end"),
        (FakeChat(lambda _: "word " * 100_000, piece=1000), "wrote more than the 500 tokens"),
    ],
)
async def test_a_model_that_fails_is_an_error_and_no_answer(
    house: App, model: FakeChat, reason: str
) -> None:
    speaks(house, model)

    with pytest.raises(ModelError, match=reason):
        await generated_answer(house, query(QUESTION, "house"))
    parts: list[Sentence | Answer] = []
    with pytest.raises(ModelError, match=reason):
        await collected(stream_answer(house, query(QUESTION, "house")), parts)
    assert not any(isinstance(part, Answer) for part in parts)
    assert model.open_streams == 0


@pytest.mark.parametrize(
    "model", [FakeChat(finish_reason=None), FakeChat(lambda _: "word " * 100_000, piece=1000)]
)
async def test_a_model_that_does_not_end_as_it_must_is_a_failure_of_the_provider(
    house: App, model: FakeChat
) -> None:
    speaks(house, model)

    with pytest.raises(RemoteModelError) as failure:
        await generated_answer(house, query(QUESTION, "house"))
    assert failure.value.status == 503


async def test_thoughts_are_no_sentences(house: App) -> None:
    speaks(
        house,
        FakeChat(
            lambda m: (
                f"<think>\nThe king of Spain. The barrels [1].\n</think>\n\n"
                f"The key hangs behind the clock [{of_key(m)}]."
            ),
            piece=3,
        ),
    )

    answer = await generated_answer(house, query(QUESTION, "house"))

    (sentence,) = answer.sentences
    assert sentence.text.startswith("The key hangs behind the clock")
    assert answer.text == sentence.text


async def test_a_text_without_an_end_is_not_read_again_for_every_piece(
    house: App, monkeypatch: pytest.MonkeyPatch
) -> None:
    read = []
    cut = grounding.cut

    def counted(text: str, *, is_whole: bool) -> tuple[list[tuple[str, bool]], str]:
        read.append(len(text))
        return cut(text, is_whole=is_whole)

    monkeypatch.setattr(grounding, "cut", counted)
    speaks(house, FakeChat(lambda _: "word " * 3000, piece=1))

    await generated_answer(house, query(QUESTION, "house"))

    assert sum(read) < 25 * 15_000


async def test_an_answer_cut_off_at_its_limit_says_that_it_is_partial(house: App) -> None:
    speaks(house, FakeChat(quoting, finish_reason="length"))

    answer = await generated_answer(house, query(QUESTION, "house"))

    assert answer.is_partial
    assert any("cut off" in warning for warning in answer.warnings)


async def test_why_a_model_stopped_is_said_when_it_is_not_the_usual_reason(house: App) -> None:
    speaks(house, FakeChat(lambda _: "", finish_reason="tool_calls"))

    answer = await generated_answer(house, query(QUESTION, "house"))

    assert not answer.found
    assert any("'tool_calls'" in warning for warning in answer.warnings)


@pytest.mark.parametrize("reason", ["see http://evil.example/?k=sk-secret", "x" * 5000, "<b>"])
async def test_a_reason_that_is_no_word_is_not_repeated(house: App, reason: str) -> None:
    speaks(house, FakeChat(lambda _: "", finish_reason=reason))

    answer = await generated_answer(house, query(QUESTION, "house"))

    (warning,) = (text for text in answer.warnings if "the model stopped" in text)
    assert warning == "the model stopped because of a reason that is no word of its protocol"


async def test_without_a_chat_model_the_error_says_what_to_set(house: App) -> None:
    speaks(house, None)

    with pytest.raises(ModelError, match="RAGLINE_CHAT_MODEL"):
        await generated_answer(house, query(QUESTION, "house"))


async def test_the_model_sees_no_more_than_its_budget(house: App) -> None:
    model = FakeChat()
    speaks(house, model)

    await generated_answer(house, query(QUESTION, "house"), Limits(context_tokens=8))
    await generated_answer(house, query(QUESTION, "house"), Limits(passages=1))

    for messages in model.asked:
        (only,) = passages(messages)
        assert only["text"]
    assert count_tokens(passages(model.asked[0])[0]["text"]) <= 8


async def test_a_passage_cut_to_its_budget_is_cited_as_far_as_it_was_shown(house: App) -> None:
    speaks(house, FakeChat(lambda m: f"{passages(m)[0]['text']} [1]"))

    answer = await generated_answer(house, query(QUESTION, "house"), Limits(context_tokens=6))

    (citation,) = answer.citations
    whole = {"cellar.txt": CELLAR, "key.txt": KEY}[citation.source]
    assert citation.text == whole[citation.start : citation.end]
    assert citation.end < len(whole)


@pytest.mark.parametrize("limits", [{"max_tokens": 0}, {"max_tokens": 9000}, {"passages": 0}])
def test_limits_without_sense_are_refused(limits: dict[str, int]) -> None:
    with pytest.raises(UsageError, match=next(iter(limits))):
        Limits(**limits)


async def test_the_library_generates_only_when_asked_to(house: App) -> None:
    model = FakeChat()
    speaks(house, model)
    rag = Rag(house)

    plain = await rag.ask(KEY, collection="house")
    assert (plain.method, model.asked) == ("extractive", [])
    written = await rag.ask(KEY, collection="house", generate=True)
    assert (written.method, len(model.asked)) == ("generated", 1)
    with pytest.raises(UsageError, match="generate=True"):
        await rag.ask(KEY, collection="house", limits=Limits(max_tokens=9))
    parts = [part async for part in rag.stream(KEY, collection="house")]
    assert isinstance(parts[-1], Answer)
    assert parts[-1].text == written.text


async def test_closing_ragline_closes_the_model(own_dsn: Dsn, tmp_path: Path) -> None:
    model = FakeChat()
    async with opened(own_dsn, tmp_path, None) as app:
        speaks(app, model)
        assert await app.chat_model() is await app.chat_model() is model

    assert model.is_closed
