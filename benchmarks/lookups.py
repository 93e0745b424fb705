"""What the tracer's questions cost: python -m benchmarks.lookups

Fills archives of the embedded engine with countries of 1, 10 and 100 million marks (some 2 GB of disk), as
many marks a venue and a person in each: with --data they are kept, and --build makes them without asking.
Asks every question of many persons, venues and places: once to warm up, then measured; the entry in the
audit, that each question makes first, by itself. How fast rows are inserted is measured on a fresh archive.
Writes docs/benchmarks/lookups.json and a table beside it. Absolute figures belong to the machine and to what
else runs on it.
"""

from __future__ import annotations

import argparse
import json
import math
import random
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import Any, Final

import numpy as np
from clickhouse_driver import Client
from rich.console import Console
from rich.table import Table

from benchmarks import running
from benchmarks.pictures import drawing
from deploy import country
from deploy.cli.simulate import progress_bar
from deploy.local import engines
from lookups import connection as asking
from lookups.answers import PlaceTime, QuestionError, Window
from lookups.archive import Lookups
from lookups.groups import GroupLookups
from producers.simulator.country import country_rows
from producers.simulator.province import make_province
from schemas.topics import DAY_MS
from sinks import connection as sink
from sinks.migrate import migrate
from sinks.rows import COLUMNS

GOALS_MS: Final = {
    "person, 14 days": 10,
    "visitors of a venue, 4 hours": 20,
    "contacts of a person, 55 to 65 presences in 14 days": 50,
    "chain F0 to F3, about 10,000 persons": 1000,
    "common venues of 30 persons, 14 days": 200,
    "occupancy of a venue, a day": 20,
    "people at 20 place-times": 100,
}
HOUR_MS: Final = 3_600_000
# Answers as large as a tracer's day brings them; the chain takes its time, so it is asked less often.
TIMES: Final = 100
CHAINS: Final = 5
CHAINED: Final = (7_500, 12_500)
CHAIN_OVERLAP: Final = 240  # minutes together that make an exposure in the chain
QUIET: Final = -6  # hours: who has reached hardly anybody by then is left
SEARCH_S: Final = 150
INSERTED: Final = 3_000_000
ROUNDS: Final = 3


@dataclass(frozen=True, slots=True)
class Cost:
    """Of one question: ms, and how many rows an answer has on average."""

    p50: float
    p95: float
    rows: float


@dataclass(frozen=True, slots=True)
class Size:
    """One archive. `fill_rate`: marks/s when it was filled, the making of the marks included."""

    marks: int
    venues: int
    people: int
    fill_rate: float
    bytes_a_mark: dict[str, float]
    questions: dict[str, Cost]


def clock_ms() -> int:
    """Now."""
    return time.time_ns() // 1_000_000


def measure(ask: Callable[[Any], Sequence[Any]], subjects: list[Any]) -> Cost:
    """Every subject once to warm up, then once measured; zeros when there is nobody to ask for.

    Until the answer is there: what its rows take to be thrown away again is not part of it.
    """
    if not subjects:
        return Cost(0, 0, 0)
    for subject in subjects:
        ask(subject)
    seconds, rows = [], 0
    for subject in subjects:
        began = time.perf_counter()
        answer = ask(subject)
        seconds.append(time.perf_counter() - began)
        rows += len(answer)
        del answer
    seconds.sort()
    at = [seconds[math.ceil(len(seconds) * share) - 1] * 1000 for share in (0.5, 0.95)]  # nearest rank
    return Cost(round(at[0], 1), round(at[1], 1), round(rows / len(subjects), 1))


class Unwritten:
    """A desk that lets every question pass: what its entry costs is measured by itself."""

    def asked(self, question: str, arguments: Mapping[str, object]) -> None:
        """Nothing."""


