"""Expected against found: pure, a line a promise, with examples of what differs."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping
from dataclasses import dataclass, field
from itertools import islice, pairwise
from typing import Any, TypeVar

import orjson

from deploy.demo.oracle import Exposed, ExposureKey
from tests.chaos.expected import Expected, WarningKey, identity, met, most_evidence
from tests.chaos.found import Entry, Found, Row, json_of
from tests.chaos.scenario import Mark

_EXAMPLES = 5
K = TypeVar("K", bound=Hashable)


@dataclass
class Line:
    """One promise: how much was expected and found, and what differs."""

    what: str
    expected: int
    found: int
    missing: int = 0
    unexpected: int = 0
    wrong: int = 0
    examples: list[str] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        """Whether it was kept."""
        return not (self.missing or self.unexpected or self.wrong)


def compare(expected: Expected, found: Found) -> list[Line]:
    """Every promise."""
    history = by_key(found.exposures)
    last = {key: json_of(records[-1]) for key, records in history.items()}
    warnings = by_key(found.warnings)
    last_warnings = {key: json_of(records[-1]) for key, records in warnings.items()}
    return [
        scans(expected, found),
        Line(
            "answers of the gateway",
            0,
            len(found.answers_wrong),
            wrong=len(found.answers_wrong),
            examples=found.answers_wrong[:_EXAMPLES],
        ),
        same_set("marks in the archive", expected.marks, found.archive),
        same_set("marks in the archive, by person", expected.marks, found.archive_by_person),
        same_set("marks in Redis", expected.marks, found.buckets),
        rejected(
            expected, ((entry.value or b"", entry.headers.get("reason", "")) for entry in found.rejected)
        ),
        rejected(expected, found.rejected_rows, "rejected, in the archive"),
        standing("exposures that stand", expected, last.values()),
        histories(expected, history),
        standing("exposures in the archive", expected, map(_row_of, found.exposure_rows)),
        same_map(
            "exposures: archive as the topic",
            {_key_of(row): _content(row) for row in last.values()},
            {_key_of(row): _content(row) for row in map(_row_of, found.exposure_rows)},
        ),
        warned("venue warnings", expected, last_warnings.values()),
        warning_histories(warnings),
        warned("venue warnings in the archive", expected, map(_warning_of, found.warning_rows)),
        same_map("cases in the archive", expected.cases, found.case_rows),
        cases_rejected(expected, found.cases_rejected),
    ]


def by_key(entries: Iterable[Entry]) -> dict[bytes, list[Entry]]:
    """Records of each key in their order: a key lives in one partition."""
    found: dict[bytes, list[Entry]] = {}
    for entry in entries:
        found.setdefault(entry.key, []).append(entry)
    return found


def same_set(what: str, expected: set[K], found: set[K]) -> Line:
    """Two sets."""
    return same_map(what, dict.fromkeys(expected, True), dict.fromkeys(found, True))


def same_map(what: str, expected: Mapping[K, Any], found: Mapping[K, Any]) -> Line:
    """Two mappings."""
    missing = expected.keys() - found.keys()
    more = found.keys() - expected.keys()
    wrong = {key for key in expected.keys() & found.keys() if expected[key] != found[key]}
    examples = [f"missing: {key} {expected[key]}" for key in islice(missing, _EXAMPLES)]
    examples += [f"unexpected: {key} {found[key]}" for key in islice(more, _EXAMPLES)]
    examples += [f"wrong: {key} {found[key]}, not {expected[key]}" for key in islice(wrong, _EXAMPLES)]
    return Line(what, len(expected), len(found), len(missing), len(more), len(wrong), examples)


def scans(expected: Expected, found: Found) -> Line:
    """Each scan that the gateway acknowledged: its mark is everywhere, or its rejection says why.

    Missing: neither (lost). Wrong: acknowledged although no such scan was sent.
    """
    marks = found.archive & found.archive_by_person & found.buckets
    reasons = dict(
        _rejections((entry.value or b"", entry.headers.get("reason", "")) for entry in found.rejected)
    )
    lost, odd = [], []
    for scan_id in found.acknowledged:
        fate = expected.fates.get(scan_id)
        if fate is None:
            odd.append(f"not sent: {scan_id}")
        elif not (fate in marks if isinstance(fate, Mark) else reasons.get(scan_id.encode()) == fate):
            lost.append(f"lost: {scan_id} {fate}")
    unsent = expected.fates.keys() - found.acknowledged
    count = len(expected.fates)
    examples = lost[:_EXAMPLES] + odd[:_EXAMPLES]
    examples += [f"never acknowledged: {scan_id}" for scan_id in islice(unsent, _EXAMPLES)]
    return Line(
        "acknowledged scans accounted for",
        count,
        len(found.acknowledged),
        len(lost),
        len(unsent),
        len(odd),
        examples,
    )


def _rejections(records: Iterable[tuple[bytes, str]]) -> Iterable[tuple[bytes, str]]:
    """(scan_id, reason) where the value is a scan of a gateway, else (its bytes, reason)."""
    for value, reason in records:
        try:
            scan = orjson.loads(value)
        except orjson.JSONDecodeError:
            scan = None
        if isinstance(scan, dict) and "received_at" in scan:
            yield str(scan.get("scan_id")).encode(), reason
        else:
            yield value, reason


def rejected(expected: Expected, records: Iterable[tuple[bytes, str]], what: str = "rejected scans") -> Line:
    """Each with its reason, known by scan_id or by the original bytes; repeated ones count once."""
    reasons: dict[bytes, set[str]] = {}
    for key, reason in _rejections(records):
        reasons.setdefault(key, set()).add(reason)
    return same_map(what, {key: {reason} for key, reason in expected.rejected.items()}, reasons)


# --- exposures ------------------------------------------------------------------------------------


def _key_of(row: Row) -> ExposureKey:
    return row["case_id"], row["person"], row["venue"], row["date"]


def _content(row: Row) -> tuple[Any, ...]:
    names = ("status", "first", "last", "minutes", "case_version", "version", "sector", "department")
    return tuple(row[name] for name in names)


def _row_of(row: Row) -> Row:
    """A row of the archive with the names and types of the topic."""
    return row | {"date": row["day"], "person": f"{row['person']:016x}"}


def standing(what: str, expected: Expected, newest: Iterable[Row]) -> Line:
    """What is said to be exposed, against the oracle."""
    found = {
        _key_of(row): Exposed(row["first"], row["last"], row["minutes"])
        for row in newest
        if row["status"] == "exposed"
    }
    return same_map(what, expected.exposures, found)


def histories(expected: Expected, history: Mapping[bytes, list[Entry]]) -> Line:
    """Each key's records: versions never fall, equal versions say the same, and the last one is of the case
    version that stands; what was withdrawn had been exposed, and says what was exposed last."""
    problems: list[str] = []
    for key, entries in history.items():
        records = [json_of(entry) for entry in entries]
        problems += [f"{problem}: {records[-1]}" for problem in _history_problems(expected, key, records)]
    return Line(
        "histories of exposures",
        len(history),
        len(history),
        wrong=len(problems),
        examples=problems[:_EXAMPLES],
    )


def _history_problems(expected: Expected, key: bytes, records: list[Row]) -> Iterable[str]:
    last = records[-1]
    own = _key_of(last)
    for before, after in pairwise(records):
        if after["version"] < before["version"]:
            yield f"the version falls from {before['version']}"
        elif after["version"] == before["version"] and _content(after) != _content(before):
            yield f"one version says two things, before {before}"
    if key != identity(own).encode() or last["exposure_id"] != identity(own):
        yield "key or exposure_id"
    if (last["sector"], last["department"]) != expected.venues.get(last["venue"]):
        yield "sector or department"
    if last["version"] != last["case_version"] * 2**32 + last["evidence"]:
        yield "version is not case_version and evidence"
    if last["case_version"] != expected.cases.get(last["case_id"], (0, ""))[0]:
        yield "not of the case version that stands"
    if not 1 <= last["evidence"] <= most_evidence(expected, own):
        yield f"evidence is not 1 to {most_evidence(expected, own)}"
    if last["status"] == "withdrawn":
        exposed = [record for record in records if record["status"] == "exposed"]
        if not exposed:
            yield "withdrawn, and never exposed"
        elif not met(expected, own):
            yield "withdrawn, and could never be exposed"
        elif any(exposed[-1][name] != last[name] for name in ("first", "last", "minutes")):
            yield f"withdrawn with other times than {exposed[-1]}"


# --- venue warnings -------------------------------------------------------------------------------


def _warning_key(row: Row) -> WarningKey:
    return row["case_id"], row["venue"], row["date"]


def _warning_of(row: Row) -> Row:
    return row | {"date": row["day"]}


def warned(what: str, expected: Expected, newest: Iterable[Row]) -> Line:
    """Presences and contacts of every warning that stands, against the oracle; and the right department."""
    wanted = {
        key: (presences, contacts, expected.venues[key[1]][1])
        for key, (presences, contacts) in expected.warnings.items()
    }
    found = {
        _warning_key(row): (
            tuple((start, end) for start, end in row["presences"]),
            row["contacts"],
            row["department"],
        )
        for row in newest
        if row["status"] == "exposed"
    }
    return same_map(what, wanted, found)


def warning_histories(history: Mapping[bytes, list[Entry]]) -> Line:
    """Versions rise (a record may come again as it was); key and header are right."""
    problems: list[str] = []
    for key, entries in history.items():
        rows = [json_of(entry) for entry in entries]
        last = rows[-1]
        if key != "|".join(_warning_key(last)).encode():
            problems.append(f"key: {key!r} of {last}")
        if any(
            entry.headers.get("department") != row["department"]
            for entry, row in zip(entries, rows, strict=True)
        ):
            problems.append(f"header department: {last}")
        if any(
            after["version"] < before["version"]
            or (after["version"] == before["version"] and after != before)
            for before, after in pairwise(rows)
        ):
            problems.append(f"the version does not rise: {rows}")
    return Line(
        "histories of warnings",
        len(history),
        len(history),
        wrong=len(problems),
        examples=problems[:_EXAMPLES],
    )


# --- cases ----------------------------------------------------------------------------------------


def cases_rejected(expected: Expected, entries: Iterable[Entry]) -> Line:
    """Each refused record with its reason; repeated ones count once."""
    reasons: dict[tuple[str, bytes | None], set[str]] = {}
    for entry in entries:
        reasons.setdefault((entry.key.decode(), entry.value), set()).add(entry.headers.get("reason", ""))
    wanted = {key: {reason} for key, reason in expected.cases_rejected.items()}
    return same_map("rejected cases", wanted, reasons)


def kept(lines: Iterable[Line]) -> bool:
    """Whether every promise was kept."""
    return all(line.ok for line in lines)
