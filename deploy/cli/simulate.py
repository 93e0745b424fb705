"""A simulated province, to a topic or a file, with its own truth beside it."""

from __future__ import annotations

import logging
import time
from pathlib import Path
from typing import Annotated

import typer
from clickhouse_driver.errors import Error
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from deploy import country
from deploy.cli.output import (
    CALL_WRONG,
    SERVER_AWAY,
    JsonFlag,
    err,
    fail,
    out,
    plain_errors,
    print_json,
    writing_errors,
)
from deploy.cli.register import kafka_errors
from producers.publisher import Publisher
from producers.simulator.province import MOST_PEOPLE, MOST_VENUES, make_province
from producers.simulator.stream import Shares, Stream
from producers.simulator.truth import write_truth
from producers.venues.register import publish_venues
from schemas import topics
from schemas.settings import Settings, SettingsError, load_settings
from schemas.times import parse_time
from sinks.connection import connect, first_line
from sinks.migrate import MigrationError, migrate
from sinks.retention import keep_for

commands = typer.Typer(no_args_is_help=True)


def progress_bar() -> Progress:
    """A bar with count, rate and time left, on standard error."""
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]}"),
        TimeRemainingColumn(),
        console=err,
    )


def _to_file(stream: Stream, path: Path, progress: Progress) -> None:
    task = progress.add_task("scans", total=len(stream), rate="")
    began = time.monotonic()
    with path.open("wb") as handle:
        for scans, broken in stream.batches(10_000):
            handle.write(b"".join(line + b"\n" for line in (*scans, *broken)))
            progress.advance(task, len(scans) + len(broken))
            done = progress.tasks[task].completed
            progress.update(task, rate=f"{done / (time.monotonic() - began):,.0f}/s")


def to_topic(stream: Stream, settings: Settings, progress: Progress) -> None:
    """Publish a simulation, venues first. Raises KafkaAwayError; exits with 3 when scans fail."""
    publish_venues(settings, stream.province.venues)
    task = progress.add_task("scans", total=len(stream), rate="")
    began = time.monotonic()
    with Publisher(settings.kafka_address, settings.topic(topics.SCANS)) as publisher:
        for scans, broken in stream.batches():
            publisher.publish_many(scans)
            for record in broken:
                publisher.publish_record(record)
            counts = publisher.counts
            seconds = time.monotonic() - began
            progress.update(task, completed=counts.delivered, rate=f"{counts.delivered / seconds:,.0f}/s")
            if counts.failed:
                break
        counts = publisher.flush()
        progress.update(task, completed=counts.delivered)
    if counts.failed or counts.waiting:
        fail(
            f"Kafka did not take {counts.failed + counts.waiting} scans: {publisher.first_error}", SERVER_AWAY
        )


