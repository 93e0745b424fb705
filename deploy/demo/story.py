"""The demo's story: a province scans, a case is confirmed, the right people are named, and it is checked."""

from __future__ import annotations

import secrets
import time
import uuid
from pathlib import Path

import orjson
from pydantic import SecretStr
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from deploy.cli.simulate import progress_bar, to_topic
from deploy.demo.check import Line, check_exposures, check_marks, check_rejected
from deploy.demo.oracle import CaseTruth, Exposed, ExposureKey, World, exposures
from deploy.demo.watch import Alerts, lag, wait_until
from deploy.local import engines
from deploy.local.stack import Stack
from lookups.archive import Lookups
from lookups.connection import connect
from producers.cases import make_case, publish_case
from producers.publisher import Publisher
from producers.simulator.stream import Shares, Stream
from producers.simulator.truth import write_truth
from schemas import topics
from schemas.events import Case
from schemas.settings import Settings
from schemas.times import format_time

DAY_MS = 86_400_000
# A stage that takes longer than this on two cores has stalled: the demo must end and say where.
PATIENCE_S = 240.0
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
    """One run. `run` returns the checks."""

    def __init__(self, settings: Settings, console: Console) -> None:
        self._settings = settings
        self._console = console
        self._began = time.monotonic()
        self._lines: list[Line] = []
        self._records = 1  # the most that ingest has lagged behind
        self._truth: list[CaseTruth] = []

    def _say(self, text: str) -> None:
        self._console.print(f"[dim]{time.monotonic() - self._began:6.1f} s[/dim]  {text}")

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
        self._folder = self._settings.data / "truth"
        truth = stream.truth()
        write_truth(self._folder, truth, stream.province.venues)
        self._names = {venue.code: venue.name for venue in stream.province.venues}
        self._world = World(self._folder)
        self._say(f"{people:,} people, 900 venues, {len(stream):,} scans of 14 days")
        began = time.monotonic()
        with progress_bar() as progress:
            to_topic(stream, self._settings, progress)
            task = progress.add_task("ingested", total=len(stream), rate="")

            def ingested() -> bool:
                left = lag(self._settings, "ingest")
                if left is not None:
                    # a record holds many scans: the share of records stands for that of scans
                    total = max(self._records, left)
                    self._records = total
                    done = len(stream) * (total - left) / total if total else len(stream)
                    rate = done / (time.monotonic() - began)
                    progress.update(task, completed=done, rate=f"{rate:,.0f}/s")
                return left == 0

            wait_until(ingested, "ingest of all scans", PATIENCE_S)
        seconds = time.monotonic() - began
        self._say(f"published and ingested in {seconds:.1f} s: {len(stream) / seconds:,.0f} scans/s")

    def person_case(self, alerts: Alerts) -> None:
        """Somebody is confirmed; whom did they meet?"""
        self._title("Ca bệnh xác định", "a case is confirmed")
        person, expected = self._index_case()
        truth = self._truth[-1]
        since, until = format_time(truth.start), format_time(truth.end)
        self._say(f"{truth.case_id}: person {person}, infectious from {since} to {until}")
        seconds = self._publish_and_wait(
            alerts,
            make_case(
                case_id=truth.case_id,
                version=1,
                status="confirmed",
                person=person,
                infectious_from=truth.start,
                infectious_to=truth.end,
            ),
            len(expected),
        )
        self._say(f"{len(expected)} exposures; [bold]case → last exposure: {seconds * 1000:,.0f} ms[/bold]")
        self._show_exposures(alerts, truth.case_id)

    def place_case(self, alerts: Alerts) -> None:
        """The authority declares a place and time: a market with its stalls."""
        self._title("Mốc dịch tễ", "a place and time is declared")
        market, start = self._market()
        truth = CaseTruth("DEMO-PLACE", start, start + 3 * 3_600_000, venue=market)
        self._truth.append(truth)
        expected = exposures(self._world, truth)
        stalls = len(self._world.below(market)) - 1  # the first is the market itself
        self._say(f"{escape(self._names[market])} with {stalls} stalls, from {format_time(start)}, 3 hours")
        seconds = self._publish_and_wait(
            alerts,
            make_case(
                case_id=truth.case_id,
                version=1,
                status="confirmed",
                venue=market,
                **{"from": truth.start, "to": truth.end},
            ),
            len(expected),
        )
        self._say(f"{len(expected)} exposures; declaration → last exposure: {seconds * 1000:,.0f} ms")

    def late_scan(self, alerts: Alerts) -> None:
        """A phone that was offline for days sends its scan now."""
        self._title("Lượt quét đến trễ", "a scan arrives days late")
        truth = self._truth[0]
        first = min(exposures(self._world, truth).items(), key=lambda item: item[1].first)
        (_, _, venue, _), exposed = first
        person = f"{secrets.randbits(62) | 1 << 63:016x}"
        at = exposed.first
        scan = {"scan_id": str(uuid.uuid4()), "person": person, "venue": venue, "scanned_at": at}
        began = time.monotonic()
        with Publisher(self._settings.kafka_address, self._settings.topic(topics.SCANS)) as publisher:
            publisher.submit([orjson.dumps(scan)]).result(30)
            wait_until(
                lambda: any(exposure.person == person for exposure in alerts.snapshot().values()),
                "the late scan's exposure",
                30,
            )
            seconds = time.monotonic() - began
        self._world = World(self._folder, [(person, venue, at // 60_000, 0)])
        days = (_clock_ms() - at) / DAY_MS
        self._say(
            f"{person} was at {escape(self._names[venue])} {days:.1f} days ago; "
            f"[bold]late scan → exposure: {seconds * 1000:,.0f} ms[/bold]"
        )

    def look(self) -> None:
        """What tracers ask the archive."""
        self._title("Tra cứu", "lookups")
        client = connect(self._settings.clickhouse_url)
        asked = Lookups(client, _clock_ms, "demo")
        truth = self._truth[0]
        wait_until(self._archived, "archive of all visits", PATIENCE_S)
        began = time.monotonic()
        contacts = asked.contacts_of_case(truth.case_id)
        took = (time.monotonic() - began) * 1000
        table = Table(
            title=f"contacts of {truth.case_id}: {len(contacts)} in {took:.0f} ms", title_justify="left"
        )
        for heading in ("person", "place", "date", "minutes"):
            table.add_column(heading)
        for contact in contacts[:5]:
            table.add_row(contact.person, escape(contact.venue.name), contact.date, str(contact.minutes))
        self._console.print(table)
        client.disconnect()

    def check(self, alerts: Alerts) -> None:
        """Count everything twice."""
        self._title("Kiểm tra", "the oracle counts")
        wait_until(self._archived, "archive of all visits", PATIENCE_S)
        client = connect(self._settings.clickhouse_url)
        self._lines.append(check_marks(client, self._world))
        self._lines += check_rejected(client, self._world)
        client.disconnect()
        self._lines.append(
            check_exposures("exposures, both cases and the late scan", self._expected(), alerts.snapshot())
        )

    def withdraw(self, alerts: Alerts) -> None:
        """The test was wrong: the case is withdrawn, and so is every exposure of it."""
        self._title("Thu hồi ca bệnh", "the case is withdrawn")
        truth = self._truth.pop(0)
        case = make_case(
            case_id=truth.case_id,
            version=2,
            status="withdrawn",
            person=truth.person,
            infectious_from=truth.start,
            infectious_to=truth.end,
        )
        seconds = self._publish_and_wait(alerts, case, 0)
        self._say(f"every exposure of {truth.case_id} is withdrawn, in {seconds * 1000:,.0f} ms")
        self._lines.append(
            check_exposures("exposures after the withdrawal", self._expected(), alerts.snapshot())
        )

    def report(self) -> bool:
        """The table of checks; whether all are equal."""
        table = Table()
        for heading in ("", "expected", "found", "missing", "unexpected", "different", ""):
            table.add_column(heading, justify="left" if not heading else "right")
        for line in self._lines:
            table.add_row(
                line.what,
                *(
                    f"{n:,}"
                    for n in (line.expected, line.found, line.missing, line.unexpected, line.different)
                ),
                "[green]equal[/green]" if line.equal else "[red]DIFFERENT[/red]",
            )
        self._console.print(table)
        equal = all(line.equal for line in self._lines)
        seconds = time.monotonic() - self._began
        verdict = "[green]all equal[/green]" if equal else "[red]NOT equal[/red]"
        self._console.print(f"{verdict} after {seconds:.0f} s")
        return equal

    # --- help ---------------------------------------------------------------------------------

    def _archived(self) -> bool:
        wanted = (topics.VISITS, topics.SCANS_REJECTED, topics.EXPOSURES)
        behind = lag(self._settings, "archive", wanted[:2])
        return behind == 0 and lag(self._settings, "matcher") == 0

    def _expected(self) -> dict[ExposureKey, Exposed]:
        found: dict[ExposureKey, Exposed] = {}
        for truth in self._truth:
            found |= exposures(self._world, truth)
        return found

    def _publish_and_wait(self, alerts: Alerts, case: Case, expected: int) -> float:
        """Seconds from the case's publication to the last exposure."""
        began = time.monotonic()
        publish_case(self._settings, case)
        wait_until(
            lambda: (
                len(alerts.exposed(case.case_id)) == expected
                and all(lag(self._settings, role) == 0 for role in ("cases", "matcher"))
            ),
            f"{expected} exposures of {case.case_id} (there are {len(alerts.exposed(case.case_id))})",
            60,
        )
        return max(0.0, alerts.last_news - began)

    def _index_case(self) -> tuple[str, dict[ExposureKey, Exposed]]:
        """Somebody who was out a good deal and met a number of people that can be shown."""
        end = _clock_ms() - DAY_MS
        start = end - 10 * DAY_MS
        best: tuple[str, dict[ExposureKey, Exposed]] | None = None
        for person in self._world.frequent(start // 60_000, end // 60_000, 40):
            truth = CaseTruth("DEMO-PERSON", start, end, person=person)
            found = exposures(self._world, truth)
            if best is None or abs(len(found) - 120) < abs(len(best[1]) - 120):
                best = (person, found)
            if 60 <= len(found) <= 250:
                break
        if best is None or not best[1]:
            raise TimeoutError("nobody met anybody: simulate more scans (--scans) or fewer people (--people)")
        self._truth.append(CaseTruth("DEMO-PERSON", start, end, person=best[0]))
        return best

    def _market(self) -> tuple[str, int]:
        """A market with stalls, and the start of a busy morning two days ago."""
        midnight = (_clock_ms() + 7 * 3_600_000) // DAY_MS * DAY_MS - 7 * 3_600_000
        start = midnight - 2 * DAY_MS + 6 * 3_600_000
        markets = [
            code
            for code, name in self._names.items()
            if name.startswith("Chợ") and len(self._world.below(code)) > 2
        ]
        busiest = max(
            markets,
            key=lambda code: sum(
                len(self._world.at(venue, start // 60_000, start // 60_000 + 180))
                for venue in self._world.below(code)
            ),
        )
        return busiest, start

    def _show_exposures(self, alerts: Alerts, case_id: str) -> None:
        found = sorted(alerts.exposed(case_id), key=lambda exposure: -exposure.minutes)
        for exposure in found[:4]:
            self._say(
                f"  {exposure.person}  {escape(self._names[exposure.venue])}, {exposure.date}, "
                f"{exposure.minutes} min → {exposure.department}"
            )
        if len(found) > 4:
            self._say(f"  … and {len(found) - 4} more")
