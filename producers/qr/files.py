"""Venues from a file instead of the register, for printing where there is no Kafka.

CSV as `truyvet venues import --out` writes it (with its codes), or JSON: the objects of the topic `venues`,
one a line or in an array.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from producers.venues.importing import FileError, plan, rows_of
from schemas.events import Venue
from schemas.problems import first_problem


def read_venues(path: Path) -> tuple[list[Venue], list[str]]:
    """The venues of a .csv, .json or .jsonl file, and what is wrong with the other rows, each with its
    line; a code that comes twice is wrong the second time.

    Raises ValueError for a file that is not such a one, OSError when it cannot be read.
    """
    kind = path.suffix.lower()
    if kind not in (".csv", ".jsonl", ".ndjson", ".json"):
        raise ValueError(f"{path}: the name must end in .csv, or .jsonl for JSON lines")
    content = path.read_bytes()
    try:
        return _csv(path, content) if kind == ".csv" else _json(path, content)
    except FileError as error:
        raise ValueError(f"{path}: {error}") from None


def _csv(path: Path, content: bytes) -> tuple[list[Venue], list[str]]:
    rows = rows_of(content)
    bare = [line for line, cells in rows if not cells.get("code")]
    planned = plan([row for row in rows if row[1].get("code")], register={})
    problems = {bad.line: f"{bad.column}: {bad.reason}" if bad.column else bad.reason for bad in planned.bad}
    problems |= dict.fromkeys(bare, "no code: register it first, `truyvet venues import --out FILE`")
    return planned.new, [f"{path}, line {line}: {words}" for line, words in sorted(problems.items())]


def _json(path: Path, content: bytes) -> tuple[list[Venue], list[str]]:
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: byte {error.start} is not UTF-8") from None
    venues: dict[str, Venue] = {}
    problems: list[str] = []
    for place, value in _values(text):
        if isinstance(value, ValueError):
            problems.append(f"{path}, {place}: not JSON: {value}")
            continue
        try:
            venue = Venue.model_validate_json(json.dumps(value))
        except ValidationError as error:
            problems.append(f"{path}, {place}: {first_problem(error)}")
            continue
        if venue.code in venues:
            problems.append(f"{path}, {place}: {venue.code} came before")
        else:
            venues[venue.code] = venue
    return list(venues.values()), problems


def _values(text: str) -> Iterator[tuple[str, Any]]:
    """Each value with its place; in place of a line that is not JSON, the error."""
    if text.lstrip().startswith("["):
        try:
            for number, value in enumerate(json.loads(text), 1):
                yield f"element {number}", value
        except json.JSONDecodeError as error:
            yield f"line {error.lineno}", error
        return
    for number, line in enumerate(text.split("\n"), 1):
        if line.strip():
            try:
                yield f"line {number}", json.loads(line)
            except json.JSONDecodeError as error:
                yield f"line {number}", error