def _to_archive(
    people: int, venues: int, *, days: int, marks: int, end_ms: int, seed: int, add: bool, json: bool
) -> None:
    with plain_errors(SettingsError):
        settings = load_settings()
    logging.getLogger("clickhouse_driver").setLevel(logging.CRITICAL)  # what is away is told in one line here
    client = connect(settings.clickhouse_url)
    try:
        with plain_errors(MigrationError):
            migrate(client, lambda: time.time_ns() // 1_000_000)
        keep_for(client, settings.archive_retention_days)
        if not add and not country.is_empty(client):
            fail(
                "the archive has marks already, and simulated persons could not be told from real ones: use"
                " another database (TRUYVET_CLICKHOUSE), or say --add if you mean it",
                CALL_WRONG,
            )
        with plain_errors(ValueError):
            province = make_province(people, venues, seed)
        began = time.monotonic()
        with progress_bar() as progress:
            task = progress.add_task("marks", total=marks, rate="")

            def advance(more: int) -> None:
                progress.advance(task, more)
                done = progress.tasks[task].completed
                progress.update(task, rate=f"{done / (time.monotonic() - began):,.0f}/s")

            total = country.fill(
                client, province, days=days, marks=marks, end_ms=end_ms, seed=seed, advance=advance
            )
            progress.update(task, completed=marks)
    except (Error, OSError, EOFError) as error:
        fail(
            f"ClickHouse did not take it: {first_line(error)}: is it up? what went in stays, the same command"
            " with --add repeats it harmlessly",
            SERVER_AWAY,
        )
    finally:
        client.disconnect()
    seconds = time.monotonic() - began
    if json:
        print_json({"marks": total, "venues": venues, "people": people, "seconds": round(seconds, 1)})
    else:
        out.print(f"{total:,} marks in {seconds:,.0f} s, {total / seconds:,.0f}/s")


@commands.command()
def simulate(
    target: Annotated[Path | None, typer.Option("--out", help="Write JSON lines to this file.")] = None,
    topic: Annotated[bool, typer.Option("--to-topic", help="Publish to Kafka, venues first.")] = False,
    archive: Annotated[
        bool, typer.Option("--to-archive", help="A country's marks straight into ClickHouse: see --marks.")
    ] = False,
    marks: Annotated[
        int, typer.Option(min=1, help="Of --to-archive; of the shares below it knows none.")
    ] = country.MARKS,
    add: Annotated[
        bool, typer.Option("--add", help="Of --to-archive: also where marks are already.")
    ] = False,
    truth: Annotated[Path | None, typer.Option(help="Folder for what must come out of it.")] = None,
    people: Annotated[
        int | None,
        typer.Option(min=1, max=MOST_PEOPLE, help=f"350,000; of a country {country.PEOPLE:,}."),
    ] = None,
    venues: Annotated[
        int | None,
        typer.Option(
            min=10, max=MOST_VENUES, help=f"Stalls and wards included; 900, of a country {country.VENUES:,}."
        ),
    ] = None,
    days: Annotated[
        int,
        typer.Option(min=1, max=365, help="Up to 28, of a country more; they end at --end."),
    ] = country.DAYS,
    scans: Annotated[
        int, typer.Option(min=1, help="Good scans; repeated and broken come on top.")
    ] = 1_000_000,
    seed: Annotated[int, typer.Option(min=0)] = 2021,
    end: Annotated[str | None, typer.Option(help="ISO 8601, local; default: now.")] = None,
    check_outs: Annotated[float, typer.Option(help="Share of the visits.")] = Shares.check_outs,
    from_venue: Annotated[float, typer.Option(help="The venue scans the card.")] = Shares.from_venue,
    duplicates: Annotated[float, typer.Option(help="The same mark by another scan.")] = Shares.duplicates,
    retries: Annotated[float, typer.Option(help="The same scan again.")] = Shares.retries,
    out_of_order: Annotated[float, typer.Option(help="Minutes late.")] = Shares.out_of_order,
    late: Annotated[float, typer.Option(help="Hours to days late.")] = Shares.late,
    invalid: Annotated[float, typer.Option(help="Broken, of an unknown venue, too old…")] = Shares.invalid,
    voids: Annotated[float, typer.Option(help="Corrected.")] = Shares.voids,
    json: JsonFlag = False,
) -> None:
    """Scans of a province with habits, in the order of their arrival.

    The same seed and end give the same bytes. As many of the people are out and about as the wanted scans
    need, each with a day of their own: work or school, markets, hotels, hospitals, more before Tết.
    """
    if (target is not None) + topic + archive != 1:
        fail("say where to: --out FILE, --to-topic or --to-archive", CALL_WRONG)
    if archive and truth is not None:
        fail(
            "--truth goes with --out and --to-topic: a country's would be as large as the archive",
            CALL_WRONG,
        )
    with plain_errors(ValueError):
        end_ms = parse_time(end) if end else time.time_ns() // 1_000_000
    if archive:
        people, venues = people or country.PEOPLE, venues or country.VENUES
        _to_archive(people, venues, days=days, marks=marks, end_ms=end_ms, seed=seed, add=add, json=json)
        return
    people, venues = people or 350_000, venues or 900
    with plain_errors(ValueError, SettingsError):
        shares = Shares(
            check_outs=check_outs,
            from_venue=from_venue,
            duplicates=duplicates,
            retries=retries,
            out_of_order=out_of_order,
            late=late,
            invalid=invalid,
            voids=voids,
        )
        stream = Stream(
            people=people, venues=venues, days=days, scans=scans, end_ms=end_ms, seed=seed, shares=shares
        )
        settings = load_settings()
    with writing_errors():
        if truth is not None:
            truth.mkdir(parents=True, exist_ok=True)  # a wrong folder is told now, not after a million scans
        with progress_bar() as progress:
            if target is not None:
                _to_file(stream, target, progress)
            else:
                with kafka_errors():
                    to_topic(stream, settings, progress)
        found = stream.truth()
        if truth is not None:
            write_truth(truth, found, stream.province.venues)
    summary = {"scans": len(stream), "marks": len(found.minute), "rejected": found.rejected, "venues": venues}
    if json:
        print_json(summary)
    else:
        refused = sum(found.rejected.values())
        out.print(f"{len(stream):,} scans, {len(found.minute):,} distinct marks, {refused:,} to be rejected")
