"""How text becomes terms: laws that hold for any text."""

# ruff: noqa: RUF001 -- letters that look like others are what this is about

from __future__ import annotations

import re
import unicodedata

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from ragline.core import lexical
from ragline.core.stopwords import STOP_WORDS
from ragline.errors import UsageError

texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=60)
languages = st.sampled_from(["simple", "english", "german", "turkish", "arabic"])


@given(texts)
@example("™ ℡ ϒ 𝐀 ㎅")
@example("İstanbul ΣΊΣΥΦΟΣ Straße ﬁ ŉ ΐ")
@example("ầ ậ Đ đ ǅ")
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
    ],
)
def test_words_that_a_reader_takes_for_the_same_have_the_same_terms(one: str, other: str) -> None:
    assert lexical.terms(one, "simple") == lexical.terms(other, "simple")


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
