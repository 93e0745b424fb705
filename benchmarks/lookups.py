"""What the tracer's questions cost: python -m benchmarks.lookups --marks 100000000

Fills archives of the embedded engine with countries of 1, 10, 100 … million marks (as many marks a venue and
a person in each), and asks every question of many persons, venues and places: once to warm up, then measured.
Writes docs/benchmarks/lookups.json, and a table beside it. Absolute figures belong to the machine and to what
else runs on it.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import Any, Final

from clickhouse_driver import Client
from rich.console import Console
from rich.table import Table

from deploy import country
from deploy.cli.simulate import progress_bar
from deploy.local import engines
from lookups import connection as asking
from lookups.answers import PlaceTime, QuestionError, Window
from lookups.archive import Lookups
from lookups.groups import GroupLookups
from producers.simulator.province import make_province
from schemas.topics import DAY_MS
from sinks import connection as sink
from sinks.migrate import migrate

GOALS_MS: Final = {
    "person, 14 days": 10,
    "visitors of a venue, 4 hours": 20,
    "contacts of a person, about 60 presences in 14 days": 50,
    "chain F0 to F3, 5,000 to 20,000 persons": 1000,
    "common venues of 30 persons, 14 days": 200,
    "occupancy of a venue, a day": 20,
    "people at 20 place-times": 100,
}
HOUR_MS: Final = 3_600_000
# Answers as large as a tracer's day brings them; the chain takes its time, so it is asked less often.
TIMES: Final = 40
CHAINS: Final = 5
CHAINED: Final = (5_000, 20_000)
CHAIN_OVERLAP: Final = 240  # minutes together that make an exposure in the chain


@dataclass(frozen=True, slots=True)
class Cost:
    """Of one question: ms, and how many rows an answer has on average."""

    p50: float
    p95: float
    rows: float


@dataclass(frozen=True, slots=True)
class Size:
    """One archive. `engine_rate`: marks/s when the engine copies such rows by itself, without any client."""

    marks: int
    venues: int
    people: int
    insert_rate: float
    engine_rate: float
    bytes_a_mark: dict[str, float]
    questions: dict[str, Cost]


def clock_ms() -> int:
    """Now."""
    return time.time_ns() // 1_000_000


def measure(ask: Callable[[Any], list[Any]], subjects: list[Any]) -> Cost:
    """Every subject once to warm up, then once measured; zeros when there is nobody to ask for."""
    if not subjects:
        return Cost(0, 0, 0)
    for subject in subjects:
        ask(subject)
    seconds, rows = [], 0
    for subject in subjects:
        began = time.perf_counter()
        rows += len(ask(subject))
        seconds.append(time.perf_counter() - began)
    seconds.sort()
    at = [seconds[int(len(seconds) * share)] * 1000 for share in (0.5, 0.95)]
    return Cost(round(at[0], 1), round(at[1], 1), round(rows / len(subjects), 1))


class Subjects:
    """Persons, venues and times to ask for, as scans are spread: busy venues more often."""

    def __init__(self, client: Client, end: int) -> None:
        self._client = client
        self._chance = random.Random(7)
        self.window = Window(end - 14 * DAY_MS, end)

    def persons(self, count: int, least: int = 1, most: int = 10_000) -> list[str]:
        """Persons with so many rows in the archive."""
        rows = self._client.execute(
            "SELECT person FROM visits_by_person WHERE modulo(person, 64) = 0 GROUP BY person"
            " HAVING count() BETWEEN %(least)s AND %(most)s ORDER BY cityHash64(person) LIMIT %(count)s",
            {"count": count, "least": least, "most": most},
        )
        return [f"{row[0]:016x}" for row in rows]

    def place_times(self, count: int, hours: int) -> list[PlaceTime]:
        """Where and when some mark was made, and so many hours from there."""
        rows = self._client.execute(
            "SELECT venue, hour FROM visits_by_person WHERE person IN"
            " (SELECT person FROM visits_by_person WHERE modulo(person, 64) = 1"
            " ORDER BY cityHash64(person) LIMIT 2000)"
            " ORDER BY cityHash64(venue, hour, person) LIMIT %(count)s",
            {"count": 4 * count},
        )
        chosen = self._chance.sample(rows, count)
        return [PlaceTime(venue, Window(hour * HOUR_MS, (hour + hours) * HOUR_MS)) for venue, hour in chosen]


def ask_all(url: str, end: int) -> dict[str, Cost]:
    """Every question of one archive."""
    client, asker = asking.connect(url), asking.connect(f"{url}?max_execution_time=5")
    subjects = Subjects(client, end)
    window = subjects.window
    one, many = Lookups(asker, clock_ms, "benchmark"), GroupLookups(asker, clock_ms, "benchmark")
    places = subjects.place_times(TIMES, 4)
    crowds = subjects.persons(30 * TIMES // 2)

    def chain(person: str) -> list[Any]:
        # infectious for a day; ten hours later everybody is isolated
        since = window.end - 6 * DAY_MS
        limit = GroupLookups(asker, lambda: since + DAY_MS + 10 * HOUR_MS, "benchmark")
        return limit.chain(person, Window(since, since + DAY_MS), {}, min_overlap=CHAIN_OVERLAP)

    def chained() -> Iterator[str]:
        for person in subjects.persons(4 * CHAINS, 60, 75):
            with suppress(QuestionError):  # a crowd of tens of thousands, that takes longer than the limit
                if CHAINED[0] <= len(chain(person)) <= CHAINED[1]:
                    yield person

    work: dict[str, tuple[Callable[[Any], list[Any]], list[Any]]] = {
        "person, 14 days": (lambda who: one.person(who, window).presences, subjects.persons(TIMES, 20)),
        "visitors of a venue, 4 hours": (lambda at: one.venue(at.venue, at.window), places),
        "contacts of a person, about 60 presences in 14 days": (
            lambda who: one.contacts(who, window),
            subjects.persons(TIMES, 60, 75),
        ),
        "chain F0 to F3, 5,000 to 20,000 persons": (chain, list(islice(chained(), CHAINS))),
        "common venues of 30 persons, 14 days": (
            lambda crowd: many.common_venues(crowd, window),
            [crowds[at : at + 30] for at in range(0, len(crowds), 30)],
        ),
        "occupancy of a venue, a day": (
            lambda at: one.occupancy(
                at.venue, Window(at.window.start - DAY_MS // 2, at.window.start + DAY_MS // 2)
            ),
            places,
        ),
        "people at 20 place-times": (
            many.at_places,
            [subjects.place_times(20, 2) for _ in range(TIMES // 2)],
        ),
    }
    return {name: measure(*asked) for name, asked in work.items()}


def build(url: str, marks: int, end: int) -> dict[str, Any]:
    """Fill an archive; returns the fields of Size that this tells."""
    venues, people = max(300, marks * 30_000 // 100_000_000), max(2_000, marks // 50)
    client = sink.connect(f"{url}?send_receive_timeout=900")  # OPTIMIZE of a large archive answers late
    migrate(client, clock_ms)
    province = make_province(people, venues, 7)
    began = time.monotonic()
    with progress_bar() as progress:
        task = progress.add_task("marks", total=marks, rate="")
        total = country.fill(
            client,
            province,
            days=14,
            marks=marks,
            end_ms=end,
            seed=7,
            advance=lambda more: progress.advance(task, more),
        )
    rate = total / (time.monotonic() - began)
    for table in ("visits", "visits_by_person"):  # as after a quiet night
        client.execute(f"OPTIMIZE TABLE {table} FINAL")
    sizes = client.execute(
        "SELECT table, sum(data_compressed_bytes) FROM system.parts WHERE active"
        " AND database = currentDatabase() AND table IN ('visits', 'visits_by_person') GROUP BY table"
    )
    return {
        "venues": venues,
        "people": people,
        "insert_rate": round(rate),
        "engine_rate": round(_engine_rate(client)),
        "bytes_a_mark": {name: round(size / total, 2) for name, size in sorted(sizes)},
    }


def _engine_rate(client: Client) -> float:
    """Marks/s that the engine writes into both tables when it takes the rows from itself."""
    client.execute("CREATE TABLE direct AS visits")
    client.execute("CREATE TABLE direct_by_person AS visits_by_person")
    client.execute("CREATE MATERIALIZED VIEW direct_view TO direct_by_person AS SELECT * FROM direct")
    began = time.monotonic()
    client.execute("INSERT INTO direct SELECT * FROM visits LIMIT 3000000")
    seconds = time.monotonic() - began
    ((marks,),) = client.execute("SELECT sum(bitCount(ins) + bitCount(outs) + bitCount(voids)) FROM direct")
    for table in ("direct_view", "direct_by_person", "direct"):
        client.execute(f"DROP TABLE {table} SYNC")
    return float(marks / seconds)


@contextmanager
def engine(folder: Path | None) -> Iterator[str]:
    """An engine of its own; its data go with it unless a folder is given."""
    with tempfile.TemporaryDirectory() as scratch:
        data = folder or Path(scratch)
        port = engines.free_ports(1)[0]
        with engines.scratch([engines.clickhouse(data / "clickhouse", port)], data / "logs"):
            yield f"clickhouse://default@127.0.0.1:{port}"


def report(found: list[Size], console: Console) -> str:
    """The table, on the console and as Markdown."""
    table = Table(title="Lookups, warm: p50 / p95 in ms (rows of an answer)", title_justify="left")
    heads = ["question", "goal", *(f"{size.marks:,} marks" for size in found)]
    lines = [f"| {' | '.join(heads)} |", f"|{'---|' * len(heads)}"]
    for head in heads:
        table.add_column(head)
    for name, goal in GOALS_MS.items():
        costs = [size.questions[name] for size in found]
        cells = [name, str(goal), *(f"{it.p50:,} / {it.p95:,} ({it.rows:,.0f})" for it in costs)]
        table.add_row(*cells)
        lines.append(f"| {' | '.join(cells)} |")
    facts = {
        "bytes a mark, both tables": [f"{sum(size.bytes_a_mark.values()):.1f}" for size in found],
        "insert, marks/s": [f"{size.insert_rate:,.0f}" for size in found],
        "… of what the engine does by itself": [
            f"{size.insert_rate / size.engine_rate:.2f}" for size in found
        ],
    }
    for name, values in facts.items():
        table.add_row(name, "", *values)
        lines.append(f"| {name} |  | {' | '.join(values)} |")
    console.print(table)
    return "\n".join(lines) + "\n"


def main(argv: Sequence[str] | None = None) -> None:
    """Measure the sizes up to --marks and write the results."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--marks", type=int, default=10_000_000, help="the largest archive")
    parser.add_argument("--only", action="store_true", help="that one alone, not 1 and 10 million before it")
    parser.add_argument(
        "--data", type=Path, help="folder that keeps the archives; asked again if they are there"
    )
    parser.add_argument("--out", type=Path, default=Path("docs/benchmarks"))
    parser.add_argument(
        "--quick", action="store_true", help="a million marks alone; writes to a scratch folder"
    )
    options = parser.parse_args(argv)
    if options.quick:
        options.marks, options.out = 1_000_000, Path(tempfile.mkdtemp(prefix="bench-"))
    sizes = [options.marks]
    while not options.only and sizes[0] > 1_000_000:
        sizes.insert(0, sizes[0] // 10)
    end = clock_ms() // DAY_MS * DAY_MS
    console = Console()
    found = []
    with engine(options.data) as server:
        admin = Client.from_url(f"{server}/default")
        for marks in sizes:
            name = f"c{marks}"
            known = options.data and (options.data / f"{name}.json")
            if known and known.exists():
                facts = json.loads(known.read_text())
            else:
                admin.execute(f"DROP DATABASE IF EXISTS {name} SYNC")
                admin.execute(f"CREATE DATABASE {name}")
                facts = {"end": end, **build(f"{server}/{name}", marks, end)}
                if known:
                    known.write_text(json.dumps(facts))
            questions = ask_all(f"{server}/{name}", facts.pop("end"))
            found.append(Size(marks=marks, questions=questions, **facts))
            text = report(found, console)
    options.out.mkdir(parents=True, exist_ok=True)
    result = {"cores": os.cpu_count(), "load": os.getloadavg(), "sizes": [asdict(size) for size in found]}
    (options.out / "lookups.json").write_text(json.dumps(result, indent=2) + "\n")
    (options.out / "lookups.md").write_text(text)


if __name__ == "__main__":
    main()
