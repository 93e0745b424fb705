"""The demo's story: a province scans, a case is confirmed, the right people are named, and it is checked."""

from __future__ import annotations

import secrets
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import orjson
from pydantic import SecretStr
from rich import box
from rich.console import Console
from rich.markup import escape
from rich.progress import Progress
from rich.table import Table

from deploy.cli.simulate import progress_bar, to_topic
from deploy.demo.check import Line, check_contacts, check_exposures, check_marks, check_rejected
from deploy.demo.choice import DAY_MS, person_case, place_case
from deploy.demo.oracle import CaseTruth, Exposed, ExposureKey, World, exposures
from deploy.demo.watch import Alerts, archived, lag, wait_until
from deploy.local import engines
from deploy.local.stack import Stack
from lookups.answers import Window
from lookups.archive import Lookups
from lookups.connection import connect
from producers.cases import make_case, publish_case
from producers.publisher import Publisher
from producers.simulator.stream import Shares, Stream
from producers.simulator.truth import write_truth
from schemas import topics
from schemas.departments import department_name
from schemas.events import Case
from schemas.settings import Settings
from schemas.times import format_time

T = TypeVar("T")

# A stage that takes longer than this on two cores has stalled: the demo must end and say where.
PATIENCE_S = 240.0
# Nothing under way for so long, and what was expected has not come: it will not.
QUIET_S = 5.0
# Rows of a long list that a reader wants to see.
SHOWN = 5
_METRICS = 10
_OFFSETS = (0, 1, 2, 3, 4, *(_METRICS + offset for offset in (0, 64, 65, 66)))


def demo_settings(data: Path) -> Settings:
    """A stack of its own: a scratch folder, free ports, fresh keys."""
    # one free stretch, so that no two of them meet: Kafka's controller takes the port after the broker's
    base = engines.free_base(_OFFSETS)
    return Settings(
        data=data,
        kafka_port=base,
        redis_port=base + 2,
        clickhouse_port=base + 3,
        gateway_port=base + 4,
        metrics_port=base + _METRICS,
        identity_key=SecretStr(secrets.token_hex(32)),
        gateway_keys={"demo": SecretStr(secrets.token_urlsafe(24))},
    )


def _clock_ms() -> int:
    return time.time_ns() // 1_000_000


