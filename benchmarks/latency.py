"""make bench-latency: how long until the right people are known, while a country scans.

Every server and role on loopback; a history of scans of two weeks; then 20,000 scans a second from a process
of its own, paced by the clock. Meanwhile persons are confirmed one after another at random times (measured:
from producing the case to the last of its exposures being readable, read committed), and phones deliver scans
that are days late and meet a standing case (from producing the scan to its exposure being readable). Nothing
that is sent waits for an answer to what was sent before. Warm-up does not count.

Which exposure is the last of a case is known at the end, when nothing is under way any more; for some of the
cases an oracle that shares no code with the pipeline says whether they are the right ones.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final

import orjson
import psutil
from confluent_kafka import Producer
from rich.console import Console
from rich.progress import Progress

from benchmarks import latency_report as report
from benchmarks.latency_reader import Read, Reader
from deploy.cli.simulate import progress_bar, to_topic
from deploy.demo.check import compare
from deploy.demo.oracle import CaseTruth, Exposed, ExposureKey, World, exposures
from deploy.demo.story import demo_settings
from deploy.demo.watch import archived, lag, wait_until
from deploy.local.memory import environment_of
from deploy.local.stack import Stack
from producers.cases import make_case
from producers.simulator.province import make_province
from producers.simulator.stream import Shares, Stream
from producers.simulator.truth import write_truth
from producers.venues.register import publish_venues
from schemas import topics
from schemas.settings import Settings

DAY_MS: Final = 86_400_000
CASE, LATE = "case → last exposure", "late scan → exposure"
GOALS_MS: Final = {CASE: 200.0, LATE: 250.0}
# Windows end so long ago that nobody who scans now can matter to them (36 hours and a bit).
_WINDOW: Final = (12 * DAY_MS, 2 * DAY_MS)
# Others in the same clock hours at the same places: whom a tracer would call a usual case.
_COMPANY: Final = (20, 90)
# Of the places, so many are declared just now: the load itself raises alerts all the time.
_DECLARED: Final = 0.001
_GAP_S: Final = (0.2, 0.6)  # between two cases, and between two late scans
# A case is taken to be known so long after it was sent; then late scans may meet it.
_KNOWN_S: Final = 3.0
_PATIENCE_S: Final = 120.0
_JUDGED: Final = 5


@dataclass(frozen=True, slots=True)
class Plan:
    """How large a run is."""

    history: int
    province: int  # venues of the history: with 130 scans each, people meet about as many as they do
    venues: int  # of the country around the province
    rate: int
    warm_s: float
    count: int  # of each kind, measured


FULL: Final = Plan(history=300_000, province=2_250, venues=20_000, rate=20_000, warm_s=20, count=305)
QUICK: Final = Plan(history=120_000, province=900, venues=5_000, rate=20_000, warm_s=10, count=30)


@dataclass(slots=True)
class Sent:
    """A case or a late scan: when it was sent, whether it counts."""

    what: str
    at: float
    counts: bool
    person: str
    case_id: str
    came: list[float] = field(default_factory=list)  # of the last exposure: written and read
    touched: float = 0.0


class Bench:
    """One run."""

    def __init__(self, settings: Settings, plan: Plan, console: Console, seed: int) -> None:
        self._settings = settings
        self._plan = plan
        self._console = console
        self._chance = random.Random(seed)
        self._seed = seed
        self._sent: list[Sent] = []
        self._exposures: dict[str, list[dict[str, Any]]] = {}  # by case, of persons of the history
        self._seen = 0
        self._by_key: dict[tuple[str, str], Sent] = {}  # case and person; "" for the case itself
        self._late: set[str] = set()  # who may be a contact of other cases too, long after those were sent
        self._producer = Producer(
            {
                "bootstrap.servers": settings.kafka_address,
                "acks": "all",
                "enable.idempotence": True,
                "linger.ms": 0,
                "partitioner": topics.PARTITIONER,
            }
        )

    def say(self, text: str) -> None:
        """A line of progress."""
        self._console.print(f"[dim]{time.strftime('%H:%M:%S')}[/dim]  {text}", soft_wrap=True)

    def history(self) -> None:
        """Two weeks of a province, and the register of a country around it."""
        plan, now = self._plan, time.time_ns() // 1_000_000
        stream = Stream(
            people=350_000,
            venues=plan.province,
            days=14,
            scans=plan.history,
            end_ms=now,
            seed=self._seed,
            shares=Shares(),
        )
        own = stream.province.venues
        codes = {venue.code for venue in own}
        country = make_province(1_000, plan.venues, self._seed + 1).venues
        others = [venue for venue in country if venue.code not in codes and venue.parent is None]
        publish_venues(self._settings, others)
        with progress_bar() as progress:
            to_topic(stream, self._settings, progress)
        folder = self._settings.data / "truth"
        write_truth(folder, stream.truth(), own)
        self.world = World(folder)
        self.codes = sorted(codes) + [venue.code for venue in others]
        self._declared = [venue.code for venue in others[: max(1, round(len(self.codes) * _DECLARED))]]
        start, end = now - _WINDOW[0], now - _WINDOW[1]
        usual = [
            person
            for person, _, met in self.world.company(start // 60_000, end // 60_000)
            if _COMPANY[0] <= met <= _COMPANY[1]
        ]
        if len(usual) < 2 * plan.count:
            raise SystemExit(f"only {len(usual)} persons make usual cases: choose another --seed")
        self._persons = self._chance.sample(usual, len(usual))
        self._window = (start, end)
        self.say(
            f"{len(stream):,} scans of two weeks, {len(self.codes):,} venues; {len(usual):,} usual cases"
        )
        wait_until(lambda: lag(self._settings, "ingest") == 0, "the history is ingested", _PATIENCE_S)
        wait_until(lambda: archived(self._settings), "the history is archived", _PATIENCE_S)

    @contextmanager
    def background(self) -> Iterator[subprocess.Popen[bytes]]:
        """The load, in a process of its own."""
        file = self._settings.data / "codes"
        file.write_text("\n".join(self.codes))
        plan = self._plan
        # the gaps are random; the load must not end before the last of them
        seconds = plan.warm_s + plan.count * _GAP_S[1] + 60
        command = [sys.executable, "-m", "benchmarks.background", "--codes", str(file)]
        command += ["--rate", str(plan.rate), "--seconds", str(seconds), "--seed", str(self._seed)]
        process = subprocess.Popen(
            command, env={**os.environ, **environment_of(self._settings)}, stdout=subprocess.PIPE
        )
        try:
            yield process
        finally:
            if process.poll() is None:
                process.kill()
            process.wait(10)

    def _send(self, sent: Sent, topic: topics.Topic, value: bytes, key: bytes | None) -> None:
        sent.at = time.time()
        self._producer.produce(self._settings.topic(topic), value, key)
        self._producer.poll(0)
        self._sent.append(sent)

    def declare(self) -> None:
        """Places of the country, declared now: their visitors are alerts while the load runs."""
        now = time.time_ns() // 1_000_000
        for number, code in enumerate(self._declared):
            place = {"case_id": f"PLACE-{number}", "version": 1, "status": "confirmed", "venue": code}
            case = make_case(**place, **{"from": now - 3_600_000, "to": now + 36_000_000})
            self._producer.produce(self._settings.topic(topics.CASES), case.to_json(), case.case_id.encode())
        self._producer.flush(10)

    def confirm(self, counts: bool) -> None:
        """The next person is confirmed."""
        person, number = self._persons.pop(), len(self._sent)
        case = make_case(
            case_id=f"CASE-{number}",
            version=1,
            status="confirmed",
            person=person,
            infectious_from=self._window[0],
            infectious_to=self._window[1],
        )
        sent = self._by_key[case.case_id, ""] = Sent(CASE, 0, counts, person, case.case_id)
        self._send(sent, topics.CASES, case.to_json(), case.case_id.encode())

    def deliver(self, counts: bool) -> bool:
        """A phone delivers a scan of days ago, made where and when a standing case was; whether it could."""
        known = time.time() - _KNOWN_S
        standing = [
            sent for sent in self._sent if sent.what == CASE and sent.at < known and self._of(sent.case_id)
        ]
        if not standing:
            return False
        case = self._chance.choice(standing)
        met = self._chance.choice(self._of(case.case_id))
        person = f"{len(self._sent) | 1 << 60:016x}"
        scan = {
            "scan_id": str(uuid.uuid4()),
            "person": person,
            "venue": met["venue"],
            "scanned_at": met["first"],
        }
        self._late.add(person)
        sent = self._by_key[case.case_id, person] = Sent(LATE, 0, counts, person, case.case_id)
        self._send(sent, topics.SCANS, orjson.dumps(scan), None)
        return True

    def _of(self, case_id: str) -> list[dict[str, Any]]:
        return self._exposures.get(case_id, [])

    def hear(self, reader: Reader) -> None:
        """Take in what was read since the last time."""
        for read in reader.since(self._seen):
            self._seen += 1
            value = orjson.loads(read.value)
            for each in value if read.touched else [value]:
                self._take(read, each)

    def _take(self, read: Read, value: dict[str, Any]) -> None:
        if read.touched:
            case_id = value["case"]["case_id"]
            for person in value.get("persons") or [""]:
                sent = self._by_key.get((case_id, person))
                if sent is not None and not sent.came:
                    sent.touched = read.written
            return
        case_id, person = value["case_id"], value["person"]
        late = self._by_key.get((case_id, person))
        if late is not None:
            late.came = late.came or [read.written, read.at]
            return
        sent = self._by_key.get((case_id, ""))
        if sent is not None and person not in self._late:
            sent.came = [read.written, read.at]
            self._exposures.setdefault(case_id, []).append(value)

    def measure(self, reader: Reader) -> None:
        """Cases and late scans at random times, until there are enough of each."""
        plan = self._plan
        began = time.time()
        due = {CASE: began + 2, LATE: began + 2}
        left = {CASE: plan.count, LATE: plan.count}
        with Progress(console=self._console) as progress:
            task = progress.add_task("warm-up", total=2 * plan.count)
            while any(left.values()):
                self.hear(reader)
                now = time.time()
                counts = now - began > plan.warm_s
                for what, when in due.items():
                    if now < when or not left[what]:
                        continue
                    due[what] = when + self._chance.uniform(*_GAP_S)
                    done = True
                    if what == CASE:
                        self.confirm(counts)
                    else:
                        done = self.deliver(counts)
                    if counts and done:
                        left[what] -= 1
                        progress.update(task, advance=1, description="cases and late scans")
                time.sleep(0.004)

    def settle(self, reader: Reader) -> None:
        """Until nothing is under way any more."""
        self._producer.flush(10)
        deadline = time.monotonic() + _PATIENCE_S
        idle = 0
        while idle < 5 or not all(sent.came for sent in self._sent):
            self.hear(reader)
            quiet = all(lag(self._settings, role) == 0 for role in ("ingest", "cases", "matcher"))
            idle = idle + 1 if quiet else 0
            if time.monotonic() > deadline or idle > 20:
                break
            time.sleep(0.2)
        self.hear(reader)

    def missing(self) -> int:
        """How many cases and late scans have raised no exposure: then no figure means anything."""
        return sum(not sent.came for sent in self._sent)

    def latencies(self) -> dict[str, list[float]]:
        """In seconds, of what came."""
        return {
            what: [
                sent.came[1] - sent.at
                for sent in self._sent
                if sent.what == what and sent.counts and sent.came
            ]
            for what in (CASE, LATE)
        }

    def stages(self) -> dict[str, list[float]]:
        """The same by what the records' own times say (whole milliseconds), in seconds."""
        found: dict[str, list[float]] = {}
        for sent in self._sent:
            if not sent.counts or not sent.came:
                continue
            first = "case" if sent.what == CASE else "late scan"
            written, read = sent.came
            for name, seconds in (
                (f"{first} → last touched written", sent.touched - sent.at),
                (f"{first}: touched → exposure written", written - sent.touched),
                (f"{first}: exposure written → read committed", read - written),
            ):
                found.setdefault(name, []).append(max(0.0, seconds))
        return found

    def judge(self) -> None:
        """Some of the cases by the oracle. Raises SystemExit when it finds a difference."""
        late = {sent.person for sent in self._sent if sent.what == LATE}
        cases = [sent for sent in self._sent if sent.what == CASE]
        for sent in self._chance.sample(cases, _JUDGED):
            expected = exposures(self.world, CaseTruth(sent.case_id, *self._window, person=sent.person))
            found: dict[ExposureKey, Exposed] = {
                (each["case_id"], each["person"], each["venue"], each["date"]): Exposed(
                    each["first"], each["last"], each["minutes"]
                )
                for each in self._of(sent.case_id)
                if each["person"] not in late and each["status"] == "exposed"
            }
            line = compare(sent.case_id, expected, found)
            if not line.equal:
                raise SystemExit(f"the exposures are not those of the oracle: {line}")

    def sizes(self) -> list[int]:
        """How many exposures each counted case has, in order."""
        cases = [sent for sent in self._sent if sent.what == CASE and sent.counts]
        return sorted(len(self._of(sent.case_id)) for sent in cases)


