"""Venues from a file instead of the register: CSV with a header line, or JSON lines.

For printing where there is no Kafka. The columns are the fields of `schemas.events.Venue`; `department` may
be left out, it follows from sector and district.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator
from pathlib import Path

from pydantic import ValidationError

from schemas.departments import SECTORS, department_of
from schemas.events import Venue
from schemas.problems import first_problem


def read_venues(path: Path) -> tuple[list[Venue], list[str]]:
    """The venues of a file (.csv, or .jsonl/.ndjson/.json with one object a line), and what is wrong with
    the other lines, each with its number; a code that comes twice is wrong the second time.

    Raises ValueError for a file that is not such a one, OSError when it cannot be read.
    """
    kind = path.suffix.lower()
    if kind not in (".csv", ".jsonl", ".ndjson", ".json"):
        raise ValueError(f"{path}: the name must end in .csv, or .jsonl for JSON lines")
    try:
        text = path.read_bytes().decode("utf-8-sig")  # spreadsheets put a byte order mark first
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: byte {error.start} is not UTF-8: save it as UTF-8") from None
    lines = _csv_lines(path, text) if kind == ".csv" else _json_lines(text)
    venues: dict[str, Venue] = {}
    problems: list[str] = []
    for number, found in lines:
        if isinstance(found, str):
            problems.append(f"{path}, line {number}: {found}")
        elif found.code in venues:
            problems.append(f"{path}, line {number}: {found.code} came before")
        else:
            venues[found.code] = found
    return list(venues.values()), problems


def _csv_lines(path: Path, text: str) -> Iterator[tuple[int, Venue | str]]:
    reader = csv.DictReader(io.StringIO(text, newline=""))
    header = [name.strip() for name in reader.fieldnames or ()]
    missing = [name for name in ("code", "name", "sector", "district", "dwell") if name not in header]
    if missing:
        raise ValueError(f"{path}: the header line lacks {', '.join(missing)}")
    reader.fieldnames = header
    try:
        for row in reader:
            yield reader.line_num, _from_cells(row)
    except csv.Error as error:
        raise ValueError(f"{path}, line {reader.line_num}: not CSV: {error}") from None


def _from_cells(row: dict[str, str]) -> Venue | str:
    if None in row:
        return "more cells than the header has"
    filled = {key: value.strip() for key, value in row.items() if value and value.strip()}
    filled.setdefault("department", _department(filled))
    try:
        return Venue.model_validate_strings(filled, strict=False)
    except ValidationError as error:
        return first_problem(error)


def _json_lines(text: str) -> Iterator[tuple[int, Venue | str]]:
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        try:
            value = json.loads(line)
            if isinstance(value, dict):
                value.setdefault("department", _department(value))
            yield number, Venue.model_validate_json(json.dumps(value))
        except ValidationError as error:
            yield number, first_problem(error)
        except ValueError as error:
            yield number, f"not JSON: {error}"


def _department(row: dict[str, str]) -> str:
    """Of a sector that does not exist, nothing: the sector itself is then what is reported."""
    sector = next((known for known in SECTORS if known == row.get("sector")), None)
    return department_of(sector, str(row.get("district", ""))) if sector else "unknown"
