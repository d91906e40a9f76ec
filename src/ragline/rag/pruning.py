"""Which documents have no file any more."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from pathlib import Path

from ragline.errors import UsageError
from ragline.rag import files


def find(
    paths: Sequence[Path], ignore: Sequence[str]
) -> tuple[list[files.Found], list[files.Skipped]]:
    """Return the files below `paths` that are documents, and those that are not."""
    found: list[files.Found] = []
    skipped: list[files.Skipped] = []
    for item in files.find(paths, ignore):
        if isinstance(item, files.Found):
            found.append(item)
        else:
            skipped.append(item)
    return found, skipped


def check_not_emptied(
    collection: str,
    known: Collection[str],
    paths: Sequence[Path],
    present: Sequence[files.Found | files.Skipped],
) -> None:
    """Raise UsageError when all that is known below a path is gone, as from a lost mount."""
    for root in (str(path.resolve()) for path in paths):
        count = sum(is_below(source, root) for source in known)
        if count and not any(is_below(item.source, root) for item in present):
            raise UsageError(
                f"nothing is left below {root!r}, and collection {collection!r} knows {count} "
                "document(s) from there: is it mounted? Nothing was changed; to remove them all, "
                "repeat with --yes (may_empty=True in Python)"
            )


def gone(
    unseen: Iterable[str],
    paths: Sequence[Path],
    ignore: Sequence[str],
    found: Sequence[files.Found],
    rejected: Sequence[str],
) -> list[str]:
    """Return which of the documents that were not seen are to be removed.

    Those below `paths`, but for what is below a file or folder that could not be read or parsed.
    """
    roots = [str(path.resolve()) for path in paths]
    missing = {
        source
        for source in unseen
        if any(is_below(source, root) for root in roots)
        and not any(is_below(source, one) for one in rejected)
    }
    # A file whose name looks like that of a row of `paths`, but which lies elsewhere.
    missing = {s for s in missing if "#" not in s or not _is_elsewhere(s, roots)}
    if any(_has_file(source) for source in missing):
        # Ignored now, or new and brought in by another ingest since we looked: look again.
        now, skipped = find(paths, ignore)
        new = {item.source for item in now} | {item.source for item in skipped}
        new -= {item.source for item in found}
        missing = {s for s in missing if not any(is_below(s, one) for one in new)}
    return sorted(missing)


def is_below(source: str, place: str) -> bool:
    """Whether a document is a file, is in a folder, or is a row of a file."""
    return source == place or source.startswith((place.rstrip("/") + "/", place + "#"))


def _is_elsewhere(source: str, roots: Sequence[str]) -> bool:
    is_in = any(source == root or source.startswith(root.rstrip("/") + "/") for root in roots)
    return not is_in and Path(source).is_file()


def _has_file(source: str) -> bool:
    """Whether a document's file is there; a row's is what stands before one of the `#`."""
    parts = source.split("#")
    return any(Path("#".join(parts[:count])).is_file() for count in range(1, len(parts) + 1))
