"""python -m tests.bad_input: bad records in bulk on engines of its own; exit code 1 on any difference."""

from __future__ import annotations

import shutil
import signal
import sys
import tempfile
from pathlib import Path
from typing import Annotated

import typer
from clickhouse_driver import Client
from rich.console import Console
from rich.table import Table

from deploy.local import engines
from deploy.local.topics import TopicAdmin
from schemas.settings import Settings
from tests.bad_input.run import ROLES, Outcome, Run, lines
from tests.stream.harness import installed, now_ms


def _settings(folder: Path, ports: list[int]) -> Settings:
    kafka, _, redis, clickhouse = ports
    return Settings(
        data=folder,
        kafka=f"127.0.0.1:{kafka}",
        redis=f"redis://127.0.0.1:{redis}/0",
        clickhouse=f"clickhouse://default@127.0.0.1:{clickhouse}/default",
        metrics_port=engines.free_base((0, 64, 65, 66)),
    )


def _show(outcome: Outcome, console: Console) -> None:
    table = Table("what was done", "records", "refused to the sender", "accepted", "rejected")
    for line in lines(outcome):
        table.add_row(*line)
    console.print(table)
    console.print(", ".join(f"{reason} {count:,}" for reason, count in sorted(outcome.reasons.items())))
    console.print(", ".join(f"{what} {seconds:.1f} s" for what, seconds in outcome.seconds.items()))
    for words in outcome.differences:
        console.print(words, style="red", markup=False)
    console.print(f"{outcome.problems:,} differences", style="red" if outcome.problems else "green")


def main(
    records: Annotated[int, typer.Option(min=100, help="For the topic scans.")] = 100_000,
    seed: Annotated[int, typer.Option(min=0, help="One seed, the same records.")] = 1,
    keep: Annotated[bool, typer.Option(help="Keep the scratch folder with the logs.")] = False,
) -> None:
    """Bad records among good ones: no worker dies, and each element is a visit or a rejected record."""
    console = Console()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # ends the processes too
    folder = Path(tempfile.mkdtemp(prefix="truyvet-bad-input-"))
    ports = engines.free_ports(4)
    ok = False
    try:
        launches = [
            engines.kafka(folder / "kafka", ports[0], ports[1]),
            engines.redis(folder / "redis", ports[2]),
            engines.clickhouse(folder / "clickhouse", ports[3]),
        ]
        with engines.scratch(launches, folder / "logs"):
            settings = _settings(folder, ports)
            TopicAdmin(settings).apply()
            Client.from_url(settings.clickhouse_url).disconnect()
            with installed(settings, folder, *ROLES) as here:
                run = Run(here, records, seed, now_ms(), lambda words: console.print(words, markup=False))
                outcome = run.run(60 + records / 1_000)
        _show(outcome, console)
        ok = not outcome.problems
    except (AssertionError, engines.EngineError) as error:
        console.print(f"{error}", style="red", markup=False)
    finally:
        if keep or not ok:
            console.print(f"logs and data: {folder}", markup=False)
        else:
            shutil.rmtree(folder, ignore_errors=True)
    raise typer.Exit(0 if ok else 1)


if __name__ == "__main__":
    typer.run(main)
