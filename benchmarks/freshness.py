"""How soon a scan can be asked for: from posting it to its row in ClickHouse, with everything running.

Every server and role on loopback; scans come at a fixed rate from a process that waits for nobody. Beside
them a probe a quarter of a second: one scan of a person of its own, looked for in the archive until it is
there. Then the rate is raised in steps until something falls behind: what gives first, and what each process
spent by then.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
import threading
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import orjson
from confluent_kafka import Producer
from rich.console import Console
from rich.progress import Progress

from benchmarks import pictures, running
from benchmarks.latency import cpu_seconds
from deploy.demo.story import demo_settings
from deploy.demo.watch import lag
from deploy.local.memory import environment_of
from deploy.local.stack import Stack
from lookups import connection as asking
from producers.simulator.province import make_province
from producers.venues.register import publish_venues
from schemas import topics
from schemas.settings import Settings

GOAL_S: Final = 2.0
_EVERY_S: Final = 0.25  # a probe; few enough to cost nothing beside the load
_LOOK_S: Final = 0.1  # a question costs the archive milliseconds; what is measured is late by up to this
_WARM_S: Final = 10.0  # after the start of the load: roles compile, buffers fill
_STEP_S: Final = 20.0
_FACTOR: Final = 1.25
_BEHIND_S: Final = 3.0  # of scans not yet acknowledged at the end of a step: it falls behind
_PATIENCE_S: Final = 60.0
_SHOWN_CORES: Final = 0.02
_SHOWN_S: Final = 10.0
_FIRST_PERSON: Final = 3 << 61  # apart from those of the load


class Probes(threading.Thread):
    """Looks for the probes in the archive: person → when it was sent, and when it was found."""

    def __init__(self, settings: Settings) -> None:
        super().__init__(name="probes", daemon=True)
        self._client = asking.connect(settings.clickhouse_url)
        self._sent: dict[int, float] = {}
        self.found: dict[int, float] = {}  # person → seconds
        self._lock = threading.Lock()
        self._going = True

    def sent(self, person: int) -> None:
        """It leaves now."""
        with self._lock:
            self._sent[person] = time.time()

    def outstanding(self) -> int:
        """How many were not found yet."""
        with self._lock:
            return len(self._sent)

    def run(self) -> None:
        """Until `stop`."""
        while self._going:
            time.sleep(_LOOK_S)
            with self._lock:
                asked = dict(self._sent)
            if not asked:
                continue
            rows = self._client.execute(
                "SELECT DISTINCT person FROM visits_by_person WHERE person IN %(persons)s",
                {"persons": tuple(asked)},
            )
            now = time.time()
            with self._lock:
                for (person,) in rows:
                    self.found[person] = now - self._sent.pop(person)

    def stop(self) -> None:
        """End."""
        self._going = False
        self.join(5)


@contextmanager
def load(settings: Settings, codes: Path, rate: int, seconds: float, seed: int) -> Iterator[None]:
    """Scans at this rate from a process of their own."""
    command = [sys.executable, "-m", "benchmarks.background", "--codes", str(codes)]
    command += ["--rate", str(rate), "--seconds", str(seconds + _PATIENCE_S), "--seed", str(seed)]
    process = subprocess.Popen(
        command, env={**os.environ, **environment_of(settings)}, stdout=subprocess.DEVNULL
    )
    try:
        yield
    finally:
        process.terminate()
        process.wait(_PATIENCE_S)


def probe(settings: Settings, codes: Sequence[str], seconds: float, console: Console) -> dict[float, float]:
    """Seconds until each probe could be asked for, by the second at which it was sent. Raises SystemExit when
    one never could."""
    probes, chance = Probes(settings), random.Random(1)
    probes.start()
    producer = Producer({"bootstrap.servers": settings.kafka_address, "acks": "all", "linger.ms": 0})
    began, number = time.time(), 0
    with Progress(console=console) as progress:
        task = progress.add_task("probes", total=int(seconds / _EVERY_S))
        while number * _EVERY_S < seconds:
            time.sleep(max(0.0, began + number * _EVERY_S - time.time()))
            person = _FIRST_PERSON + number
            scan = {"scan_id": str(uuid.uuid4()), "person": f"{person:016x}", "venue": chance.choice(codes)}
            scan["scanned_at"] = time.time_ns() // 1_000_000  # type: ignore[assignment]
            probes.sent(person)
            producer.produce(settings.topic(topics.SCANS), orjson.dumps(scan))
            producer.poll(0)
            number += 1
            progress.advance(task)
    producer.flush(10)
    deadline = time.monotonic() + _PATIENCE_S
    while probes.outstanding() and time.monotonic() < deadline:
        time.sleep(0.1)
    probes.stop()
    if left := probes.outstanding():
        raise SystemExit(f"{left} of {number} scans never came to the archive: no figure counts")
    found = {(person - _FIRST_PERSON) * _EVERY_S: taken for person, taken in probes.found.items()}
    return {sent: taken for sent, taken in sorted(found.items()) if sent > _WARM_S}


def slowest(by_time: Mapping[float, float]) -> dict[str, float]:
    """The slowest probe of each ten seconds, by the second at which they begin."""
    found: dict[str, float] = {}
    for sent, taken in by_time.items():
        begins = f"{sent // _SHOWN_S * _SHOWN_S:g}"
        found[begins] = max(round(taken, 3), found.get(begins, 0.0))
    return found


def cores(stack: Stack, seconds: float) -> dict[str, float]:
    """How many cores each process uses over the next seconds."""
    before = cpu_seconds(stack)
    time.sleep(seconds)
    return {name: round((used - before[name]) / seconds, 2) for name, used in cpu_seconds(stack).items()}


def sustained(stack: Stack, codes: Path, first: int, most: int, console: Console) -> list[dict[str, Any]]:
    """Steps of a rising rate until a role falls behind."""
    steps: list[dict[str, Any]] = []
    rate = first
    while rate <= most:
        with load(stack.settings, codes, rate, _STEP_S, rate):
            time.sleep(_STEP_S / 4)
            used = cores(stack, _STEP_S * 3 / 4)
            # a record of the load is 100 scans; a record of visits up to 1,000
            behind = {role: lag(stack.settings, role) for role in ("ingest", "archive")}
        late = (behind["ingest"] or 0) * 100 / rate > _BEHIND_S
        steps.append({"rate": rate, "cores": used, "behind": behind, "kept_up": not late})
        console.print(f"{rate:,} scans/s: {'falls behind' if late else 'keeps up'}, {behind}, cores {used}")
        running.wait(lambda: lag(stack.settings, "ingest") == 0, 300, "ingest has caught up")
        if late:
            break
        rate = int(rate * _FACTOR)
    return steps


def main(argv: Sequence[str] | None = None) -> None:
    """Measure, and write docs/benchmarks/freshness.{json,md}."""
    parser = argparse.ArgumentParser(prog="benchmarks.freshness", description=__doc__)
    parser.add_argument("--rate", type=int, default=20_000)
    parser.add_argument("--seconds", type=float, default=600)
    parser.add_argument("--most", type=int, default=160_000, help="scans/s of the last step")
    parser.add_argument("--venues", type=int, default=5_000)
    parser.add_argument("--quick", action="store_true", help="15 seconds, no steps; nothing is written")
    parser.add_argument("--out", type=Path, default=running.OUT)
    chosen = parser.parse_args(argv)
    seconds = 15.0 if chosen.quick else chosen.seconds
    console = Console(width=None if sys.stdout.isatty() else 120)
    with tempfile.TemporaryDirectory(prefix="truyvet-freshness-") as folder:
        stack = Stack(demo_settings(Path(folder)), say=lambda line: console.print(f"  [dim]{line}[/dim]"))
        try:
            stack.up()
            venues = make_province(1_000, chosen.venues, 7).venues
            publish_venues(stack.settings, venues)
            file = Path(folder) / "codes"
            codes = [venue.code for venue in venues]
            file.write_text("\n".join(codes))
            with load(stack.settings, file, chosen.rate, seconds, 7):
                before, began = cpu_seconds(stack), time.monotonic()
                by_time = probe(stack.settings, codes, seconds, console)
                whole = time.monotonic() - began
                used = {
                    name: round((after - before[name]) / whole, 2)
                    for name, after in cpu_seconds(stack).items()
                }
                behind = lag(stack.settings, "ingest")
            running.wait(lambda: lag(stack.settings, "ingest") == 0, 300, "ingest has caught up")
            steps = [] if chosen.quick else sustained(stack, file, chosen.rate, chosen.most, console)
        finally:
            stack.down()
    taken = list(by_time.values())
    result: dict[str, Any] = {
        "rate": chosen.rate,
        "seconds": seconds,
        "probes": len(taken),
        "goal_s": GOAL_S,
        "percentiles_s": {
            str(share): round(running.percentile(taken, share), 3) for share in (0.5, 0.9, 0.99, 1)
        },
        "slowest_s": slowest(by_time),
        "cores_used": used,
        "ingest_records_behind": behind,
        "steps": steps,
    }
    console.print(json.dumps({key: value for key, value in result.items() if key != "steps"}, indent=1))
    if not chosen.quick:
        running.write("freshness", result, report(result), chosen.out, picture)


def picture(result: Mapping[str, Any], path: Path) -> None:
    """How long the slowest took over the run, and what each process used meanwhile and at each rate."""
    shares, steps = result["percentiles_s"], result["steps"]
    columns = [(f"{result['rate']:,}/s, {result['seconds']:.0f} s", result["cores_used"])]
    columns += [
        (f"{step['rate']:,}/s{'' if step['kept_up'] else ', behind'}", step["cores"]) for step in steps
    ]
    with pictures.drawing(path, 2, 2.4) as (times, used):
        series = [(float(begins), worst) for begins, worst in result["slowest_s"].items()]
        times.step(*zip(*series, strict=True), where="post", color=pictures.OURS)
        for value, words in ((shares["0.5"], "half of all"), (result["goal_s"], "wanted of 99 %")):
            times.axhline(value, color=pictures.INK, linewidth=0.9, linestyle=":")
            times.annotate(f"{words}: {value:.2g} s", (0, value), va="bottom")
        times.set_ylim(bottom=0)
        times.set_ylabel("s, slowest of ten seconds")
        times.set_xlabel("second of the run; from posting a scan to its row being read in ClickHouse")
        begins = [0.0] * len(columns)
        for name in sorted(columns[0][1]):
            shown = [of.get(name, 0.0) for _, of in columns]
            if max(shown) >= _SHOWN_CORES:
                used.barh([words for words, _ in columns], shown, left=begins, label=name, edgecolor="white")
                begins = [begin + cores for begin, cores in zip(begins, shown, strict=True)]
        used.invert_yaxis()
        used.set_xlabel("cores used")
        pictures.key(used)


def report(result: dict[str, Any]) -> str:
    """The page."""
    shares = result["percentiles_s"]
    text = (
        f"{result['rate']:,} scans/s for {result['seconds']:.0f} s, {result['probes']:,} probes, all servers"
        f" and roles on {os.cpu_count()} cores."
        " Seconds from posting a scan to its row being read in ClickHouse:\n\n"
    )
    text += running.markdown(
        ["goal, p99", "p50", "p90", "p99", "max"],
        [[result["goal_s"], *(shares[str(share)] for share in (0.5, 0.9, 0.99, 1))]],
    )
    text += "\nCores used meanwhile: "
    text += ", ".join(f"{name} {used}" for name, used in result["cores_used"].items())
    text += ".\n\nRising rates, 20 s each:\n\n"
    return text + running.markdown(
        ["scans/s", "kept up", "records behind: ingest, archive", "cores used"],
        [
            [
                f"{step['rate']:,}",
                "yes" if step["kept_up"] else "no",
                f"{step['behind']['ingest']:,}, {step['behind']['archive']:,}",
                ", ".join(f"{name} {used}" for name, used in step["cores"].items() if used >= _SHOWN_CORES),
            ]
            for step in result["steps"]
        ],
    )


if __name__ == "__main__":
    main()
