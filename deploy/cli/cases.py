"""Confirm, declare, change, withdraw and list cases."""

from __future__ import annotations

import time
from typing import Annotated, Any

import typer

from deploy.cli.output import (
    CALL_WRONG,
    DATA_WRONG,
    CsvFlag,
    JsonFlag,
    chosen_format,
    emit,
    err,
    fail,
    out,
    plain_errors,
    print_json,
)
from deploy.cli.register import kafka_errors, venues_by_code
from producers.cases import CaseBook, CaseError, make_case, new_case_id, publish_case, read_cases, revised
from schemas.events import Case
from schemas.qr import parse_person, parse_venue
from schemas.settings import Settings, SettingsError, load_settings
from schemas.times import MS_PER_MINUTE, format_time, parse_time

commands = typer.Typer(no_args_is_help=True)

_DAY_MS = 86_400_000
_TIME_HELP = "ISO 8601, local time unless it has an offset: 2021-02-08T14:30, or 2021-02-08 for 00:00."

From = Annotated[str, typer.Option("--from", help=f"Start of the window. {_TIME_HELP}")]
To = Annotated[str, typer.Option("--to", help=f"End of the window, itself outside. {_TIME_HELP}")]
CaseIdOption = Annotated[
    str | None, typer.Option("--id", help="The authority's own id; without it one is made.")
]
MinOverlap = Annotated[
    int | None, typer.Option(help="Minutes together that make an exposure, 1 to 240 (1 if not given).")
]
Linger = Annotated[
    int | None,
    typer.Option(help="Minutes that a place stays infectious afterwards, 0 to 720 (0 if not given)."),
]
Force = Annotated[
    bool, typer.Option("--force", help="Also for a window in which no exposure can be computed.")
]
CaseIdArgument = Annotated[str, typer.Argument(metavar="ID", help="The case's id.")]

_COLUMNS = {
    "case_id": "Case",
    "version": "Version",
    "status": "Status",
    "kind": "Kind",
    "subject": "Person or venue",
    "from": "From",
    "to": "To (outside)",
    "min_overlap": "Min. overlap, min",
    "linger": "Linger, min",
}


@commands.command()
def confirm(
    *,
    person: Annotated[str, typer.Option(help="The pseudonym (16 hexadecimal digits), or a card's URL.")],
    start: From,
    end: To,
    case_id: CaseIdOption = None,
    min_overlap: MinOverlap = None,
    linger: Linger = None,
    force: Force = False,
    json: JsonFlag = False,
) -> None:
    """A person is confirmed infected, infectious from one time to another."""
    settings = _settings()
    with plain_errors(ValueError):
        subject = {"person": parse_person(person)}
    window = _window(start, end, "infectious_from", "infectious_to")
    fields = {**subject, **window}
    _publish_new(settings, case_id, fields, min_overlap=min_overlap, linger=linger, force=force, json=json)


@commands.command()
def declare(
    *,
    venue: Annotated[str, typer.Option(help="The venue's code, or its poster's URL.")],
    start: From,
    end: To,
    case_id: CaseIdOption = None,
    min_overlap: MinOverlap = None,
    linger: Linger = None,
    force: Force = False,
    json: JsonFlag = False,
) -> None:
    """A place and time is declared infectious ("mốc dịch tễ"): the venue and all within it."""
    settings = _settings()
    with plain_errors(ValueError):
        code = parse_venue(venue)
    window = _window(start, end, "from", "to")
    if code not in venues_by_code(settings):
        fail(f"{code} is not in the register: see `truyvet venues list`", CALL_WRONG)
    fields = {"venue": code, **window}
    _publish_new(settings, case_id, fields, min_overlap=min_overlap, linger=linger, force=force, json=json)


@commands.command()
def update(
    case_id: CaseIdArgument,
    *,
    start: Annotated[str | None, typer.Option("--from", help=f"New start. {_TIME_HELP}")] = None,
    end: Annotated[str | None, typer.Option("--to", help=f"New end. {_TIME_HELP}")] = None,
    min_overlap: MinOverlap = None,
    linger: Linger = None,
    reinstate: Annotated[
        bool, typer.Option("--reinstate", help="Confirm again a case that was withdrawn.")
    ] = False,
    json: JsonFlag = False,
) -> None:
    """Publish a new version of a case; what is not given stays as it is."""
    settings = _settings()
    with plain_errors(CaseError), kafka_errors():
        case = _read(settings).get(case_id)
        changes: dict[str, Any] = {}
        names = ("infectious_from", "infectious_to") if case.person else ("from", "to")
        for name, text in zip(names, (start, end), strict=True):
            if text is not None:
                changes[name] = _time(text)
        if min_overlap is not None:
            changes["min_overlap"] = min_overlap
        if linger is not None:
            changes["linger"] = linger
        if reinstate:
            changes["status"] = "confirmed"
        elif case.status == "withdrawn":
            fail(f"{case_id} is withdrawn (version {case.version}): add --reinstate to confirm it again")
        if not changes:
            fail("nothing to change: give --from, --to, --min-overlap or --linger", CALL_WRONG)
        _publish(settings, revised(case, changes), json)


