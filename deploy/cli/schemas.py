"""The contracts, for those who read or write the topics."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from deploy.cli.output import DATA_WRONG, JsonFlag, out, print_json, writing_errors
from schemas.export import export

commands = typer.Typer(no_args_is_help=True)


@commands.callback()
def _group() -> None:
    """A callback keeps `export` a command of its own while it is the only one."""


@commands.command("export")
def export_documents(
    folder: Annotated[Path, typer.Argument(help="Made if it is not there; files are replaced.")],
    json: JsonFlag = False,
) -> None:
    """Write a JSON Schema for every event and one AsyncAPI document for all topics."""
    with writing_errors(DATA_WRONG):
        written = export(folder)
    if json:
        print_json([str(path) for path in written])
    else:
        out.print(f"{len(written)} documents in {folder}", markup=False)
