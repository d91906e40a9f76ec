"""Policies from files, and those that come with ragline."""

from __future__ import annotations

from importlib import resources
from pathlib import Path

from ragline.core.policies import PRESETS, Policy, policy
from ragline.errors import NotFound, UsageError


def load(name_or_path: str) -> Policy:
    """Return a policy that comes with ragline, or else the one in a TOML file.

    NotFound names what there is; UsageError names the line, the key and the value that is wrong.
    """
    if name_or_path in PRESETS:
        return policy(text(name_or_path), name_or_path)
    path = Path(name_or_path)
    if not path.is_file():
        raise NotFound(
            f"{name_or_path} is no file and no policy; ragline has {', '.join(PRESETS)}, and "
            "`ragline eval policy default` prints one to start from"
        )
    try:
        written = path.read_text(encoding="utf-8")
    except (OSError, UnicodeError) as error:
        raise UsageError(f"{path} cannot be read: {error}; give a TOML file in UTF-8") from error
    return policy(written, str(path))


def text(name: str) -> str:
    """Return a policy that comes with ragline as it is written, comments and all."""
    if name not in PRESETS:
        raise NotFound(f"there is no policy {name}; ragline has {', '.join(PRESETS)}")
    file = resources.files("ragline.core.policies").joinpath(f"{name}.toml")
    return file.read_text(encoding="utf-8")
