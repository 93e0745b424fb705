"""What was refused: look at it, and send it once more when the cause is gone."""

from __future__ import annotations

import getpass
import logging
import re
import socket
import sys
import time
from collections import Counter
from dataclasses import dataclass
from heapq import heappushpop
from itertools import chain, islice
from typing import Annotated, Any, Final

import typer

from deploy.cli.output import (
    CALL_WRONG,
    DATA_WRONG,
    SERVER_AWAY,
    Format,
    JsonFlag,
    emit,
    err,
    fail,
    out,
    plain_errors,
    print_json,
)
from deploy.cli.register import kafka_errors
from deploy.cli.simulate import progress_bar
from deploy.local.roles import ARCHIVE
from producers.compacted import TopicMissingError
from producers.dead_letters import REASONS, TOPICS, DeadLetter, NoSuchRecordError, Reader, find, of_source
from producers.replaying import Memory, NotAcknowledgedError, Outcome, Replay, audit
from schemas import topics
from schemas.settings import Settings, SettingsError, load_settings
from schemas.times import format_time, parse_time
from schemas.topics import Topic

commands = typer.Typer(no_args_is_help=True)

_SHOWN_CHARACTERS: Final = 4_000
_SHOWN_BYTES: Final = 1_024
_SHOWN_PROBLEMS: Final = 20
_MOST_OF_SOURCE: Final = 1_000  # of one record; it is named by its index then
_PLACE: Final = re.compile(
    r"(?P<topic>[^/]+)/(?P<partition>[0-9]{1,18})/(?P<offset>[0-9]{1,18})(?P<index>\[[0-9]{1,9}\])?"
)
_REJECTED: Final = frozenset(topic.name for topic in TOPICS.values())

ReasonOption = Annotated[
    list[str] | None,
    typer.Option("--reason", help=f"Only of this reason ({', '.join(REASONS)}); may repeat."),
]
SinceOption = Annotated[
    str | None, typer.Option("--since", help="Only what was refused from then on: ISO 8601, local.")
]
TopicOption = Annotated[str | None, typer.Option("--topic", help=f"Only of this topic: {', '.join(TOPICS)}.")]


@dataclass(frozen=True, slots=True)
class _Asked:
    """What a command is about. `since` ms."""

    settings: Settings
    topics: tuple[Topic, ...]
    reasons: frozenset[str]
    since: int | None
    named: bool  # the topic was named: that it is not there is a mistake

    def readers(self) -> list[Reader]:
        """A reader for each topic that is there."""
        found = []
        for topic in self.topics:
            try:
                found.append(Reader(self.settings, topic, self.since))
            except TopicMissingError as error:
                if self.named:
                    raise
                err.print(f"{error}", style="yellow", markup=False)
        return found


def _settings() -> Settings:
    with plain_errors(SettingsError):
        return load_settings()


def _topic(name: str) -> Topic:
    found = TOPICS.get(name.removesuffix(".rejected"))
    if found is None:
        fail(f"{name} has no rejected records: choose one of {', '.join(TOPICS)}", CALL_WRONG)
    return found


def _asked(topic: str | None, reasons: list[str] | None, since: str | None) -> _Asked:
    settings = _settings()
    if wrong := [reason for reason in reasons or () if reason not in REASONS]:
        fail(f"no such reason: {', '.join(wrong)}; there are {', '.join(REASONS)}", CALL_WRONG)
    with plain_errors(ValueError, code=CALL_WRONG):
        since_ms = None if since is None else parse_time(since)
    wanted = tuple(TOPICS.values()) if topic is None else (_topic(topic),)
    return _Asked(settings, wanted, frozenset(reasons or ()), since_ms, topic is not None)


class _Count:
    """The dead letters of one topic and reason."""

    def __init__(self, letter: DeadLetter) -> None:
        self.count = self.replayed = 0
        self.first = self.last = letter.timestamp
        self.example = letter

    def add(self, letter: DeadLetter, replayed: bool) -> None:
        """One more."""
        self.count += 1
        self.replayed += replayed
        self.first = min(self.first, letter.timestamp)
        if letter.timestamp >= self.last:
            self.last, self.example = letter.timestamp, letter


def _time(ms: int) -> str:
    try:
        return format_time(ms)
    except (ValueError, OverflowError, OSError):  # somebody else wrote it, with a time beyond the calendar
        return f"{ms} ms"


def _row(letter: DeadLetter, replayed: bool) -> dict[str, Any]:
    return {
        "place": letter.place,
        "at": letter.timestamp,
        "reason": letter.reason,
        "detail": printable(letter.text("detail")),
        "source": printable(letter.source),
        "attempts": letter.attempts,
        "replayed": replayed,
    }


