"""How text becomes terms: laws that hold for any text."""

# ruff: noqa: RUF001 -- letters that look like others are what this is about

from __future__ import annotations

import re
import unicodedata

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from growth import is_linear
from ragline.core import lexical
from ragline.core.stopwords import STOP_WORDS
from ragline.errors import UsageError

# Any text, and text of scripts that ask for more than a split at spaces.
_SCRIPTS = (
    "漢字かなカナ가각ไทยน้ำລາວខ្មែរမြန်မာहिन्दीবাংলাதமிழ்عربيעברית йёї ｶﾞﾊﾟ Việt ß１٢ \u3099\u093c\u200d"
)
texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=60) | st.text(
    st.sampled_from(_SCRIPTS + "ab 1.,"), max_size=40
)
languages = st.sampled_from(["simple", "english", "german", "turkish", "arabic"])


@given(texts)
@example("™ ℡ ϒ 𝐀 ㎅")
@example("İstanbul ΣΊΣΥΦΟΣ Straße ﬁ ŉ ΐ")
@example("ầ ậ Đ đ ǅ")
@example("й\u200d\u3099 и\u3099\u0306 и\u0301\u0306 й\u0323 \u0456\u200d\u0308")
def test_folding_twice_is_folding_once(text: str) -> None:
    folded = lexical.fold(text)

    assert lexical.fold(folded) == folded
    assert folded.casefold() == folded


@given(texts)
@example("ᾴ Ḝ ǖ ệ 각")
def test_composed_and_decomposed_text_have_the_same_terms(text: str) -> None:
    forms = {
        tuple(lexical.terms(unicodedata.normalize(form, text), "simple"))
        for form in ("NFC", "NFD", "NFKC", "NFKD")
    }

    assert len(forms) == 1


@given(texts)
def test_capitals_do_not_matter(text: str) -> None:
    assert lexical.fold(text.casefold()) == lexical.fold(text)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("nhà thầu", "nha thau"),
        ("NHÀ THẦU ĐƯỜNG", "nha thau duong"),
        ("Straße", "STRASSE"),
        ("ﬁle", "file"),
        ("Acme™", "acmetm"),
        ("ＦＵＬＬ　ｗｉｄｔｈ", "full width"),
        ("ΟΔΟΣ", "οδος"),
        ("naïve café", "NAIVE CAFE"),
        ("Łódź Ærø œuvre", "LODZ AERO OEUVRE"),
        ("ﾊﾝｶｸ ｶﾞｽ", "ハンカク ガス"),
        ("ISPARTA İzmir", "ısparta izmir"),
        ("мёд", "мед"),
        ("הַמְּנוֹרָה", "המנורה"),
        ("مُحَمَّدٌ كـــتاب", "محمد كتاب"),
        ("٢٠٢٤ २०२४", "2024 2024"),
        ("ज़रूर", "ज़रूर"),
        ("ज़रूर", "जरूर"),
        ("a\u00adb می\u200cخواهم", "ab میخواهم"),
    ],
)
def test_words_that_a_reader_takes_for_the_same_have_the_same_terms(one: str, other: str) -> None:
    assert lexical.terms(one, "simple") == lexical.terms(other, "simple")


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("が", "か"),
        ("й", "и"),
        ("ї", "і"),
        ("का", "की"),
        ("ก้า", "กา"),
        ("가", "고"),
        ("中国", "国中"),
    ],
)
def test_marks_that_make_another_letter_are_kept(one: str, other: str) -> None:
    assert lexical.terms(one, "simple") != lexical.terms(other, "simple")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("हिन्दी भाषा", ["हिन्दी", "भाषा"]),
        ("தமிழ் மொழி", ["தமிழ்", "மொழி"]),
        ("বাংলা ভাষা।", ["বাংলা", "ভাষা"]),
        ("മലയാളം ಕನ್ನಡ తెలుగు", ["മലയാളം", "ಕನ್ನಡ", "తెలుగు"]),
    ],
)
def test_words_keep_their_vowel_signs(text: str, words: list[str]) -> None:
    assert lexical.terms(text, "simple") == words


@pytest.mark.parametrize(
    ("text", "pairs"),
    [
        ("東京都", ["東京", "京都"]),
        ("猫の飼い方", ["猫の", "の飼", "飼い", "い方"]),
        ("データベース", ["デー", "ータ", "タベ", "ベー", "ース"]),
        ("계약이 끝나다", ["계약", "약이", "끝나", "나다"]),
        ("น้ำดื่ม", ["น้ํา", "าดื่", "ดื่ม"]),
        ("茶", ["茶"]),
        ("PostgreSQL数据库15版", ["postgresql", "数据", "据库", "15", "版"]),
    ],
)
def test_runs_without_spaces_are_pairs_of_letters_with_their_marks(
    text: str, pairs: list[str]
) -> None:
    for language in ("simple", "english", "hindi"):
        assert lexical.question_terms(text, language) == pairs
        assert set(pairs) <= set(lexical.terms(text, language))


