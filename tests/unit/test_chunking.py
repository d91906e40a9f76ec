"""Laws of chunks, tokens and sentences."""

from __future__ import annotations

import re
from importlib.metadata import distributions
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from growth import is_linear
from ragline.core.chunking import Block, BlockKind, Chunk, ChunkPolicy, chunk
from ragline.core.sentences import sentences
from ragline.core.tokens import count_tokens
from ragline.errors import UsageError
from ragline.rag.formats import markdown

SMALL = ChunkPolicy(size=16, overlap=4)
NO_OVERLAP = ChunkPolicy(size=180, overlap=0)
KINDS: tuple[BlockKind, ...] = ("heading", "paragraph", "code", "list", "table")

WORDS = st.one_of(
    st.sampled_from(
        ["a", "Pool", "e.g.", "3.11", "end.", "why?", "- x", "https://a.b/c?d=1", "\n"]
    ),
    st.text(alphabet="ab.,!?\n 我。カ한ก\u0301\u200b", max_size=12),
    st.integers(40, 90).map(lambda n: "x" * n),
)
BODIES = st.lists(WORDS, max_size=40).map(" ".join)


@st.composite
def documents(draw: st.DrawFn) -> tuple[str, list[Block]]:
    """A text, and blocks in it: some with skipped text between them."""
    text, blocks = "", []
    for body in draw(st.lists(BODIES, max_size=8)):
        kind = draw(st.sampled_from(KINDS))
        start, text = len(text), text + body
        if kind == "heading":
            title = draw(st.sampled_from([None, "", "Plain title"]))
            blocks.append(Block(kind, start, len(text), draw(st.integers(1, 3)), title))
        else:
            blocks.append(Block(kind, start, len(text)))
        text += draw(st.sampled_from(["\n\n", "\n", "\n[badge](skipped)\n"]))
    return text, blocks