class Story:
    """One run, act by act; `report` says whether all was equal."""

    def __init__(self, settings: Settings, console: Console) -> None:
        self._settings = settings
        self._console = console
        self._began = time.monotonic()
        self._lines: list[Line] = []
        self._cases: list[CaseTruth] = []
        self._expected: dict[str, dict[ExposureKey, Exposed]] = {}  # by case

    def _say(self, text: str) -> None:
        self._console.print(f"[dim]{time.monotonic() - self._began:6.1f} s[/dim]  {text}", soft_wrap=True)

    def _title(self, vietnamese: str, english: str) -> None:
        self._console.rule(f"[bold]{vietnamese}[/bold] · {english}", align="left")

    # --- the acts -----------------------------------------------------------------------------

    def up(self, stack: Stack) -> None:
        """Start every engine and role."""
        self._title("Khởi động", "the stack")
        stack.up()
        self._say("Kafka, Redis, the ClickHouse engine, gateway, ingest, cases, matcher and archive are up")

    def scans(self, scans: int, people: int, seed: int) -> None:
        """The province scans for two weeks, as fast as it goes."""
        self._title("Người dân quét mã QR", "scans stream in")
        stream = Stream(
            people=people, venues=900, days=14, scans=scans, end_ms=_clock_ms(), seed=seed, shares=Shares()
        )
        self._names = {venue.code: venue.name for venue in stream.province.venues}
        self._say(
            f"{people:,} people, {len(self._names)} venues, {len(stream):,} scans of 14 days: "
            "twice sent, late, out of order and broken ones among them"
        )
        began = time.monotonic()
        with progress_bar() as progress:
            to_topic(stream, self._settings, progress)
            self._follow_ingest(len(stream), began, progress)
        seconds = time.monotonic() - began
        self._say(
            f"[bold]published and ingested in {seconds:.1f} s: {len(stream) / seconds:,.0f} scans/s[/bold]"
        )
        folder = self._settings.data / "truth"
        write_truth(folder, stream.truth(), stream.province.venues)
        self._world = World(folder)

    def person_case(self, alerts: Alerts) -> None:
        """Somebody is confirmed; whom did they meet?"""
        self._title("Ca bệnh xác định", "a case is confirmed")
        truth, expected = person_case(self._world, _clock_ms())
        self._cases.append(truth)
        since, until = format_time(truth.start), format_time(truth.end)
        self._say(f"{truth.case_id}: person {truth.person}, infectious from {since} to {until}")
        case = make_case(
            case_id=truth.case_id,
            version=1,
            status="confirmed",
            person=truth.person,
            infectious_from=truth.start,
            infectious_to=truth.end,
        )
        self._confirm(alerts, case, expected)

    def place_case(self, alerts: Alerts) -> None:
        """The authority declares a place and time: a market with its stalls."""
        self._title("Mốc dịch tễ", "a place and time is declared")
        truth = place_case(self._world, self._names, _clock_ms())
        self._cases.append(truth)
        market = truth.venue or ""
        stalls = len(self._world.below(market)) - 1  # the first is the market itself
        since, until = format_time(truth.start), format_time(truth.end)
        self._say(
            f"{truth.case_id}: {escape(self._names[market])} with {stalls} stalls, from {since} to {until}"
        )
        case = make_case(
            case_id=truth.case_id,
            version=1,
            status="confirmed",
            venue=market,
            **{"from": truth.start, "to": truth.end},
        )
        self._confirm(alerts, case, exposures(self._world, truth))

    def late_scan(self, alerts: Alerts) -> None:
        """A phone that was offline for days sends its scan now."""
        self._title("Lượt quét đến trễ", "a scan arrives days late")
        truth = self._cases[0]
        (_, _, venue, _), met = min(self._expected[truth.case_id].items(), key=lambda item: item[1].first)
        person = f"{secrets.randbits(62) | 1 << 63:016x}"
        scan = {"scan_id": str(uuid.uuid4()), "person": person, "venue": venue, "scanned_at": met.first}
        known = len(alerts.news())

        def raised() -> float | None:
            times = [when for when, exposure in alerts.news(known) if exposure.person == person]
            return times[0] if times else None

        began = time.monotonic()
        with Publisher(self._settings.kafka_address, self._settings.topic(topics.SCANS)) as publisher:
            publisher.submit([orjson.dumps(scan)]).result(30)
        self._settle(lambda: raised() is not None)
        self._world.add([(person, venue, met.first // 60_000, 0)])
        for case in self._cases:
            self._expected[case.case_id] = exposures(self._world, case)
        days = (_clock_ms() - met.first) / DAY_MS
        self._say(f"{person} was at {escape(self._names[venue])} {days:.1f} days ago; the scan comes now")
        alerted = raised()
        if alerted is None:
            self._say("[red]no exposure came: the check will tell more[/red]")
        else:
            self._say(f"[bold]late scan → exposure: {(alerted - began) * 1000:,.0f} ms[/bold]")
        self._count_exposures("exposures of both cases", alerts)

    def look(self) -> None:
        """What tracers ask the archive."""
        self._title("Tra cứu", "lookups in the archive")
        wait_until(lambda: archived(self._settings), "the archive of everything", PATIENCE_S)
        client = connect(self._settings.clickhouse_url)
        try:
            self._ask(Lookups(client, _clock_ms, "demo"))
        finally:
            client.disconnect()

    def withdraw(self, alerts: Alerts) -> None:
        """The test was wrong: the case is withdrawn, and so is every exposure of it."""
        self._title("Thu hồi ca bệnh", "the case is withdrawn")
        truth = self._cases.pop(0)
        case = make_case(
            case_id=truth.case_id,
            version=2,
            status="withdrawn",
            person=truth.person,
            infectious_from=truth.start,
            infectious_to=truth.end,
        )
        known, began = len(alerts.news()), time.monotonic()
        publish_case(self._settings, case)
        self._settle(lambda: not alerts.exposed(truth.case_id))
        came = [when - began for when, exposure in alerts.news(known) if exposure.status == "withdrawn"]
        self._say(
            f"[bold]{len(came)} exposures withdrawn; withdrawal → last of them: "
            f"{max(came, default=0) * 1000:,.0f} ms[/bold]"
        )
        self._count_exposures("after the withdrawal", alerts)

    def check(self) -> None:
        """Count everything else twice."""
        self._title("Kiểm tra", "found in the system, expected by the oracle")
        wait_until(lambda: archived(self._settings), "the archive of everything", PATIENCE_S)
        client = connect(self._settings.clickhouse_url)
        try:
            marks, rejected = check_marks(client, self._world), check_rejected(client, self._world)
        finally:
            client.disconnect()
        self._lines[:0] = [marks, *rejected]

    def report(self) -> bool:
        """The table of checks; whether all are equal."""
        table = Table(box=box.SIMPLE_HEAD, padding=0, pad_edge=False)  # fits 80 columns
        for heading in ("", "expected", "found", "missing", "unexpected", "differ", ""):
            table.add_column(heading, justify="left" if not heading else "right", no_wrap=True)
        for line in self._lines:
            table.add_row(
                line.what,
                *(
                    f"{n:,}"
                    for n in (line.expected, line.found, line.missing, line.unexpected, line.different)
                ),
                "[green]equal[/green]" if line.equal else "[red]NOT[/red]",
            )
        self._console.print(table)
        for line in self._lines:
            for example in line.examples:
                self._console.print(f"{line.what}: {example}", style="red", markup=False, soft_wrap=True)
        equal = all(line.equal for line in self._lines)
        seconds = time.monotonic() - self._began
        self._console.print(
            f"[bold green]all equal[/bold green] after {seconds:.0f} s"
            if equal
            else "[bold red]not all equal[/bold red]"
        )
        return equal

    # --- how ----------------------------------------------------------------------------------

    def _follow_ingest(self, scans: int, began: float, progress: Progress) -> None:
        """Until all that was published is ingested."""
        task = progress.add_task("ingested", total=scans, rate="")
        most = 1  # a record holds many scans: the share of records stands for that of scans

        def ingested() -> bool:
            nonlocal most
            left = lag(self._settings, "ingest")
            if left is not None:
                most = max(most, left)
                done = scans * (most - left) // most
                progress.update(task, completed=done, rate=f"{done / (time.monotonic() - began):,.0f}/s")
            return left == 0

        wait_until(ingested, "all scans are ingested", PATIENCE_S)

    def _settle(self, complete: Callable[[], bool], hear: Callable[[], None] = lambda: None) -> None:
        """Until what must come has come and nothing is under way.

        When nothing is under way and still not all has come, no more will: the check says what is missing.
        """
        began = time.monotonic()
        idle_since: float | None = None
        while True:
            hear()
            # in the order of the stream: what one role has acknowledged is in the lag of the next
            idle = all(lag(self._settings, role) == 0 for role in ("ingest", "cases", "matcher"))
            now = time.monotonic()
            if not idle:
                idle_since = None
            elif complete() or now - (idle_since := idle_since or now) > QUIET_S:
                hear()
                return
            if now - began > PATIENCE_S:
                raise TimeoutError(f"the case is still under way after {PATIENCE_S:.0f} s")
            time.sleep(0.05)

    def _confirm(self, alerts: Alerts, case: Case, expected: dict[ExposureKey, Exposed]) -> None:
        """Publish a case, show its exposures as they arrive, and say how long the last one took."""
        self._expected[case.case_id] = expected
        known, shown, began = len(alerts.news()), 0, time.monotonic()

        def hear() -> None:
            nonlocal shown
            for when, exposure in alerts.news(known + shown):
                shown += 1
                if shown <= SHOWN:
                    self._say(
                        f"  +{(when - began) * 1000:5,.0f} ms  {exposure.person}  {exposure.date}"
                        f" {exposure.minutes:3} min  {escape(self._names[exposure.venue])}"
                        f" → {department_name(exposure.department)}"
                    )

        publish_case(self._settings, case)
        self._settle(lambda: len(alerts.exposed(case.case_id)) == len(expected), hear)
        if shown > SHOWN:
            self._say(f"  … and {shown - SHOWN:,} more")
        last = max((when - began for when, _ in alerts.news(known)), default=0.0)
        self._say(
            f"[bold]{len(alerts.exposed(case.case_id)):,} exposures; "
            f"case → last exposure: {last * 1000:,.0f} ms[/bold]"
        )

    def _count_exposures(self, what: str, alerts: Alerts) -> None:
        expected = {key: value for case in self._cases for key, value in self._expected[case.case_id].items()}
        self._lines.append(check_exposures(what, expected, alerts.newest()))

    def _ask(self, asked: Lookups) -> None:
        case = self._cases[0]
        person, window = case.person or "", Window(case.start, case.end)

        def timed(question: str, answer: Callable[[], T]) -> T:
            began = time.monotonic()
            found = answer()
            self._say(f"{question}: {(time.monotonic() - began) * 1000:.0f} ms")
            return found

        visits = timed(f"where was {person}", lambda: asked.person(person, window)).presences
        self._say(f"  {len(visits)} stays at {len({visit.venue.code for visit in visits})} places")
        contacts = timed("who was there too, by the marks", lambda: asked.contacts(person, window))
        exposed = timed("whom the case exposes", lambda: asked.contacts_of_case(case.case_id))
        self._say(f"  {len(exposed)}, the longest:")
        for contact in sorted(contacts, key=lambda contact: -contact.minutes)[:SHOWN]:
            self._say(
                f"  {contact.person}  {contact.date} {contact.minutes:3} min  {escape(contact.venue.name)}"
            )
        expected = self._expected[case.case_id]
        self._lines += [
            check_contacts("contacts by the archive", case.case_id, expected, contacts),
            check_contacts("exposures in the archive", case.case_id, expected, exposed),
        ]
