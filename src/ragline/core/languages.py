"""Which language a question is in, as far as its letters and its small words tell.

The answer decides whether the vectors of a model have a say, and a wrong "another language" costs an
English question half of its search. So nothing is guessed: a question of names and nouns alone is in
the language of its collection. Decision 009 has the measurements, also of libraries that guess.
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from functools import lru_cache
from types import MappingProxyType

from ragline.core.lexical import fold
from ragline.core.small_words import SMALL_WORDS
from ragline.core.stopwords import STOP_WORDS

# The languages of lexical.LANGUAGES by ISO 639-1 code; "simple" has none.
CODES: Mapping[str, str] = MappingProxyType(
    {
        "arabic": "ar", "armenian": "hy", "basque": "eu", "catalan": "ca", "czech": "cs",
        "danish": "da", "dutch": "nl", "dutch_porter": "nl", "english": "en", "esperanto": "eo",
        "estonian": "et", "finnish": "fi", "french": "fr", "german": "de", "greek": "el",
        "hindi": "hi", "hungarian": "hu", "indonesian": "id", "irish": "ga", "italian": "it",
        "lithuanian": "lt", "nepali": "ne", "norwegian": "no", "persian": "fa", "polish": "pl",
        "porter": "en", "portuguese": "pt", "romanian": "ro", "russian": "ru", "serbian": "sr",
        "sesotho": "st", "spanish": "es", "swedish": "sv", "tamil": "ta", "turkish": "tr",
        "yiddish": "yi",
    }
)  # fmt: skip

# By the first word of a letter's Unicode name. The first language stands for the script when neither
# the collection nor the model knows a better one.
_OF_SCRIPT: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "ARABIC": ("ar", "fa", "ur", "ps", "ug", "ckb"), "ARMENIAN": ("hy",),
        "BENGALI": ("bn", "as"), "BOPOMOFO": ("zh",), "CJK": ("zh", "ja"),
        "CYRILLIC": ("ru", "uk", "bg", "sr", "be", "mk", "kk", "ky", "mn", "tg"),
        "DEVANAGARI": ("hi", "mr", "ne", "sa"), "ETHIOPIC": ("am", "ti"), "GEORGIAN": ("ka",),
        "GREEK": ("el",), "GUJARATI": ("gu",), "GURMUKHI": ("pa",), "HANGUL": ("ko",),
        "HEBREW": ("he", "yi"), "HIRAGANA": ("ja",), "KANNADA": ("kn",), "KATAKANA": ("ja",),
        "KHMER": ("km",), "LAO": ("lo",), "MALAYALAM": ("ml",), "MYANMAR": ("my",), "ORIYA": ("or",),
        "SINHALA": ("si",), "TAMIL": ("ta",), "TELUGU": ("te",), "THAI": ("th",), "TIBETAN": ("bo",),
    }
)  # fmt: skip
# A letter of these scripts is worth several of an alphabet.
_DENSE = frozenset(("BOPOMOFO", "CJK", "HANGUL", "HIRAGANA", "KATAKANA"))
_LETTERS_OF_A_DENSE_ONE = 3

_MANY = frozenset(("mul", "multilingual", "und", "*"))
_SAME_LANGUAGE: Mapping[str, str] = MappingProxyType(
    {"nb": "no", "nn": "no", "iw": "he", "in": "id", "ji": "yi", "mo": "ro", "eng": "en"}
)

_VIETNAMESE = re.compile("[\u01a1\u01b0\u1ea0-\u1ef9]")
_ACCENTED_VIETNAMESE = re.compile("[\u0103\u0111\u01a1\u01b0\u1ea0-\u1ef9àáâãèéêìíòóôõùúý]")

# They stand in names all over the world, "Rio de la Plata": they count beside other small words only.
_IN_NAMES = frozenset("al au aux de del des du el en la las le les los".split())
_FEW_ACCENTED = 3

_ENGLISH = STOP_WORDS["english"]
_WORD = re.compile("[a-z]+")
_ACCENT = re.compile("[\u00a1\u00bf-\u024f]")


@lru_cache(maxsize=1024)
def foreign(text: str, collection: str, known: tuple[str, ...]) -> str | None:
    """Return the language of a question when a model does not know it; None when it may.

    `collection` is one of lexical.LANGUAGES, `known` the codes that the model names: none, or "mul" for
    many, means that nobody can tell.

    >>> foreign("nhà thầu là ai?", "english", ("en",))
    'vi'
    >>> foreign("nhà thầu là ai?", "english", ())
    """
    codes = {_plain_code(code) for code in known}
    if not codes or codes & _MANY:
        return None
    language = question_language(text, CODES.get(collection), codes)
    return None if language is None or language in codes else language


def unknown(collection: str, known: tuple[str, ...]) -> str | None:
    """Return the code of a collection's language when a model does not know it; None when it may.

    >>> unknown("german", ("en", "fr"))
    'de'
    >>> unknown("simple", ("en",))
    """
    codes = {_plain_code(code) for code in known}
    language = CODES.get(collection)
    if not codes or codes & _MANY or language in codes:
        return None
    return language


def question_language(
    text: str, hint: str | None = None, among: Collection[str] = ()
) -> str | None:
    """Return the ISO 639-1 code of the language that `text` is in, or None when it cannot be told.

    `hint` is the code of the collection's language: what plain Latin letters are taken for unless the
    text clearly is in another language. Where several languages fit, the hint goes before those in
    `among`, and they before others.

    >>> question_language("계약 기간은 얼마입니까?", "en")
    'ko'
    >>> question_language("wie setze ich das Passwort zurück", "en")
    'de'
    >>> question_language("PostgreSQL 18 release notes", "en")
    'en'
    """
    scripts = _scripts(text)
    latin = scripts.pop("LATIN", 0)
    if sum(scripts.values()) > latin:
        return _chosen(_fitting(scripts), hint, among)
    if not latin:
        return None
    if _is_vietnamese(text):
        return "vi"
    return _chosen(_by_small_words(text), hint, among) or hint


def _plain_code(code: str) -> str:
    """Return "pt" for "pt-BR", "no" for "nb"."""
    plain = re.split("[-_]", code.strip().lower())[0]
    return _SAME_LANGUAGE.get(plain, plain)


def _scripts(text: str) -> Counter[str]:
    """Return how much of the text is in each script, in letters of an alphabet."""
    found: Counter[str] = Counter()
    for letter in filter(str.isalpha, unicodedata.normalize("NFKC", text)):
        script = "LATIN" if letter.isascii() else unicodedata.name(letter, "?").split()[0]
        if script in ("KATAKANA-HIRAGANA", "IDEOGRAPHIC"):
            script = "KATAKANA" if script.startswith("K") else "CJK"
        found[script] += _LETTERS_OF_A_DENSE_ONE if script in _DENSE else 1
    return found


def _fitting(scripts: Counter[str]) -> Sequence[str]:
    if scripts["HIRAGANA"] + scripts["KATAKANA"] and not scripts["HANGUL"]:
        return ("ja",)
    ((script, _),) = scripts.most_common(1)
    return _OF_SCRIPT.get(script, ())


def _chosen(fitting: Sequence[str], hint: str | None, among: Collection[str]) -> str | None:
    if hint in fitting:
        return hint
    return next((code for code in fitting if code in among), next(iter(fitting), None))


def _is_vietnamese(text: str) -> bool:
    """Whether words have letters of Vietnamese alone, and most words some of its letters.

    Two such words are a name or a dish in a question in any language, unless there is nothing else.
    """
    words = unicodedata.normalize("NFC", text).split()
    accented = [word for word in words if _ACCENTED_VIETNAMESE.search(word.lower())]
    if not any(_VIETNAMESE.search(word.lower()) for word in accented):
        return False
    if len(accented) < _FEW_ACCENTED or all(word[0].isupper() for word in accented):
        return accented == words and not any(word[0].isupper() for word in words)
    return len(accented) * 2 >= len(words)


def _by_small_words(text: str) -> Sequence[str]:
    """Return the languages with most of the small words that English has not, if there are enough.

    Two such words, one of them no part of names, or one beside an accent where no word is English; and
    more than twice the words of English that the language has not.
    """
    words = set(_WORD.findall(fold(text)))
    english = words & _ENGLISH
    # Single letters are names of things in code and formulas more often than words.
    others = {word for word in words - _ENGLISH if len(word) > 1}
    # Of an accented name, such as "São" in "São Paulo", the word itself does not count.
    plain: set[str] = set()
    telling = others - _IN_NAMES
    if not english and _ACCENT.search(composed := unicodedata.normalize("NFC", text)):
        plain = others & set(composed.lower().split())
    found = {
        code: count
        for code, small in SMALL_WORDS.items()
        if telling & small
        and ((count := len(others & small)) >= 2 or plain & small - _IN_NAMES)
        and count > 2 * len(english - small)
    }
    if not found:
        return ("en",) if len(english) >= 2 else ()
    most = max(found.values())
    return [code for code, count in found.items() if count == most]
