"""Text of strangers shown as words: whatever a page makes of it links, loads and runs nothing."""

from __future__ import annotations

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

import rendered
from ragline.core.plaintext import MARK, plain, settled, unmarked, visible
from ragline.core.tops import TOPS, TOPS_OF_OTHER_SCRIPTS

# Everything that Markdown, HTML and linkers care for, so that random texts of it are often alive.
PARTS = (
    *"![](){}<>:/\\`~'\"#&;=*_|.-+@^$ \n\t1a2",
    *(
        "http",
        "https://",
        "://",
        "//",
        "www.",
        "evil",
        ".com",
        ".py",
        ".рф",
        "javascript:",
        "data:",
    ),
    *(
        "mailto:",
        "img",
        "<img src=",
        "<a href=",
        "[x]",
        "](",
        "]:",
        "![",
        "&lt;",
        "&#60;",
        "&colon;",
    ),
    *("\u200b", "\u202e", "\u2060", "\ufeff", "\u00ad", "\u200d", "\x1b]8;;", "\x00", "\u2028"),
    *(
        "127.0.0.1:8080",
        "localhost",
        "/x",
        "a@b.com",
        "```",
        "~~~",
        "<!--",
        "-->",
        "<?",
        "<![CDATA[",
    ),
    *("\uff3b", "\uff08", "\u3010", "\u3002", "é", "漢", "xn--p1ai", "[1]", "    "),
    *(".click", "[99]", "\u30101\u3011", "[](x)", "\\href{", "http:", "\u3164", "\u2800", "\ufe0f"),
)
texts = st.lists(st.sampled_from(PARTS), max_size=25).map("".join)

ALIVE = (
    "![x](http://evil.com/a.png)",
    "![x](<http://evil.com/a b.png> 'title')",
    "[x](http://evil.com)",
    "[![x](http://evil.com/a.png)](http://evil.com)",
    "[x][1]\n\n[1]: http://evil.com",
    "![x]\n\n[x]: http://evil.com/a.png",
    "[x]:\nhttp://evil.com\n\n[x]",
    "<http://evil.com>",
    "<img src=http://evil.com/a.png>",
    "<svg/onload=fetch('//evil.com')>",
    "<iframe srcdoc='<img src=//evil.com>'></iframe>",
    "<a@evil.com>",
    "http://evil.com/?q=secret",
    "//evil.com/x",
    "//localhost/x",
    "http://127.0.0.1:8080/x",
    "http://[::1]:8080/x",
    "www.evil.com",
    "evil.com:8080/x",
    "someone@evil.com",
    "mailto:someone@evil",
    "evil.рф",
    "evil.click",
    "evil.bank/login",
    "evil.भारत",
    "httphttp://://evil.com",
    "ht\u200btp://evil.com",
    "![x]\u200b(http://evil.com)",
    "http:`//evil.com`",
    "`a` setup.py `b`",
    "\\setup.py and \\`evil.py`",
    "http&colon;//evil.com",
    "[[[[a](http://a.com)](http://b.com)](http://c.com)](http://d.com)",
)


@pytest.mark.parametrize("text", ALIVE)
def test_what_is_alive_as_markdown_is_words_afterwards(text: str) -> None:
    assert rendered.effects(plain(text)) == []


def test_the_examples_are_alive_before() -> None:
    dead = [text for text in ALIVE if not rendered.effects(text)]

    # These come to life only in other programs, or when something else is removed first.
    assert len(dead) <= 8


@settings(max_examples=1500)
@given(texts)
@example("[a](b`c.py`)")
@example("_evil.com_")
@example("www.()")
@example("1|.com")
def test_no_text_links_loads_or_runs_anything(text: str) -> None:
    assert rendered.effects(plain(text)) == []


@settings(max_examples=800)
@given(texts)
def test_a_linker_of_plain_text_finds_file_names_at_most(text: str) -> None:
    assert [url for url in rendered.links(plain(text)) if not url.endswith(".py")] == []


@settings(max_examples=800)
@given(st.lists(texts, max_size=4), st.sampled_from((" ", "\n")))
def test_sentences_made_plain_one_by_one_are_plain_together(parts: list[str], gap: str) -> None:
    assert rendered.effects(gap.join(map(plain, parts))) == []


@settings(max_examples=800)
@given(texts)
def test_a_text_without_its_own_marks_is_plain_and_has_none(text: str) -> None:
    shown = settled(text, unmarked)

    assert plain(shown) == shown
    assert MARK.search(shown) is None
    assert rendered.effects(f"{shown} [1] {shown} [2]") == []


