"""truyvet: the one command line. Each group of commands is a module of deploy/cli."""

from __future__ import annotations

import importlib
import os
import sys
from importlib import metadata
from typing import Annotated

import typer

# what stands first on the command line → the module of deploy/cli that has it
_GROUPS = {
    "topics": "topics",
    "schemas": "schemas",
    "scans": "scans",
    "venues": "venues",
    "qr": "qr",
    "cases": "cases",
    "exposures": "exposures",
    "trace": "trace",
    "buckets": "buckets",
    "rejected": "rejected",
    "retention": "retention",
    "audit": "audit",
    "figures": "figures",
    "access": "access",
    "erase": "erase",
}
_COMMANDS = {
    "up": "stack",
    "status": "stack",
    "down": "stack",
    "logs": "stack",
    "run": "roles",
    "simulate": "simulate",
    "demo": "demo",
    "report": "report",
}


def _assemble(asked: str | None) -> typer.Typer:
    """The application with what was asked for; with everything when that is unknown (help, a typing error).

    A worker of a role must not wait for, or fall with, a module that it does not use.
    """
    app = typer.Typer(
        no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, help=__doc__
    )
    only = (
        {asked} if asked == "--version" or asked in _GROUPS or asked in _COMMANDS else {*_GROUPS, *_COMMANDS}
    )
    for name in [name for name in _GROUPS if name in only]:
        module = importlib.import_module(f"deploy.cli.{_GROUPS[name]}")
        app.add_typer(module.commands, name=name, help=module.__doc__)
    for module_name in dict.fromkeys(_COMMANDS[name] for name in _COMMANDS if name in only):
        app.add_typer(importlib.import_module(f"deploy.cli.{module_name}").commands)

    @app.callback()
    def _main(
        context: typer.Context,
        version: Annotated[  # noqa: ARG001 (its callback does it)
            bool, typer.Option("--version", callback=_say_version, is_eager=True, help="Say which this is.")
        ] = False,
    ) -> None:
        # a callback keeps the name of a single command: typer would drop it
        _warn_of_unknown_variables()
        _gate(os.environ.get("TRUYVET_ROLE") or "tracer", context.invoked_subcommand or "")

    return app


def _say_version(wanted: bool) -> None:
    if wanted:
        sys.stdout.write(f"truyvet {metadata.version('truyvet')}\n")
        raise typer.Exit


def _warn_of_unknown_variables() -> None:
    """On stderr, a line each; not an error, since another version may know them."""
    if names := [name for name in os.environ if name.upper().startswith("TRUYVET_")]:
        for line in importlib.import_module("schemas.settings").unknown_variables(names):
            sys.stderr.write(f"! {line}\n")


def _gate(role: str, command: str) -> None:
    """End the call when the role may not use the command: only a tracer may use them all."""
    if role == "tracer":  # workers and servers: nothing more is loaded for it
        return
    if role not in (roles := importlib.import_module("schemas.settings").ROLES):
        sys.stderr.write(f"✗ TRUYVET_ROLE: {role!r} is no role: there are {', '.join(roles)}\n")
        raise typer.Exit(2)
    access = importlib.import_module("lookups.access")
    if not access.may_call(role, command):
        sys.stderr.write(
            f"✗ the role {role} (TRUYVET_ROLE) may not call truyvet {command}: docs/PRIVACY.md\n"
        )
        raise typer.Exit(2)


def main() -> None:
    """Entry point of the `truyvet` command."""
    asked = sys.argv[1] if len(sys.argv) > 1 else None
    if asked and asked.partition("=")[0] == "--data":
        sys.stderr.write("✗ --data stands after the command: truyvet status --data DIR\n")
        sys.exit(2)
    _assemble(asked)()


if __name__ == "__main__":
    main()
