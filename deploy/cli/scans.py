"""Scans from a file or one by one."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, BinaryIO

import orjson
import typer
import uuid_utils
from pydantic import ValidationError
from rich.progress import Progress, TaskID

from deploy.cli.output import (
    CALL_WRONG,
    DATA_WRONG,
    SERVER_AWAY,
    JsonFlag,
    err,
    fail,
    out,
    plain_errors,
    print_json,
)
from deploy.cli.register import kafka_errors, venues_by_code
from deploy.cli.simulate import progress_bar
from producers.compacted import partitions_of, quiet_consumer
from producers.examples import example_scans
from producers.publisher import MAX_RECORD_BYTES, NotDeliveredError, Publisher
from schemas import topics
from schemas.codes import is_code
from schemas.events import SCAN
from schemas.problems import first_problem
from schemas.qr import parse_person, parse_venue
from schemas.settings import Settings, SettingsError, load_settings
from schemas.times import format_time, parse_time

commands = typer.Typer(no_args_is_help=True)

_SHOWN = 20
_BATCH = 1_000
_BATCH_BYTES = 4_000_000
# A line longer than a record can be is no scan: it must not fill the memory.
_LONGEST_LINE = MAX_RECORD_BYTES
_BOM = b"\xef\xbb\xbf"


def _settings() -> Settings:
    with plain_errors(SettingsError):
        return load_settings()


def problem_of(line: bytes) -> str | None:
    """What is wrong with a line that should be one scan; none when it is good."""
    if len(line) > _LONGEST_LINE:
        return f"longer than {_LONGEST_LINE:,} bytes"
    try:
        scan = SCAN.validate_json(line)
        orjson.loads(line)  # NaN in a field that nobody reads is no JSON either
    except ValidationError as error:
        return first_problem(error)
    except orjson.JSONDecodeError as error:
        return f"not JSON: {error.msg} at column {error.colno}"
    return None if is_code(scan["venue"]) else "venue: the check character does not fit"


def _lines(source: BinaryIO) -> Iterator[tuple[int, bytes]]:
    """The lines that hold something, numbered from 1; of one that is too long only the beginning is kept."""
    number = 0
    while line := source.readline(_LONGEST_LINE + 2):
        number += 1
        rest = line
        while len(rest) == _LONGEST_LINE + 2 and not rest.endswith(b"\n"):
            rest = source.readline(_LONGEST_LINE + 2)
        if number == 1:
            line = line.removeprefix(_BOM)  # as some editors write it
        if line.strip():
            yield number, line.strip()


def _ready(settings: Settings) -> None:
    """End with one line, before anything is read, when Kafka or the topic is not there."""
    with kafka_errors(), closing(quiet_consumer(settings)) as consumer:
        partitions_of(consumer, settings, topics.SCANS)


@dataclass(slots=True)
class _Told:
    """What became of the lines: how many are bad, the number of the last one read, whether all were."""

    bad: int = 0
    line: int = 0
    stopped: bool = False


def _publish_lines(source: BinaryIO, publisher: Publisher, progress: Progress, task: TaskID) -> _Told:
    """Publish the good lines, name the first bad ones. Stops when Kafka refuses."""
    began = time.monotonic()
    batch: list[bytes] = []
    told = _Told()
    read = held = 0
    for number, line in _lines(source):
        told.line = number
        read += len(line) + 1
        problem = problem_of(line)
        if problem is None:
            batch.append(line)
            held += len(line)
        else:
            told.bad += 1
            if told.bad <= _SHOWN:
                err.print(f"line {number}: {problem}", style="yellow", markup=False)
        if len(batch) >= _BATCH or held >= _BATCH_BYTES:
            publisher.publish_many(batch)
            batch, held = [], 0
            counts = publisher.counts
            rate = counts.delivered / (time.monotonic() - began)
            progress.update(task, completed=read, rate=f"{rate:,.0f} scans/s")
            if counts.failed:
                told.stopped = True
                return told
    publisher.publish_many(batch)
    progress.update(task, completed=read)
    return told


@commands.command()
def publish(
    file: Annotated[str, typer.Argument(help="JSON lines, one scan each; - for standard input.")],
    json: JsonFlag = False,
) -> None:
    """Publish scans; bad lines are named by their numbers, the good ones go in.

    Exit code 1 when a line is bad.
    """
    settings = _settings()
    with ExitStack() as stack:
        source: BinaryIO
        if file == "-":
            source, size = sys.stdin.buffer, None
        else:
            with plain_errors(OSError):
                source = stack.enter_context(Path(file).open("rb"))
                size = Path(file).stat().st_size
        _ready(settings)
        publisher = stack.enter_context(Publisher(settings.kafka_address, settings.topic(topics.SCANS)))
        progress = stack.enter_context(progress_bar())
        task = progress.add_task("bytes", total=size, rate="")
        told = _publish_lines(source, publisher, progress, task)
        counts = publisher.close()
        published, lost, why = counts.delivered, counts.failed, publisher.first_error
    bad = told.bad
    if bad > _SHOWN:
        err.print(f"… and {bad - _SHOWN:,} more bad lines", style="yellow")
    if json:
        print_json({"published": published, "bad": bad, "not_acknowledged": lost})
    else:
        out.print(f"{published:,} scans published, {bad:,} bad lines")
    if lost:
        stopped = f", nothing after line {told.line:,} was read" if told.stopped else ""
        fail(
            f"Kafka at {settings.kafka_address} did not acknowledge {lost:,} scans ({why}){stopped}: "
            "publish the file again, what is in already does no harm",
            SERVER_AWAY,
        )
    if bad:
        raise typer.Exit(DATA_WRONG)


@commands.command()
def example() -> None:
    """Print scans to try an installation with: people of the last three hours at two places of the register.

    Person 00c0ffee00c0ffee meets three others; a fourth comes after it has left. For `scans publish`.
    """
    settings = _settings()
    now = time.time_ns() // 1_000_000
    is_open = [venue for venue in venues_by_code(settings).values() if venue.open_at(now)]
    if len(is_open) < 2:
        fail(
            f"the register has {len(is_open)} open venues, two are needed: "
            "truyvet venues import docs/examples/venues.csv",
            CALL_WRONG,
        )
    places = sorted(is_open, key=lambda venue: (venue.parent is not None, venue.name, venue.code))
    for scan in example_scans(places, now, lambda: str(uuid_utils.uuid7())):
        sys.stdout.write(orjson.dumps(scan).decode() + "\n")


@commands.command()
def void(
    person: Annotated[str, typer.Option(help="Pseudonym, or a card's payload.")],
    venue: Annotated[str, typer.Option(help="Venue code, or a poster's payload.")],
    at: Annotated[str, typer.Option(help="The minute of the wrong scan (ISO 8601, local).")],
    json: JsonFlag = False,
) -> None:
    """Correct a wrong scan: a void cancels the check-in and check-out of its minute."""
    settings = _settings()
    with plain_errors(ValueError, code=CALL_WRONG):
        scanned_at = parse_time(at)
        scan = {
            "scan_id": str(uuid_utils.uuid7()),
            "person": parse_person(person),
            "venue": parse_venue(venue),
            "scanned_at": scanned_at,
            "kind": "void",
            "source": "manual",
        }
    _ready(settings)
    with Publisher(settings.kafka_address, settings.topic(topics.SCANS)) as publisher:
        try:
            publisher.submit([orjson.dumps(scan)]).result()
        except NotDeliveredError as error:
            fail(f"{error}: void it again, twice does no harm", SERVER_AWAY)
    if json:
        print_json(scan)
    else:
        out.print(f"void {scan['scan_id']} at {scan['venue']}, {format_time(scanned_at)}")