@commands.command()
def withdraw(case_id: CaseIdArgument, json: JsonFlag = False) -> None:
    """Take a case back: its exposures are published again as withdrawn."""
    settings = _settings()
    with plain_errors(CaseError), kafka_errors():
        case = _read(settings).get(case_id)
        if case.status == "withdrawn":
            _say(case, json, "was withdrawn already; nothing published")
            return
        _publish(settings, revised(case, {"status": "withdrawn"}), json)


@commands.command("list")
def list_cases(
    confirmed: Annotated[bool, typer.Option("--confirmed", help="Without those that are withdrawn.")] = False,
    json: JsonFlag = False,
    as_csv: CsvFlag = False,
) -> None:
    """Every case at its highest version, the latest window first."""
    output = chosen_format(json, as_csv)
    settings = _settings()
    with kafka_errors():
        book = _read(settings)
    cases = [case for case in book.cases.values() if case.status == "confirmed" or not confirmed]
    cases.sort(key=lambda case: (-case.start, case.case_id))
    emit([_row(case) for case in cases], _COLUMNS, output)
    if book.problems:
        raise typer.Exit(DATA_WRONG)


def _settings() -> Settings:
    with plain_errors(SettingsError):
        return load_settings()


def _time(text: str) -> int:
    with plain_errors(ValueError):
        return parse_time(text)


def _window(start: str, end: str, start_name: str, end_name: str) -> dict[str, int]:
    window = {start_name: _time(start), end_name: _time(end)}
    if window[start_name] >= window[end_name]:
        fail(f"--from {start} must be before --to {end}", CALL_WRONG)
    return window


def _read(settings: Settings) -> CaseBook:
    """What stands; records that do not count are told, they are somebody's mistake."""
    book = read_cases(settings)
    for problem in book.problems:
        err.print(f"{settings.topic_prefix}cases, {problem}", style="yellow", markup=False)
    return book


def _publish_new(
    settings: Settings,
    case_id: str | None,
    fields: dict[str, Any],
    *,
    min_overlap: int | None,
    linger: int | None,
    force: bool,
    json: bool,
) -> None:
    with plain_errors(CaseError), kafka_errors():
        # made before anything is asked of Kafka: a mistake is said at once
        case = make_case(
            case_id=case_id or "new",
            version=1,
            status="confirmed",
            min_overlap=min_overlap,
            linger=linger,
            **fields,
        )
        if not force:
            _check_window(settings, case)
        cases = _read(settings).cases
        if case_id is None:
            made = new_case_id(format_time(_now_ms())[:10], cases)
            case = case.model_copy(update={"case_id": made})
        there = cases.get(case.case_id)
        if there == case:  # the same call again, perhaps because the first one's answer was lost
            _say(case, json, "stood already; nothing published")
            return
        if there is not None:
            fail(
                f"there is a case {case.case_id} already (version {there.version}, {there.status}): "
                "change it with `truyvet cases update`, or choose another --id",
                CALL_WRONG,
            )
        _publish(settings, case, json)


def _check_window(settings: Settings, case: Case) -> None:
    """Refuse a case that can have no exposure: a slip of the date, which would stand and bar an erasure."""
    now = _now_ms()
    oldest = now - settings.retention_days * _DAY_MS
    if case.end + case.linger * MS_PER_MINUTE <= oldest:
        why = (
            f"the window ends before {format_time(oldest)}, beyond the {settings.retention_days} days within"
            " which exposures are computed: ask the archive, `truyvet trace contacts`"
        )
    elif case.start > now:
        why = (
            f"the window begins at {format_time(case.start)}, in the future: nobody can have been exposed yet"
        )
    else:
        return
    fail(f"{why}; --force publishes the case all the same", CALL_WRONG)


def _publish(settings: Settings, case: Case, json: bool) -> None:
    oldest = _now_ms() - settings.retention_days * _DAY_MS
    if case.start < oldest:
        err.print(
            f"The window begins before {format_time(oldest)}, beyond the {settings.retention_days} days "
            "within which alerts are computed: for older days ask the archive, `truyvet trace contacts`.",
            style="yellow",
            markup=False,
        )
    publish_case(settings, case)
    _say(case, json, "is published")


def _say(case: Case, json: bool, what: str) -> None:
    if json:
        print_json(_row(case))
        return
    row = _row(case)
    out.print(f"{case.case_id} version {case.version} ({case.status}) {what}", markup=False)
    out.print(f"  {row['kind']} {case.subject}, {row['from']} to {row['to']}", markup=False)


def _row(case: Case) -> dict[str, object]:
    return {
        "case_id": case.case_id,
        "version": case.version,
        "status": case.status,
        "kind": "person" if case.person else "venue",
        "subject": case.subject,
        "from": format_time(case.start),
        "to": format_time(case.end),
        "min_overlap": case.min_overlap,
        "linger": case.linger,
    }


def _now_ms() -> int:
    return round(time.time() * 1000)
