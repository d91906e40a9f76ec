"""The installed `ragline` command in an environment of the test's own."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ragline.ops import embedded

PREFIX = "ragline-test-"
PROGRAM = str(Path(sys.executable).with_name("ragline"))


@dataclass(frozen=True, kw_only=True)
class Command:
    """`ragline` with a data directory in a folder that the test may destroy."""

    folder: Path
    more: Mapping[str, str] = field(default_factory=dict)

    @property
    def data_dir(self) -> Path:
        return self.folder / "data"

    @property
    def environment(self) -> dict[str, str]:
        """Nothing of the developer's own settings, and no colours asked for or refused."""
        ours = ("RAGLINE_", "PG", "DATABASE_URL", "POSTGRES_DSN", "NO_COLOR", "FORCE_COLOR", "TERM")
        kept = {name: text for name, text in os.environ.items() if not name.startswith(ours)}
        return {**kept, "RAGLINE_DATA_DIR": str(self.data_dir), **self.more}

    def with_(self, **more: str) -> Command:
        return Command(folder=self.folder, more={**self.more, **more})

    def run(
        self, *arguments: str | Path, timeout_s: float = 240
    ) -> subprocess.CompletedProcess[str]:
        """Run it to its end, away from any terminal."""
        return subprocess.run(
            [PROGRAM, *map(str, arguments)],
            env=self.environment,
            capture_output=True,
            text=True,
            stdin=subprocess.DEVNULL,
            timeout=timeout_s,
        )

    def json(self, *arguments: str | Path) -> Any:
        """Run it with --json, expect success, and return the one object that it printed."""
        done = self.run(*arguments, "--json")
        assert done.returncode == 0, done.stderr
        return one_object(done.stdout)

    def start(self, *arguments: str | Path) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [PROGRAM, *map(str, arguments)],
            env=self.environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            # A run in the background has Ctrl-C ignored, and its children inherit that.
            preexec_fn=_heed_interrupts,  # noqa: PLW1509 - nothing here runs in threads
        )


def _heed_interrupts() -> None:
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def one_object(stdout: str) -> Any:
    """Return the JSON object that is all of `stdout`."""
    assert stdout.count("\n") == 1, stdout
    found = json.loads(stdout)
    assert isinstance(found, dict)
    return found


@contextmanager
def place() -> Iterator[Command]:
    """A folder of the test's own with, once something starts it, a server that ends with it."""
    folder = Path(tempfile.mkdtemp(prefix=PREFIX))
    # As root the server runs as another user, who must be able to reach its data below.
    folder.chmod(0o755)
    command = Command(folder=folder)
    try:
        yield command
    finally:
        embedded.stop(command.data_dir)
        assert folder.name.startswith(PREFIX)
        shutil.rmtree(folder)
