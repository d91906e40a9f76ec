"""Text of strangers made harmless to show: no image, link, tag or address that anything follows.

Answers are shown by programs that we do not know: a terminal, a chat that unfurls addresses, a page
that renders Markdown with HTML. What a document, or a model that obeys one, writes must not make any
of them fetch or offer something. So an answer's text is cut down to words: the words of a link stay,
what makes it a link goes, and an address is written so that people can read it and programs do not
follow it (`example[.]com/path`). Citation marks, `[1]`, stay as they are.

Whatever else changes a text goes through `settled`, which makes it plain last: a text that was plain
and then lost some of its characters may be anything.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable

from ragline.core.tops import TOPS, TOPS_OF_OTHER_SCRIPTS

# `![words](target)` and `[words](target)`; a target may hold one level of parentheses.
_INLINE = re.compile(
    r"!?\[(?P<words>[^\[\]\n]{0,1000})\]\((?:[^()\n]|\([^()\n]{0,1000}\)){0,2000}\)"
)
_DEEPEST = 20
_HIDDEN = frozenset(("Cc", "Cf", "Cs", "Co", "Zl", "Zp"))
_KEPT = frozenset("\n\t\u200c\u200d")
# Letters and marks that show nothing all the same; the blank of Braille is a space.
_BLANK = re.compile("[\u034f\u115f\u1160\u17b4\u17b5\u180b-\u180f\u3164\uffa0]")
_BRAILLE_SPACE = "\u2800"
# One chooses how the character before it looks; of a row of them, all but the first only carry data.
_MORE_VARIANTS = re.compile(
    "(?<=[\ufe00-\ufe0f\U000e0100-\U000e01ef])[\ufe00-\ufe0f\U000e0100-\U000e01ef]+"
)
_JOINERS = re.compile("[\u200c\u200d]+")
# A citation mark in any digits, with the brackets and commas of Chinese and Japanese as well.
MARK = re.compile(r"[\[\u3010\uff3b]\s{0,9}(\d[\d\s,;\uff0c\u3001\uff1b]{0,99})[\]\u3011\uff3d]")
_TO_PARENTHESES = str.maketrans("[\u3010\uff3b]\u3011\uff3d", "((()))")
_BREAKS = (
    (re.compile(r"\](?=[(:])"), "] "),  # a link's target, a link's definition
    (re.compile(r"<(?=[A-Za-z/!?])"), "< "),  # a tag, a comment, an address in angle brackets
    (re.compile(r"&(?=#?[0-9A-Za-z]{1,31};)"), "& "),  # a character written as its number or name
    # What links and loads in mathematics.
    (re.compile(r"\\(?=(?:href|url|includegraphics|require|html[A-Z]?[a-z]*)\b)"), "\\ "),
)
_SCHEME = re.compile(
    r"[A-Za-z][A-Za-z0-9+.\-]{0,30}:[\\/]{2,}|(?<![A-Za-z0-9])[\\/]{2,}(?=[^\s\\/])"
)
# Schemes that need no slashes. A space after the colon leaves a word and takes the effect.
_BARE_SCHEME = re.compile(
    r"(?i)\b(https?|ftps?|wss?|javascript|vbscript|data|mailto|tel|sms|file|blob|about|intent|magnet"
    r"|skype|facetime|callto|xmpp|vscode|view-source):(?=\S)"
)
_NUMBERED_HOST = re.compile(r"\b(?:[0-9]{1,3}\.){3}[0-9]{1,3}(?=:[0-9]|/\S)")
_MAIL = re.compile(r"(?<=\S)@[\w\-]{1,64}(?:\.[\w\-]{1,64}){1,10}")
# Linkers take nearly anything before the dot for a host, so it is the dot that counts. Letters of
# Indic scripts and Thai have marks among them, which `\w` does not know.
_DOT = re.compile(
    r"(?<=\S)\.(?=(?P<top>[^\W\d_](?:[^\W_]|[-\u0900-\u0963\u0966-\u0dff\u0e00-\u0eff]){0,62})"
    r"(?P<goes_on>[/?#]\S|:[0-9])?)"
)
_WWW = re.compile(r"(?i)(?<![^\W_])www\.(?=\w)")
# Endings of file names that are countries as well: `setup.py` is a file to everybody but a linker.
_FILES = "py md sh rs pl so cc ps ml mk tf sql am la".split()
_FILE = re.compile(
    rf"(?<![^\s(,;\"'])(?P<folder>(?:[\w\-]{{1,64}}/){{0,20}})"
    rf"(?P<file>[\w\-]{{1,64}}\.(?:{'|'.join(_FILES)}))(?![\w\-@/?#\\])(?!\.\S)"
)
# Endings of two letters that are no country: linkers leave them alone, and so do we.
_NO_COUNTRIES = frozenset("js ts hs go cs kt ex gz xz db rb jl vb el".split())


def plain(text: str) -> str:
    """Return `text` as words alone; `plain(plain(text)) == plain(text)`.

    >>> plain("See ![it](http://evil.example/a.png) at https://docs.example.com/x [1].")
    'See it at docs.example[.]com/x [1].'
    """
    text = visible(text).replace("`", "")
    for _ in range(_DEEPEST):  # deeper ones are broken below, and look less tidy
        bare = visible(_SCHEME.sub("", _INLINE.sub(_words, text)))
        if bare == text:
            break
        text = bare
    for pattern, replacement in _BREAKS:
        text = pattern.sub(replacement, text)
    text = _BARE_SCHEME.sub(r"\1: ", text)
    for pattern in (_NUMBERED_HOST, _MAIL, _WWW):
        text = pattern.sub(lambda found: found.group().replace(".", "[.]"), text)
    return _with_files(text)


def settled(text: str, change: Callable[[str], str]) -> str:
    """Return what is left of `text` when neither `plain` nor `change` changes anything any more.

    `change` is about marks alone, and has nothing to do in a text without brackets.
    """
    shown = plain(text).strip()
    for _ in range(_DEEPEST):
        changed = change(shown)
        if changed == shown:
            return shown
        shown = plain(changed).strip()
    return plain(shown.translate(_TO_PARENTHESES)).strip()


def unmarked(text: str) -> str:
    """Return `text` with marks of its own, `[2]`, as `(2)`: nobody takes them for our citations.

    >>> unmarked("It was replaced.[2][3, 4]")
    'It was replaced.(2)(3, 4)'
    """
    return MARK.sub(r"(\1)", text)


def _with_files(text: str) -> str:
    """Return `text` with its names of hosts made unfit for a linker, and those of files as code."""
    parts, at = [], 0
    for found in _FILE.finditer(text):
        # Code is linked by no renderer of Markdown, and behind a folder nothing is taken for a host.
        name = found.group() if found["folder"] else f"`{found['file']}`"
        parts += [_DOT.sub(_unlinked, text[at : found.start()]), name]
        at = found.end()
    return "".join([*parts, _DOT.sub(_unlinked, text[at:])])


def _unlinked(dot: re.Match[str]) -> str:
    return "[.]" if dot["goes_on"] or _is_open_top(dot["top"].casefold().rstrip("-")) else "."


def visible(text: str) -> str:
    """Return `text` without characters that show nothing: controls, and marks that hide or reorder.

    Line breaks and tabs stay, and the joiners that scripts other than Latin need between letters.
    """
    if text.isascii() and text.isprintable():
        return text
    shown = "".join(c for c in text if c in _KEPT or unicodedata.category(c) not in _HIDDEN)
    shown = _MORE_VARIANTS.sub("", _BLANK.sub("", shown.replace(_BRAILLE_SPACE, " ")))
    return _JOINERS.sub(_joiner, shown)


def _joiner(found: re.Match[str]) -> str:
    text = found.string
    around = text[max(0, found.start() - 1) : found.start()] + text[found.end() : found.end() + 1]
    return found.group()[0] if len(around) == 2 and min(around) > "\u02ff" else ""


def _words(link: re.Match[str]) -> str:
    words = link["words"]
    # `[1](…)` was a citation that somebody made a link of.
    return f"[{words}]" if MARK.fullmatch(f"[{words}]") else words


def _is_open_top(top: str) -> bool:
    is_country = len(top) == 2 and top.isascii() and top not in _NO_COUNTRIES
    return is_country or top in TOPS or top in TOPS_OF_OTHER_SCRIPTS or top.startswith("xn--")
