"""Ways to restart a server: the embedded one, a command of the user's, or none."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Protocol


class Restart(Protocol):
    """How a server is restarted. `data_directory` is None where its files are not on this machine."""

    name: str
    data_directory: Path | None

    async def restart(self) -> None:
        """Stop and start the server, and return when it accepts connections.

        Raises PreconditionFailed with what the server said when it did not start.
        """

    async def preflight(self, settings: Mapping[str, str]) -> str | None:
        """Return why it could not start with these settings; None where it could, or nobody knows."""