@commands.command("list")
def list_rejected(
    reason: ReasonOption = None,
    since: SinceOption = None,
    topic: TopicOption = None,
    newest: Annotated[int, typer.Option(min=0, max=10_000, help="How many of the newest are shown.")] = 10,
    json: JsonFlag = False,
) -> None:
    """How many were refused, why, since when; then the newest of them."""
    asked = _asked(topic, reason, since)
    counts: dict[tuple[str, str], _Count] = {}
    latest: list[tuple[int, str, int, int, DeadLetter, bool]] = []
    with kafka_errors():
        memory = Memory.read(asked.settings)
        for letter in chain.from_iterable(asked.readers()):
            if asked.reasons and letter.reason not in asked.reasons:
                continue
            replayed, about = letter in memory, (letter.topic.name, letter.reason)
            if about not in counts:
                counts[about] = _Count(letter)
            counts[about].add(letter, replayed)
            key = letter.timestamp, letter.topic.name, letter.offset, letter.partition
            if len(latest) < newest:
                latest.append((*key, letter, replayed))
                latest.sort()
            elif newest:
                heappushpop(latest, (*key, letter, replayed))  # a sorted list is a heap
    summary: list[dict[str, Any]] = [
        {
            "topic": name,
            "reason": why,
            "count": each.count,
            "replayed": each.replayed,
            "first": each.first,
            "last": each.last,
            "example": printable(each.example.text("detail")),
            "place": each.example.place,
        }
        for (name, why), each in sorted(counts.items())
    ]
    rows = [_row(entry[4], entry[5]) for entry in sorted(latest, reverse=True)]
    if json:
        print_json({"counts": summary, "newest": rows})
        return
    if not summary:
        out.print("Nothing was rejected.")
        return
    for row in summary:
        row["first"], row["last"] = _time(row["first"]), _time(row["last"])
    for row in rows:
        row["at"] = _time(row["at"])
        row["replayed"] = "yes" if row["replayed"] else ""
    headings = {"topic": "Topic", "reason": "Reason", "count": "Rejected", "replayed": "Replayed"}
    emit(summary, headings | {"first": "First", "last": "Last", "example": "Example"}, Format.TABLE)
    headings = {"place": "Place (truyvet rejected show)", "at": "Rejected at", "reason": "Reason"}
    headings |= {"detail": "Detail", "source": "Source", "attempts": "Attempts", "replayed": "Replayed"}
    if rows:
        emit(rows, headings, Format.TABLE, f"The newest {len(rows)}")


def printable(text: str) -> str:
    """The text with everything escaped that a terminal might obey: control characters, marks of direction."""
    return "".join(
        letter if letter.isprintable() else letter.encode("unicode_escape").decode() for letter in text
    )


def value_as_text(value: bytes) -> str | None:
    """A value as text that a terminal can show; none when it is binary."""
    try:
        text = value.decode()
    except UnicodeDecodeError:
        return None
    return None if "\0" in text else text


def _hex_lines(value: bytes) -> str:
    lines = []
    for start in range(0, len(value), 16):
        part = value[start : start + 16]
        letters = "".join(chr(byte) if 32 <= byte < 127 else "." for byte in part)
        lines.append(f"{start:08x}  {part.hex(' '):<47}  {letters}")
    return "\n".join(lines)


def _placed(settings: Settings, place: str) -> DeadLetter:
    """The record at a place; of a place of its source, the one that came from there.

    `scans/0/12` is a record of `scans`: the rejected one has another place, and scans.rejected/0/12 is
    somebody else's.
    """
    found = _PLACE.fullmatch(place)
    if found is None:
        fail(f"{place} is no place: write TOPIC/PARTITION/OFFSET, such as scans.rejected/0/12", CALL_WRONG)
    name = found["topic"].removeprefix(settings.topic_prefix)
    if name not in topics.TOPICS or name in _REJECTED:
        topic = _topic(name)  # archive/0/12 names no other topic
        if found["index"]:
            fail(f"{place}: a rejected record has no [index]: leave it out", CALL_WRONG)
        return find(settings, topic, int(found["partition"]), int(found["offset"]))
    letters = [
        letter
        for topic in _refusing(name)
        for letter in islice(of_source(settings, topic, place), _MOST_OF_SOURCE)
    ]
    if not letters:
        fail(
            f"no record that is kept was rejected from {place}; `truyvet rejected list` names the places of"
            f" those that were, such as {_refusing(name)[0].name}/0/12",
            DATA_WRONG,
        )
    if len(letters) > 1:
        places = ", ".join(f"{letter.place} ({letter.source})" for letter in letters[:_SHOWN_PROBLEMS])
        fail(f"{len(letters)} rejected records came from {place}: choose one of {places}", CALL_WRONG)
    return letters[0]


def _refusing(name: str) -> list[Topic]:
    """Where what a topic held is put aside: by the role that reads it, and by the archive."""
    found = [TOPICS[name]] if name in TOPICS else []
    if topics.TOPICS[name] in ARCHIVE.inputs:
        found.append(topics.ARCHIVE_REJECTED)
    return found or [_topic(name)]  # nothing of it is ever put aside: that is said