@st.composite
def policies(draw: st.DrawFn) -> ChunkPolicy:
    size = draw(st.integers(16, 80))
    return ChunkPolicy(size, draw(st.integers(0, size // 2)))


def sections(text: str, blocks: list[Block]) -> list[int]:
    """For each block the number of its section. A heading of spaces alone begins none."""
    numbers, number = [], 0
    for block in blocks:
        number += block.kind == "heading" and bool(text[block.start : block.end].strip())
        numbers.append(number)
    return numbers


def uncovered(text: str, blocks: list[Block], chunks: list[Chunk]) -> set[int]:
    """The characters of blocks, spaces aside, that are in no chunk."""
    inside = {i for one in chunks for i in range(one.start, one.end)}
    wanted = {i for block in blocks for i in range(block.start, block.end) if text[i].strip()}
    return wanted - inside


def is_in_a_path(text: str, block: Block, chunks: list[Chunk]) -> bool:
    """Whether the block is a heading, named in the headings of the first chunk after it."""
    raw = text[block.start : block.end] if block.title is None else block.title
    after = next((one for one in chunks if one.start >= block.end), None)
    return block.kind == "heading" and after is not None and " ".join(raw.split()) in after.headings


def assert_laws(text: str, blocks: list[Block], policy: ChunkPolicy) -> list[Chunk]:
    chunks = chunk(text, blocks, policy)
    assert [one.ordinal for one in chunks] == list(range(len(chunks)))
    for one in chunks:
        assert one.body == text[one.start : one.end]
        assert one.body.strip() == one.body != ""
        assert one.tokens == count_tokens(one.body) <= policy.size
        assert one.body.find("(skipped)") == -1
    missing = uncovered(text, blocks, chunks)
    for block in blocks:
        if not missing.isdisjoint(range(block.start, block.end)):
            assert is_in_a_path(text, block, chunks), block
    assert_overlaps(text, blocks, chunks, policy)
    return chunks


def assert_overlaps(
    text: str, blocks: list[Block], chunks: list[Chunk], policy: ChunkPolicy
) -> None:
    numbers = sections(text, blocks)
    for before, after in pairwise(chunks):
        assert before.start < after.start
        assert before.end < after.end
        shared = range(after.start, before.end)
        assert count_tokens(text[after.start : before.end]) <= policy.overlap
        owners = {
            number
            for block, number in zip(blocks, numbers, strict=True)
            if shared and block.start < shared.stop and block.end > shared.start
        }
        assert len(owners) <= 1


@settings(max_examples=300, deadline=None)
@given(documents(), policies())
def test_chunks_hold_their_laws_for_any_document(
    document: tuple[str, list[Block]], policy: ChunkPolicy
) -> None:
    assert_laws(*document, policy)


@given(BODIES)
def test_a_chunk_of_nothing_is_nothing_and_of_something_is_all_of_it(text: str) -> None:
    chunks = chunk(text, [Block("paragraph", 0, len(text))], ChunkPolicy(16, 0))

    assert "".join("".join(one.body.split()) for one in chunks) == "".join(text.split())


@pytest.mark.parametrize("policy", [ChunkPolicy(), SMALL, NO_OVERLAP])
def test_laws_hold_for_every_readme_at_hand(policy: ChunkPolicy) -> None:
    readmes = [str(one.metadata.json.get("description", "")) for one in distributions()]
    parsed = [markdown.parse(text.encode()) for text in readmes if text.strip()]

    assert len(parsed) > 20
    for one in parsed:
        assert_laws(one.text, list(one.blocks), policy)


def bodies(source: str, policy: ChunkPolicy = NO_OVERLAP) -> list[str]:
    parsed = markdown.parse(source.encode())
    return [one.body for one in chunk(parsed.text, parsed.blocks, policy)]


def headings(source: str) -> list[tuple[str, ...]]:
    parsed = markdown.parse(source.encode())
    return [one.headings for one in chunk(parsed.text, parsed.blocks, NO_OVERLAP)]


def words(count: int, word: str = "word") -> str:
    return " ".join([word] * count)


def test_a_section_of_its_own_size_is_a_chunk_of_its_own() -> None:
    first, second = f"## One\n\n{words(90)}", f"## Two\n\n{words(60)}"

    assert bodies(f"{first}\n\n{second}") == [first, second]


def test_tiny_sections_share_a_chunk_with_the_sibling_that_follows() -> None:
    assert bodies("# A\n\n## B\n\nbb\n\n## C\n\ncc") == ["# A\n\n## B\n\nbb\n\n## C\n\ncc"]
    assert headings("# A\n\n## B\n\nbb\n\n## C\n\ncc") == [("A",)]


def test_a_tiny_section_stays_alone_when_both_do_not_fit() -> None:
    tiny, large = f"## B\n\n{words(40)}", f"## C\n\n{words(150)}"

    assert bodies(f"{tiny}\n\n{large}") == [tiny, large]


def test_a_tiny_section_does_not_leave_its_parent() -> None:
    source = f"# A\n\n{words(100)}\n\n## B\n\nbb\n\n# C\n\ncc"

    assert bodies(source)[1:] == ["## B\n\nbb", "# C\n\ncc"]


def test_headings_are_the_path_from_the_outermost() -> None:
    source = f"# A\n\n{words(90)}\n\n## B\n\n### C\n\n{words(90)}\n\n## D\n\n{words(90)}"

    assert headings(source) == [("A",), ("A", "B", "C"), ("A", "D")]


def test_a_heading_stays_with_the_text_that_follows() -> None:
    for chunked in bodies("\n\n".join(f"## H{n}\n\n{words(170 + n)}" for n in range(12))):
        assert not re.fullmatch(r"## H\d+", chunked)


def test_a_heading_cut_off_by_badges_is_in_the_path_instead() -> None:
    source = "# Title\n\n[![b](https://b.io/b.svg)](https://b.io)\n\nWhat it is."

    assert bodies(source) == ["What it is."]
    assert headings(source) == [("Title",)]


def test_a_heading_without_a_title_is_kept_with_those_above_it() -> None:
    text = "# A\n\n## ![b](b.svg)\n\n![b](b.svg)\n\nWords."

    assert bodies(text) == ["# A\n\n## ![b](b.svg)", "Words."]


def test_a_heading_with_nothing_but_badges_is_kept() -> None:
    assert bodies("# Title\n\n![b](https://b.io/b.svg)\n") == ["# Title"]


def test_long_paragraphs_are_cut_at_sentence_ends_and_code_at_line_ends() -> None:
    prose = " ".join(f"Sentence {n} says e.g. that 3.11 is fine." for n in range(60))
    code = "\n".join(f"x{n} = call(argument_{n})" for n in range(60))

    assert len(bodies(prose)) > 3
    assert all(one.startswith("Sentence") and one.endswith("fine.") for one in bodies(prose))
    fenced = bodies(f"```\n{code}\n```")
    assert len(fenced) > 3
    assert all(re.match(r"```|x\d+ = ", one) and re.search(r"```$|\)$", one) for one in fenced)


def test_overlap_repeats_whole_sentences() -> None:
    prose = " ".join(f"Sentence number {n} is here." for n in range(80))
    parsed = markdown.parse(prose.encode())
    chunks = chunk(parsed.text, parsed.blocks, ChunkPolicy(60, 20))

    for before, after in pairwise(chunks):
        assert 0 < count_tokens(prose[after.start : before.end]) <= 20
        assert after.body.startswith("Sentence number")


@pytest.mark.parametrize("text", ["word " * 200_000, "x" * 1_000_000, "One. " * 200_000])
def test_a_megabyte_in_one_line_is_linear(text: str) -> None:
    def work(size: int) -> None:
        chunk(text[:size], [Block("paragraph", 0, size)], ChunkPolicy())

    assert is_linear(work, len(text))


@pytest.mark.parametrize(("size", "overlap"), [(15, 0), (180, 91), (180, -1)])
def test_a_policy_checks_itself(size: int, overlap: int) -> None:
    with pytest.raises(UsageError, match=str(overlap if size == 180 else size)):
        ChunkPolicy(size, overlap)


def test_blocks_out_of_order_are_a_mistake_of_the_caller() -> None:
    with pytest.raises(ValueError, match="out of order"):
        chunk("abcdef", [Block("paragraph", 3, 6), Block("paragraph", 0, 3)], SMALL)


@given(BODIES, BODIES)
def test_tokens_add_up_across_spaces(one: str, other: str) -> None:
    assert count_tokens(f"{one} {other}") == count_tokens(one) + count_tokens(other)


@pytest.mark.parametrize(
    ("text", "tokens"),
    [
        ("", 0),
        ("pool", 1),
        ("embedding", 2),
        ("我们去学校", 5),
        ("สวัสดี", 6),
        ("3.11", 3),
        ("한국", 4),
    ],
)
def test_tokens_of_some_words(text: str, tokens: int) -> None:
    assert count_tokens(text) == tokens


@given(BODIES)
def test_sentences_are_in_order_and_leave_out_only_spaces(text: str) -> None:
    spans = sentences(text)

    assert all(text[a:b] == text[a:b].strip() != "" for a, b in spans)
    assert spans == sorted(spans)
    assert "".join("".join(text[a:b].split()) for a, b in spans) == "".join(text.split())


@pytest.mark.parametrize(
    "expected",
    [
        ["Use e.g. Python 3.11, i.e. a new one.", "Dr. Smith said so."],
        ["See https://a.b/c.html?d=e. for it.", "And setup.py, too!"],
        ["J. R. Tolkien wrote it.", "He works at Foo Inc.", "He likes it."],
        ['He said "stop."', "(She did.)", "Then... nothing."],
        ["यह पहला वाक्य है।", "यह दूसरा है।"],
        ["هل هذا صحيح؟", "نعم، هو كذلك."],
        ["1. Install it.", "Then go."],
        ["Version 2.", "Next."],
    ],
)
def test_sentences_end_where_a_reader_would_end_them(expected: list[str]) -> None:
    text = " ".join(expected)

    assert [text[a:b] for a, b in sentences(text)] == expected


def test_sentences_of_chinese_and_of_lists() -> None:
    chinese, items = (
        "我们去学校。你呢\uff1f「好\uff01」他说。",
        "- one\n- two. Yes.\n1. three\n   goes on",
    )

    assert [chinese[a:b] for a, b in sentences(chinese)] == [
        "我们去学校。", "你呢\uff1f", "「好\uff01」", "他说。",
    ]  # fmt: skip
    assert [items[a:b] for a, b in sentences(items)] == [
        "- one", "- two.", "Yes.", "1. three\n   goes on",
    ]  # fmt: skip


def test_a_part_of_a_text_has_its_own_sentences() -> None:
    text = "Before. One here. Two here. After."

    assert [text[a:b] for a, b in sentences(text, 8, 27)] == ["One here.", "Two here."]