def cpu_seconds(stack: Stack) -> dict[str, float]:
    """What each process has used so far."""
    found: dict[str, float] = {}
    for name, process in stack.supervisor.processes().items():
        if process.pid:
            times = psutil.Process(process.pid).cpu_times()
            found[name] = times.user + times.system
    return found


def run(
    stack: Stack, plan: Plan, console: Console, seed: int
) -> tuple[dict[str, list[float]], dict[str, Any]]:
    """Measure on a stack that is up: latencies in seconds, and the facts of the run."""
    bench = Bench(stack.settings, plan, console, seed)
    bench.history()
    reader = Reader(stack.settings)
    reader.start()
    with bench.background() as load:
        bench.declare()
        before, began = cpu_seconds(stack), time.monotonic()
        bench.measure(reader)
        seconds = time.monotonic() - began
        after = cpu_seconds(stack)
        behind = lag(stack.settings, "ingest")
        load.terminate()
        said, _ = load.communicate(timeout=60)
    if load.returncode:
        raise SystemExit("the load was not taken: no figure means anything")
    bench.settle(reader)
    reader.stop()
    measured, stages, missing = bench.latencies(), bench.stages(), bench.missing()
    if not missing:
        bench.judge()
    sizes, sent = bench.sizes(), json.loads(said)
    facts = {
        "about": (
            f"{os.cpu_count()} cores with all servers, {sent['a_second']:,} scans/s in the background,"
            f" cases of {sizes[0]} to {sizes[-1]} exposures (median {sizes[len(sizes) // 2]})"
        ),
        "background": sent,
        "ingest_records_behind_at_the_end": behind,
        "cpu_cores": {name: round((used - before[name]) / seconds, 3) for name, used in after.items()},
        "stages": stages,
        "never_came": missing,
    }
    return measured, facts