@commands.command()
def show(
    place: Annotated[
        str,
        typer.Argument(
            metavar="TOPIC/PARTITION/OFFSET",
            help="Its place as `list` names it, scans.rejected/0/144; or its source, scans/1/51[0].",
        ),
    ],
    raw: Annotated[
        bool, typer.Option("--raw", help="Only the value, its bytes as they are, to standard output.")
    ] = False,
    json: JsonFlag = False,
) -> None:
    """One rejected record: its headers and its value, as text, or in hexadecimal when it is none."""
    settings = _settings()
    with kafka_errors(), plain_errors(NoSuchRecordError, code=DATA_WRONG):
        letter = _placed(settings, place)
        if raw:
            sys.stdout.buffer.write(letter.value or b"")
            return
        replayed = letter in Memory.read(settings)
    value = letter.value
    text = None if value is None else value_as_text(value)
    if json:
        print_json(
            _row(letter, replayed)
            | {
                "headers": {name: letter.text(name) for name in letter.headers},
                "key": None if letter.key is None else letter.key.decode("utf-8", "backslashreplace"),
                "bytes": None if value is None else len(value),
                "value": text,
                "value_hex": value.hex() if value is not None and text is None else None,
            }
        )
        return
    lines = {
        "place": letter.place,
        "rejected at": _time(letter.timestamp),
        "replayed": "yes" if replayed else "no",
        "key": "none" if letter.key is None else letter.key.decode("utf-8", "backslashreplace"),
        **{name: letter.text(name) for name in letter.headers},
    }
    for name, words in lines.items():
        out.print(f"{printable(name) + ':':<18} {printable(words)}", markup=False)
    out.print()
    if value is None:
        out.print("no value (a tombstone)")
        return
    if text is not None:
        shown = "\n".join(printable(line) for line in text[:_SHOWN_CHARACTERS].split("\n"))
        cut = len(text) > _SHOWN_CHARACTERS
    else:
        shown, cut = _hex_lines(value[:_SHOWN_BYTES]), len(value) > _SHOWN_BYTES
    out.print(shown, markup=False)
    if cut:
        out.print(f"… of {len(value):,} bytes; --raw writes all of them", style="dim")


def _who() -> str:
    try:
        user = getpass.getuser()
    except (KeyError, OSError):  # a container's user without a name
        user = "unnamed"
    return f"{user}@{socket.gethostname()}"


@commands.command()
def replay(
    reason: ReasonOption = None,
    since: SinceOption = None,
    topic: TopicOption = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would be sent.")] = False,
    json: JsonFlag = False,
) -> None:
    """Send rejected records once more, as they first were, to the topic that they came from.

    Each is judged by the time of its first arrival. What fails again comes back with one attempt more. What
    was replayed before is not sent again, and twice would do no harm. Exit code 1 when the broker refuses a
    record.
    """
    asked, by = _asked(topic, reason, since), _who()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s: %(message)s", stream=sys.stderr)
    with kafka_errors(), plain_errors(NotAcknowledgedError, code=SERVER_AWAY):
        memory, readers = Memory.read(asked.settings), asked.readers()
        again = Replay(
            asked.settings,
            memory,
            by=by,
            clock_ms=lambda: time.time_ns() // 1_000_000,
            reasons=asked.reasons,
            dry=dry_run,
        )
        try:
            with progress_bar() as progress:
                task = progress.add_task("records", total=sum(map(len, readers)), rate="")
                again.run(chain.from_iterable(readers), lambda count: progress.advance(task, count))
        finally:
            if not dry_run:
                audit(again.outcome, by)
    _tell(again.outcome, dry_run, json)
    if again.outcome.refused:
        raise typer.Exit(DATA_WRONG)


def _tell(outcome: Outcome, dry_run: bool, json: bool) -> None:
    groups: dict[str, Counter[tuple[str, str]]] = {
        "sent": outcome.sent,
        "replayed_before": outcome.before,
        "incurable": outcome.incurable,
        "refused": outcome.refused,
    }
    every = sorted(set(chain.from_iterable(groups.values())))
    rows = [
        {"topic": name, "reason": why} | {group: counts[name, why] for group, counts in groups.items()}
        for name, why in every
    ]
    for problem in outcome.problems[:_SHOWN_PROBLEMS]:
        err.print(f"not taken by the broker: {problem}", style="yellow", markup=False)
    if json:
        totals = {group: counts.total() for group, counts in groups.items()}
        print_json({"dry_run": dry_run, **totals, "by_reason": rows, "advice": outcome.advice})
        return
    if rows:
        headings = {"topic": "Topic", "reason": "Reason", "sent": "Would be sent" if dry_run else "Sent"}
        headings |= {"replayed_before": "Replayed before", "incurable": "Never cured", "refused": "Refused"}
        emit(rows, headings, Format.TABLE)
    for why, advice in sorted(outcome.advice.items()):
        out.print(f"{why}: a replay cannot cure it: {advice}", markup=False)
    word = "would be sent" if dry_run else "sent"
    out.print(f"{outcome.sent.total():,} records {word} once more")