class Subjects:
    """Persons, venues and times to ask for, as scans are spread: busy venues more often."""

    def __init__(self, client: Client, end: int) -> None:
        self._client = client
        self._chance = random.Random(7)
        self.window = Window(end - 14 * DAY_MS, end)

    def persons(self, count: int, least: int = 1, most: int = 10_000, share: int = 64) -> list[str]:
        """Persons with so many rows in the archive, out of every 64th or another share of them."""
        rows = self._client.execute(
            "SELECT person FROM visits_by_person WHERE modulo(person, %(share)s) = 0 GROUP BY person"
            " HAVING count() BETWEEN %(least)s AND %(most)s ORDER BY cityHash64(person) LIMIT %(count)s",
            {"count": count, "least": least, "most": most, "share": share},
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


def ask_all(url: str, end: int, search_s: float) -> dict[str, Cost]:
    """Every question of one archive; for so long is looked for persons with a large chain."""
    client, asker = asking.connect(url), asking.connect(f"{url}?max_execution_time=5")
    subjects = Subjects(client, end)
    window = subjects.window
    one, many = Lookups(asker, clock_ms, Unwritten()), GroupLookups(asker, clock_ms, Unwritten())
    places = subjects.place_times(TIMES, 4)
    crowds = subjects.persons(30 * TIMES // 2)

    def presences(who: str) -> int:
        return len(one.person(who, window).presences)

    # a presence has one row or two; hardly anybody in these countries has more than 65 presences
    often = (who for who in subjects.persons(100 * TIMES, 72, share=1) if 55 <= presences(who) <= 65)
    met = list(islice(often, TIMES))

    def chain(subject: tuple[str, int]) -> list[Any]:
        # infectious for a day; so many hours after it everybody is isolated
        person, hours = subject
        since = window.end - 6 * DAY_MS
        limit = GroupLookups(asker, lambda: since + DAY_MS + hours * HOUR_MS, Unwritten())
        return limit.chain(person, Window(since, since + DAY_MS), {}, min_overlap=CHAIN_OVERLAP)

    def chained() -> Iterator[tuple[str, int]]:
        """Persons, and the hours (counted from the end of the day) after which they have reached so many."""
        until = time.monotonic() + search_s
        for person in subjects.persons(12 * CHAINS, 60, 75):
            if time.monotonic() > until:
                return
            with suppress(QuestionError):  # a crowd of tens of thousands, that takes longer than the limit
                for hours in range(-22, 24):
                    reached = len(chain((person, hours)))
                    if CHAINED[0] <= reached <= CHAINED[1]:
                        yield person, hours
                    if reached >= CHAINED[0] or (hours == QUIET and reached < CHAINED[0] // 100):
                        break

    work: dict[str, tuple[Callable[[Any], Sequence[Any]], list[Any]]] = {
        "person, 14 days": (lambda who: one.person(who, window).presences, subjects.persons(TIMES, 20)),
        "visitors of a venue, 4 hours": (lambda at: one.venue(at.venue, at.window), places),
        "contacts of a person, 55 to 65 presences in 14 days": (lambda who: one.contacts(who, window), met),
        "the same, and a row made of each": (lambda who: list(one.contacts(who, window)), met),
        "chain F0 to F3, about 10,000 persons": (chain, list(islice(chained(), CHAINS))),
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
    found = {name: measure(*asked) for name, asked in work.items()}
    written = Lookups(asker, clock_ms, "benchmark")

    def note(person: str) -> list[Any]:
        written._note("person", window, person=person)
        return [person]

    found["before each: its entry in the archive's table of the audit"] = measure(
        note, subjects.persons(TIMES)
    )
    return found


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
        "fill_rate": round(rate),
        "bytes_a_mark": {name: round(size / total, 2) for name, size in sorted(sizes)},
    }


def insert_rates(url: str, inserted: int, rounds: int) -> dict[str, float]:
    """Marks/s of the same rows in the same blocks into the same two tables, in turn, medians.

    `driver`: prepared columns through clickhouse-driver. `engine`: by itself, from tables in memory.
    """
    client = sink.connect(f"{url}?send_receive_timeout=900")
    migrate(client, clock_ms)
    province = make_province(inserted // 50, inserted * 30_000 // 100_000_000, 7)
    codes = np.array([venue.code for venue in province.venues], dtype=object)
    names = COLUMNS["visits"]
    blocks = []
    for number, rows in enumerate(country_rows(province, 14, inserted, clock_ms(), 7)):
        columns = [codes[rows.venue] if name == "venue" else getattr(rows, name) for name in names]
        blocks.append([column.tolist() for column in columns])
        client.execute(f"CREATE TABLE own_{number} AS visits ENGINE = Memory")
        client.execute(f"INSERT INTO own_{number} ({', '.join(names)}) VALUES", blocks[-1], columnar=True)
    ((marks,),) = client.execute(
        "SELECT sum(bitCount(ins) + bitCount(outs) + bitCount(voids)) FROM merge('^own_')"
    )
    ways: dict[str, Callable[[int], object]] = {
        "driver": lambda at: client.execute(
            f"INSERT INTO visits ({', '.join(names)}) VALUES", blocks[at], columnar=True
        ),
        "engine": lambda at: client.execute(f"INSERT INTO visits SELECT * FROM own_{at}"),  # noqa: S608
    }
    rates: dict[str, list[float]] = {way: [] for way in ways}
    for _ in range(rounds):
        for way, insert in ways.items():
            for table in ("visits", "visits_by_person"):
                client.execute(f"TRUNCATE TABLE {table}")
            began = time.monotonic()
            for at in range(len(blocks)):
                insert(at)
            rates[way].append(marks / (time.monotonic() - began))
    return {way: round(statistics.median(found)) for way, found in rates.items()}


@contextmanager
def engine(folder: Path | None) -> Iterator[str]:
    """An engine of its own; its data go with it unless a folder is given."""
    with tempfile.TemporaryDirectory() as scratch:
        data = folder or Path(scratch)
        port = engines.free_ports(1)[0]
        with engines.scratch([engines.clickhouse(data / "clickhouse", port)], data / "logs"):
            yield f"clickhouse://default@127.0.0.1:{port}"


def report(found: list[Size], rates: dict[str, float], console: Console) -> str:
    """The table, on the console and as Markdown."""
    table = Table(title="Lookups, warm: p50 / p95 in ms (rows of an answer)", title_justify="left")
    heads = ["question", "goal", *(f"{size.marks:,} marks" for size in found)]
    lines = [f"| {' | '.join(heads)} |", f"|{'---|' * len(heads)}"]
    for head in heads:
        table.add_column(head)
    for name in found[0].questions:
        costs, goal = [size.questions[name] for size in found], str(GOALS_MS.get(name, ""))
        cells = [name, goal, *(f"{it.p50:,} / {it.p95:,} ({it.rows:,.0f})" for it in costs)]
        table.add_row(*cells)
        lines.append(f"| {' | '.join(cells)} |")
    facts = {
        "bytes a mark, both tables": ["20", *(f"{sum(size.bytes_a_mark.values()):.1f}" for size in found)],
        "filled, marks/s, made and inserted": ["", *(f"{size.fill_rate:,.0f}" for size in found)],
        "inserted, marks/s": ["150,000", f"{rates['driver']:,.0f}", *[""] * (len(found) - 1)],
        "… of what the engine does by itself": [
            "0.50",
            f"{rates['driver'] / rates['engine']:.2f}",
            *[""] * (len(found) - 1),
        ],
    }
    for name, values in facts.items():
        table.add_row(name, *values)
        lines.append(f"| {name} | {' | '.join(values)} |")
    console.print(table)
    return "\n".join(lines) + "\n"


def main(argv: Sequence[str] | None = None) -> None:
    """Measure the sizes up to --marks and write the results."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--marks", type=int, default=100_000_000, help="the largest archive")
    parser.add_argument("--only", action="store_true", help="that one alone, not 1 and 10 million before it")
    parser.add_argument(
        "--data", type=Path, help="folder that keeps the archives; asked again if they are there"
    )
    parser.add_argument("--build", action="store_true", help="make the archives of --data, ask nothing")
    parser.add_argument("--out", type=Path, default=Path("docs/benchmarks"))
    parser.add_argument(
        "--quick", action="store_true", help="200,000 marks alone; writes to a scratch folder"
    )
    options = parser.parse_args(argv)
    if options.quick:
        options.marks, options.out = 200_000, Path(tempfile.mkdtemp(prefix="bench-"))
    inserted, rounds, search_s = (300_000, 1, 2) if options.quick else (INSERTED, ROUNDS, SEARCH_S)
    sizes = [options.marks]  # the largest first: what is cut off is the least
    while not options.only and sizes[-1] > 1_000_000:
        sizes.append(sizes[-1] // 10)
    end = clock_ms() // DAY_MS * DAY_MS
    found: list[Size] = []
    rates = {}
    if not options.build:
        with engine(None) as server:
            rates = insert_rates(f"{server}/default", inserted, rounds)
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
            if not options.build:
                questions = ask_all(f"{server}/{name}", facts.pop("end"), search_s)
                found.insert(0, Size(marks=marks, questions=questions, **facts))
                write(options.out, found, rates)


def write(folder: Path, found: list[Size], rates: dict[str, float]) -> None:
    """What is known so far."""
    text = report(found, rates, Console())
    result = {"insert_rates": rates, "sizes": [asdict(size) for size in found]}
    running.write("lookups", result, text, folder, picture)


def picture(result: Mapping[str, Any], path: Path) -> None:
    """What each question takes (p95) over the size of the archive, beside what was wanted."""
    sizes = result["sizes"]
    with drawing(path, height=4.2) as (axes,):
        for question, goal in GOALS_MS.items():
            asked = [
                (size["marks"], size["questions"][question]["p95"])
                for size in sizes
                if question in size["questions"]
            ]
            if not asked:
                continue
            (line,) = axes.plot(*zip(*asked, strict=True), marker="o", label=question)
            axes.plot([asked[-1][0] * 1.5], [goal], marker="_", markersize=14, color=line.get_color())
        axes.set_xscale("log")
        axes.set_yscale("log")
        axes.set_xlabel("marks in the archive; the dash at the right is what was wanted")
        axes.set_ylabel("ms, p95")
        axes.legend(frameon=False, fontsize=8, loc="upper left", bbox_to_anchor=(1, 1))


if __name__ == "__main__":
    main()
