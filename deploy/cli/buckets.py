"""The buckets in Redis: are they whole, and rebuild them when they are not."""

from __future__ import annotations

from typing import Annotated, Any

import typer
from redis.exceptions import RedisError
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from deploy.cli.output import DATA_WRONG, SERVER_AWAY, JsonFlag, err, fail, out, plain_errors, print_json
from deploy.local.health import without_password
from deploy.local.store import StoreStatus, store_client, store_status
from deploy.rebuild import RebuildError, declare_lost, rebuild
from schemas.settings import Settings, SettingsError, load_settings, where_to_look
from schemas.times import format_time

commands = typer.Typer(no_args_is_help=True)


def _load() -> Settings:
    with plain_errors(SettingsError):
        return load_settings()


def _status(settings: Settings) -> StoreStatus:
    try:
        with store_client(settings.redis_url, 5.0) as redis:
            return store_status(redis)
    except RedisError as error:
        place = without_password(settings.redis_url)
        advice = where_to_look("TRUYVET_REDIS", settings.redis)
        fail(f"Redis does not answer at {place} ({error}): {advice}", SERVER_AWAY)


@commands.command("status")
def show(json: JsonFlag = False) -> None:
    """Whether Redis holds all that was acknowledged; exit code 1 when it does not."""
    found = _status(_load())
    if json:
        print_json(found)
    else:
        out.print(found.words, style="green" if found.whole else "red", markup=False)
        out.print(found.memory, markup=False)
        if found.since:
            out.print(f"since {format_time(found.since)}", markup=False)
    raise typer.Exit(0 if found.whole else DATA_WRONG)


@commands.command("rebuild")
def rebuild_buckets(
    force: Annotated[
        bool,
        typer.Option("--force", help="Also when nothing is known to be lost."),
    ] = False,
    json: JsonFlag = False,
) -> None:
    """Rebuild marks, cases and what stands published, from the archive and the topics.

    New scans are accepted meanwhile; alerts wait and are published after it. It can be repeated at any time.
    """
    settings = _load()
    if force:
        with plain_errors(RedisError, code=SERVER_AWAY):
            declare_lost(settings, "an operator asked for a rebuild")
    bar = Progress(
        TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), console=err
    )
    with bar:
        task = bar.add_task("looking", total=None)

        def progress(step: str, done: int, total: int) -> None:
            bar.update(task, description=step, completed=done, total=total or None)

        try:
            done = rebuild(settings, progress=progress)
        except RebuildError as error:
            bar.stop()
            fail(f"not rebuilt: {error}", SERVER_AWAY)
    found: dict[str, Any] = {"rebuilt": done}
    if json:
        print_json(found)
    elif done:
        out.print("Redis is rebuilt; what became due meanwhile is being published now.", style="green")
    else:
        out.print("Redis holds all that was acknowledged: nothing to rebuild (--force does it all the same).")
