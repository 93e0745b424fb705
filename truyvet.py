"""truyvet: the one command line. Each group of commands is a module of deploy/cli."""

from __future__ import annotations

import importlib

import typer

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, help=__doc__)

# module of deploy/cli → the name of its group; None: its commands stand at the top
_GROUPS: dict[str, str | None] = {
    "stack": None,
    "topics": "topics",
    "schemas": "schemas",
    "scans": "scans",
    "venues": "venues",
    "qr": "qr",
    "simulate": None,
    "cases": "cases",
    "exposures": "exposures",
    "trace": "trace",
    "roles": None,
    "demo": None,
}


def _assemble() -> None:
    for module_name, group in _GROUPS.items():
        module = importlib.import_module(f"deploy.cli.{module_name}")
        if group is None:
            app.add_typer(module.commands)
        else:
            app.add_typer(module.commands, name=group, help=module.__doc__)


def main() -> None:
    """Entry point of the `truyvet` command."""
    _assemble()
    app()


if __name__ == "__main__":
    main()
