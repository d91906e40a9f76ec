"""`ragline serve`."""

from __future__ import annotations

from typing import Annotated

import typer

from ragline.cli import output, runtime
from ragline.cli.options import DataDir
from ragline.errors import PreconditionFailed


def serve(
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[
        int, typer.Option(help="Port to listen on; 0 takes any free one.", min=0, max=65535)
    ] = 8000,
    data_dir: DataDir = None,
) -> None:
    """Serve questions over HTTP until stopped; other machines need RAGLINE_API_KEY."""
    try:
        from ragline.http import serve as http
    except ModuleNotFoundError as error:
        raise PreconditionFailed(
            f"serving needs the package {error.name!r}: pip install 'ragline[http]'"
        ) from error
    http.run(runtime.load(data_dir), host=host, port=port, say=output.note)