def main(argv: Sequence[str] | None = None) -> None:
    """Measure, print, and write docs/benchmarks/latency.{json,md,svg}."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a small history and 30 of each")
    parser.add_argument("--rate", type=int, help="scans a second in the background")
    parser.add_argument("--seed", type=int, default=2021)
    parser.add_argument("--out", type=Path, help="default: docs/benchmarks; with --quick nothing is written")
    chosen = parser.parse_args(argv)
    plan = QUICK if chosen.quick else FULL
    if chosen.rate is not None:
        plan = replace(plan, rate=chosen.rate)
    console = Console(width=None if sys.stdout.isatty() else 120)
    # SIGTERM ends us as Ctrl-C does: with nothing left running
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))
    folder = Path(tempfile.mkdtemp(prefix="truyvet-latency-"))
    stack = Stack(demo_settings(folder), say=lambda line: console.print(f"          [dim]{line}[/dim]"))
    try:
        stack.up()
        measured, facts = run(stack, plan, console, chosen.seed)
    finally:
        stack.down()
        if os.environ.get("KEEP"):
            console.print(f"logs: {folder / 'run'}")
        else:
            shutil.rmtree(folder, ignore_errors=True)
    rows = {name: report.figures(seconds) for name, seconds in measured.items()}
    report.show(report.lines(rows, GOALS_MS), facts["about"], console)
    stages = {name: report.figures(seconds) for name, seconds in facts["stages"].items()}
    report.show(report.lines(stages, {}), "where the time goes", console)
    used = ", ".join(f"{name} {cores:.2f}" for name, cores in facts["cpu_cores"].items())
    behind = facts["ingest_records_behind_at_the_end"]
    console.print(f"cores used: {used}; ingest is {behind} records behind; load: {facts['background']}")
    if facts["never_came"]:
        sys.exit(f"{facts['never_came']} cases and late scans never raised an exposure: no figure counts")
    out = chosen.out or (None if chosen.quick else Path("docs/benchmarks"))
    if out is not None:
        report.write(out, measured, GOALS_MS, facts)


if __name__ == "__main__":
    main()
