"""Which files are found, and which are named as left out."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from ragline.errors import NotFound, UsageError
from ragline.rag import files
from ragline.rag.files import Found, Skipped, find


def write(folder: Path, *names: str, text: str = "Words.") -> None:
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


def names(folder: Path, *ignore: str) -> list[str]:
    return [
        one.path.relative_to(folder.resolve()).as_posix()
        for one in find([folder], ignore)
        if isinstance(one, Found)
    ]


def skipped(*paths: Path, size_limit_bytes: int = 1000) -> list[tuple[str, str, bool]]:
    return [
        (one.path.name, one.reason, one.is_rejection)
        for one in find(paths, (), size_limit_bytes)
        if isinstance(one, Skipped)
    ]


def test_folders_are_walked_in_order_without_what_is_hidden_or_generated(tmp_path: Path) -> None:
    write(tmp_path, "b.md", "a/c.txt", "a/b.html", ".hidden.md", ".git/x.md", "venv/x.md")
    write(tmp_path, "node_modules/x.md", "__pycache__/x.md", ".venv/x.md", "z/.secret/x.md")

    assert names(tmp_path) == ["a/b.html", "a/c.txt", "b.md"]


def test_a_file_says_where_it_is(tmp_path: Path) -> None:
    write(tmp_path, "a.md")
    (tmp_path / "inner").mkdir()

    assert list(find([tmp_path / "inner" / ".." / "a.md"])) == [
        Found(
            path=tmp_path.resolve() / "a.md",
            source=(tmp_path.resolve() / "a.md").as_posix(),
            size=6,
            root=tmp_path.resolve(),
            media_type="text/markdown",
        )
    ]


def test_a_file_reached_twice_is_found_once(tmp_path: Path) -> None:
    write(tmp_path, "a/x.md")
    (tmp_path / "link.md").symlink_to(tmp_path / "a" / "x.md")

    found = list(find([tmp_path, tmp_path / "a", tmp_path / "a" / "x.md"]))

    assert [one.source for one in found] == [(tmp_path.resolve() / "a/x.md").as_posix()]


def test_patterns_are_those_of_gitignore(tmp_path: Path) -> None:
    write(tmp_path, "keep.md", "drafts/a.md", "a/drafts/b.md", "a/b.txt", "a/c.txt", "top.md")

    assert names(tmp_path, "drafts/", "*.txt", "!c.txt", "/top.md") == ["a/c.txt", "keep.md"]


def test_an_ignore_file_counts_for_its_folder(tmp_path: Path) -> None:
    write(tmp_path, "a/x.md", "a/y.md", "b/x.md", "b/y.md")
    (tmp_path / ".raglineignore").write_text("y.md\n")
    (tmp_path / "a" / ".raglineignore").write_text("# a comment\n/x.md\n!y.md\n")

    assert names(tmp_path) == ["a/y.md", "b/x.md"]


def test_an_ignore_file_may_be_a_link(tmp_path: Path) -> None:
    write(tmp_path, "a.md", "b.txt")
    (tmp_path / "patterns").write_text("*.txt\npatterns\n")
    (tmp_path / ".raglineignore").symlink_to(tmp_path / "patterns")

    assert names(tmp_path) == ["a.md"]


def test_a_missing_path_is_named(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match=r"gone\.md"):
        list(find([tmp_path, tmp_path / "gone.md"]))


def test_symlinks_never_lead_out_or_in_circles(tmp_path: Path) -> None:
    folder = tmp_path / "docs"
    write(tmp_path, "secret.md", "private/x.md", "docs-other/x.md")
    write(folder, "sub/a.md")
    (folder / "out.md").symlink_to(tmp_path / "secret.md")
    (folder / "out").symlink_to(tmp_path / "private")
    (folder / "sibling").symlink_to(tmp_path / "docs-other")
    (folder / "sub" / "up").symlink_to(folder)
    (folder / "loop.md").symlink_to(folder / "loop.md")
    (folder / "dangling.md").symlink_to(folder / "nothing")

    assert names(folder) == ["sub/a.md"]
    assert skipped(folder) == [
        ("dangling.md", "UNREADABLE", True),
        ("loop.md", "UNREADABLE", True),
        ("out", "SYMLINK_OUTSIDE", True),
        ("out.md", "SYMLINK_OUTSIDE", True),
        ("sibling", "SYMLINK_OUTSIDE", True),
    ]


def test_an_unsupported_file_is_a_rejection_only_when_named(tmp_path: Path) -> None:
    write(tmp_path, "movie.mp4")

    assert skipped(tmp_path) == [("movie.mp4", "UNSUPPORTED", False)]
    assert skipped(tmp_path / "movie.mp4") == [("movie.mp4", "UNSUPPORTED", True)]


def test_files_too_large_special_or_badly_named_are_rejected(tmp_path: Path) -> None:
    write(tmp_path, "large.md", text="x" * 1001)
    write(tmp_path, "fits.md", text="x" * 1000)
    os.mkfifo(tmp_path / "pipe.md")
    Path(os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9.md")).write_text("Words.")

    assert [(reason, rejected) for _, reason, rejected in skipped(tmp_path)] == [
        ("UNREADABLE", True),
        ("TOO_LARGE", True),
        ("UNREADABLE", True),
    ]
    for one in find([tmp_path]):
        assert one.source.encode()


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")
def test_an_unreadable_file_or_folder_is_rejected(tmp_path: Path) -> None:
    write(tmp_path, "a.md", "sub/b.md", "z.md")
    (tmp_path / "a.md").chmod(0)
    (tmp_path / "sub").chmod(0)
    try:
        assert skipped(tmp_path) == [("a.md", "UNREADABLE", True), ("sub", "UNREADABLE", True)]
        assert names(tmp_path) == ["z.md"]
    finally:
        (tmp_path / "sub").chmod(0o700)


def test_folders_nested_without_end_are_rejected(tmp_path: Path) -> None:
    write(tmp_path, "a.md")
    folder = tmp_path
    for _ in range(210):
        folder /= "d"
        folder.mkdir()
    (folder / "deep.md").write_text("Words.")

    assert names(tmp_path) == ["a.md"]
    assert skipped(tmp_path) == [("d", "TOO_DEEP", True)]


def test_a_folder_whose_ignore_file_is_too_long_is_left_out_whole(tmp_path: Path) -> None:
    write(tmp_path, "a.md", "sub/b.md")
    (tmp_path / "sub" / ".raglineignore").write_text("x\n" * 600_000)

    assert names(tmp_path) == ["a.md"]
    assert skipped(tmp_path) == [("sub", "UNREADABLE", True)]


def test_what_tools_generate_is_not_mentioned(tmp_path: Path) -> None:
    write(tmp_path, "a.js", "a.min.js", "a.min.css", "package-lock.json", "pnpm-lock.yaml")

    assert names(tmp_path) == ["a.js"]
    assert skipped(tmp_path) == []


def test_files_of_rows_may_be_of_any_size(tmp_path: Path) -> None:
    write(tmp_path, "rows.csv", "rows.jsonl", "long.md", text="x" * 2000)

    assert skipped(tmp_path) == [("long.md", "TOO_LARGE", True)]


@pytest.mark.parametrize(
    "pattern", ["!", "\\", "a\\", "[z-a]", "*a" * 30 + "*b", "**/" * 30 + "x", "x" * 5000]
)
def test_a_folder_whose_patterns_cannot_be_used_is_left_out_whole(
    tmp_path: Path, pattern: str
) -> None:
    write(tmp_path, "a.md", "sub/b.md", "sub/deep/c.md", "sub/" + "a" * 200 + ".md")
    (tmp_path / "sub" / ".raglineignore").write_text(f"# ***** of a comment\n{pattern}\n")

    assert names(tmp_path) == ["a.md"]
    assert skipped(tmp_path) == [("sub", "BAD_IGNORE_FILE", True)]


def test_patterns_that_take_too_long_end_their_folder_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(files, "_MATCH_EACH_S", -1.0)
    write(tmp_path, *(f"sub/{n}.md" for n in range(9)), "sub/x/y.md", "z.md")
    (tmp_path / "sub" / ".raglineignore").write_text("*.html\n")

    assert names(tmp_path)[-1] == "z.md"
    assert skipped(tmp_path) == [("sub", "BAD_IGNORE_FILE", True)]
    assert len(names(tmp_path, "*.txt")) < 9


@pytest.mark.parametrize("pattern", ["!", "[z-a]"])
def test_a_bad_pattern_of_the_user_is_said(tmp_path: Path, pattern: str) -> None:
    with pytest.raises(UsageError, match="ignore patterns"):
        names(tmp_path, pattern)