@pytest.mark.parametrize(
    ("text", "letter"), [("喝茶的人", "茶"), ("猫の飼い方", "猫"), ("집에서", "집")]
)
def test_one_letter_that_is_a_word_is_found_inside_a_run(text: str, letter: str) -> None:
    assert set(lexical.question_terms(letter, "simple")) <= set(lexical.terms(text, "simple"))


@given(texts)
def test_every_letter_is_in_some_term(text: str) -> None:
    cut = "\n".join(lexical.terms(text, "simple"))

    assert {c for c in lexical.fold(text) if c.isalnum()} <= set(cut)


@given(texts, texts, languages)
def test_a_part_of_a_text_between_spaces_gives_its_own_terms(
    one: str, other: str, language: str
) -> None:
    both = lexical.terms(f"{one} {other}", language)

    assert both == lexical.terms(one, language) + lexical.terms(other, language)


@pytest.mark.parametrize(
    "text",
    [
        "漢",
        "漢\u3099",
        "a\u3099",
        "\u3099",
        "ก\u0e49",
        "か",
        "한",
        "я\u0306",
        "\u200d",
        "é",
        "क्",
        "1漢",
    ],
)
def test_time_grows_with_the_text_and_not_with_its_square(text: str) -> None:
    assert is_linear(lambda size: lexical.term_counts(text * size, "english"), 200_000)


def test_russian_words_meet_in_their_stem() -> None:
    assert len(set(lexical.terms("красивый красивая красивые", "russian"))) == 1


# The snowball configurations of PostgreSQL 18, as `select cfgname from pg_ts_config` lists them.
_OF_POSTGRESQL = """
    arabic armenian basque catalan danish dutch english estonian finnish french german greek hindi
    hungarian indonesian irish italian lithuanian nepali norwegian portuguese romanian russian serbian
    simple spanish swedish tamil turkish yiddish
"""


def test_every_language_of_postgresql_is_offered() -> None:
    assert set(_OF_POSTGRESQL.split()) <= set(lexical.LANGUAGES)


@given(texts, languages)
def test_terms_are_words_of_bounded_length(text: str, language: str) -> None:
    for term in lexical.terms(text, language):
        assert 0 < len(term) <= lexical.LONGEST_TERM
        assert "\0" not in term


@given(texts, languages)
def test_counts_add_up_to_the_terms(text: str, language: str) -> None:
    counts = lexical.term_counts(text, language)

    assert sum(counts.values()) == len(lexical.terms(text, language))
    assert set(counts) == set(lexical.terms(text, language))


@given(texts, languages)
def test_a_question_with_a_word_has_terms_and_they_are_those_of_documents(
    text: str, language: str
) -> None:
    asked, there = lexical.question_terms(text, language), lexical.terms(text, language)

    assert set(asked) <= set(there)
    assert bool(asked) == bool(there)


@given(st.lists(st.sampled_from(sorted(STOP_WORDS["english"])), min_size=1, max_size=8))
def test_a_question_of_stop_words_alone_keeps_them(words: list[str]) -> None:
    text = " ".join(words)

    assert lexical.question_terms(text, "english") == lexical.terms(text, "english")


def test_stop_words_leave_a_question_that_has_others() -> None:
    assert lexical.question_terms("How do I restart the server?", "english") == [
        "restart",
        "server",
    ]


def test_stop_words_are_written_as_folded_text_is() -> None:
    for words in STOP_WORDS.values():
        assert all(re.fullmatch(r"[^\W_]+", w) and lexical.fold(w) == w for w in words)


def test_inflected_words_meet_in_their_stem() -> None:
    assert len(set(lexical.terms("connect connected connecting connections", "english"))) == 1
    assert len(set(lexical.terms("connect connected", "simple"))) == 2


@pytest.mark.parametrize("language", lexical.LANGUAGES)
def test_every_language_cuts_words(language: str) -> None:
    assert lexical.check_language(language) == language
    assert len(lexical.terms("one two " + "x" * 500, language)) == 3


def test_an_unknown_language_is_refused_with_those_that_are_known() -> None:
    with pytest.raises(UsageError, match=r"'klingon' is not known; use one of simple, .*english"):
        lexical.terms("word", "klingon")