@settings(max_examples=800)
@given(texts, st.sampled_from(("[99]", "[1]", "[](x)")), st.sampled_from(("", " ", "[1]")))
def test_a_text_is_settled_when_nothing_changes_it_any_more(text: str, old: str, new: str) -> None:
    def change(text: str) -> str:
        return text.replace(old, new)

    shown = settled(text, change)

    assert plain(shown) == shown == shown.strip()
    assert change(shown) == shown


def test_a_change_that_never_comes_to_an_end_is_given_up_with_the_brackets() -> None:
    def change(text: str) -> str:
        return text.replace("[9", "[99")

    assert settled("a [9] b", change) == f"a ({'9' * 21}) b"


@pytest.mark.parametrize(
    ("given", "shown"),
    [
        ("It was replaced.[2][3, 4]", "It was replaced.(2)(3, 4)"),
        ("so \u301012\u3011, and [\u0661]", "so (12), and (\u0661)"),
        ("a[i], [x], [1a], []", "a[i], [x], [1a], []"),
    ],
)
def test_marks_of_a_text_itself_are_told_from_ours(given: str, shown: str) -> None:
    assert unmarked(given) == shown


@settings(max_examples=800)
@given(texts)
def test_plain_text_stays_as_it_is(text: str) -> None:
    assert plain(plain(text)) == plain(text)


# These letters are blank.
FILLERS = "\u115f\u1160\u3164\uffa0"


@given(st.text(st.characters(categories=("L", "N", "Zs"), exclude_characters=FILLERS), max_size=80))
def test_words_and_numbers_are_not_touched(text: str) -> None:
    assert plain(text) == text


@pytest.mark.parametrize(
    ("given", "shown"),
    [
        ("See ![the plan](http://evil.com/p.png) now", "See the plan now"),
        ("Read [the manual](https://docs.example.com/m) first.", "Read the manual first."),
        ("It is [1](http://evil.com) so.", "It is [1] so."),
        ("At https://docs.example.com/m?x=1.", "At docs.example[.]com/m?x=1."),
        ("Write to a.b@example.org!", "Write to a.b@example[.]org!"),
        ("Run setup.py, then core/main.py:12.", "Run `setup.py`, then core/main.py:12."),
        ("Set it in pg_hba.conf (9.6, e.g. 3.11.2).", "Set it in pg_hba.conf (9.6, e.g. 3.11.2)."),
        ("a < b, x->y and R&D", "a < b, x->y and R&D"),
        ("List<int>", "List< int>"),
        ("data: five; Node.js", "data: five; Node.js"),
        ("javascript:alert(1)", "javascript: alert(1)"),
        ("works![1]", "works![1]"),
        ("a // b, a//b", "a // b, a//b"),
        ("torch.cuda, v1.2rc, app.conf", "torch.cuda, v1.2rc, app.conf"),
        (r"\href{http:evil.bank}{x}", r"\ href{http: evil[.]bank}{x}"),
    ],
)
def test_the_words_stay(given: str, shown: str) -> None:
    assert plain(given) == shown


def test_hidden_characters_go_and_those_that_scripts_need_stay() -> None:
    assert visible("a\u200bb\u202ec\x1bd\U000e0041e\ufefff") == "abcdef"
    assert visible("a\tb\nc") == "a\tb\nc"
    assert (
        visible("\u06cc\u200c\u062e \u094d\u200d\u0937") == "\u06cc\u200c\u062e \u094d\u200d\u0937"
    )
    assert visible("ht\u200ctp") == "http"
    assert visible(f"a{FILLERS}b\u034fc\u2800d") == "abc d"


def test_of_a_row_of_variants_the_first_stays() -> None:
    hidden = "".join(chr(0xE0100 + ord(letter)) for letter in "do evil")

    assert (
        visible(f"\u2764\ufe0f and \u845b\U000e0100{hidden}") == "\u2764\ufe0f and \u845b\U000e0100"
    )


def test_no_ending_of_a_host_stays_behind_a_dot() -> None:
    tops = sorted(TOPS | TOPS_OF_OTHER_SCRIPTS)

    assert len(tops) > 1100
    assert [top for top in tops if plain(f"See evil.{top}.") != f"See evil[.]{top}."] == []


def test_long_texts_take_no_longer_than_they_are_long() -> None:
    # Ten thousand openings that never close: a pattern that looks back from each would take minutes.
    for part in ("[", "![", "](", "<", "http:", "a.", "a@", "[[x](", "//", "&#", "1.1.1.", "a-"):
        plain(part * 10_000)
