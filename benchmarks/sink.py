"""The archive role beside the same columns written straight from memory: python -m benchmarks.sink

The role (`truyvet run archive`, a process of its own) reads marks from the topic `visits`, in records as
ingest writes them. Straight from memory: the same columns in blocks of the same size, through the same kind
of connection, one after another. Each into an empty archive, in turn; each round gives a ratio, the median
counts. What came before the first block was in does not count, for either: so neither does the start of a
process. Writes docs/benchmarks/sink.json and .md.
"""

from __future__ import annotations

import argparse
import random
import statistics
import time
import urllib.request
import uuid
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import orjson
from clickhouse_driver import Client
from confluent_kafka import Producer
from confluent_kafka.admin import AdminClient
from prometheus_client.parser import text_string_to_metric_families
from rich.console import Console
from rich.progress import Progress

from benchmarks.pictures import OTHERS, OURS, drawing, key
from benchmarks.running import cpu_of, engine_processes, installation, markdown, spread, wait, worker, write
from deploy.local.roles import metrics_port
from deploy.local.topics import TopicAdmin
from schemas import topics
from schemas.codes import new_code
from schemas.events import MAX_SCANS_PER_RECORD
from schemas.settings import Settings
from sinks import archive, connection
from sinks.migrate import migrate
from sinks.rows import COLUMNS, Record, Rows

GOAL: Final = 0.7
_STRAIGHT, _SINK = "straight from memory", "archive role"
Figures = dict[str, float]


def _records(marks: int) -> list[bytes]:
    """Of a week: 900 venues, a person in two of them an hour."""
    chance = random.Random(7)
    venues = [new_code((), choose=chance.choice) for _ in range(900)]
    now = time.time_ns() // 1_000_000
    values = []
    for start in range(0, marks, MAX_SCANS_PER_RECORD):
        visits = []
        for _ in range(min(MAX_SCANS_PER_RECORD, marks - start)):
            hour, minute = divmod((now - chance.randrange(7 * 86_400_000)) // 60_000, 60)
            visits.append(
                {
                    "scan_id": str(uuid.UUID(int=chance.getrandbits(128), version=4)),
                    "person": f"{chance.getrandbits(64):016x}",
                    "venue": chance.choice(venues),
                    "hour": hour,
                    "minute": minute,
                    "kind": chance.choice(("in", "in", "in", "out")),
                    "source": "person",
                    "party": 1,
                    "received_at": now,
                }
            )
        values.append(orjson.dumps(visits))
    return values


def _fill(settings: Settings, values: Sequence[bytes]) -> None:
    producer = Producer({"bootstrap.servers": settings.kafka_address, "compression.type": "lz4"})
    for value in values:
        while True:
            try:
                producer.produce(settings.topic(topics.VISITS), value)
                break
            except BufferError:
                producer.poll(0.1)
    producer.flush(60)


def _blocks(values: Sequence[bytes]) -> list[list[list[Any]]]:
    """The same marks as columns, in blocks as large as a flush."""
    blocks, rows = [], Rows()
    for number, value in enumerate(values):
        rows.add(topics.VISITS, Record("visits", 0, number, 0, value))
        if rows.marks >= archive.FLUSH_MARKS or number == len(values) - 1:
            blocks.append(dict(rows.tables())["visits"])
            rows = Rows()
    return blocks


def _empty_archive(settings: Settings) -> Settings:
    """Another database on the same engine."""
    name = f"b{uuid.uuid4().hex[:8]}"
    server = settings.clickhouse_url.rpartition("/")[0]
    Client.from_url(f"{server}/default").execute(f"CREATE DATABASE {name}")
    return settings.model_copy(update={"clickhouse": f"{server}/{name}"})


def _drop(settings: Settings) -> None:
    server, _, name = settings.clickhouse_url.rpartition("/")
    Client.from_url(f"{server}/default").execute(f"DROP DATABASE {name} SYNC")


def _check(settings: Settings, marks: int) -> None:
    (found,) = Client.from_url(settings.clickhouse_url).execute(
        "SELECT sum(bitCount(ins) + bitCount(outs)) FROM"
        " (SELECT groupBitOr(ins) AS ins, groupBitOr(outs) AS outs FROM visits GROUP BY venue, hour, person)"
    )
    if found[0] != marks:
        raise SystemExit(f"{found[0]} marks are in the archive instead of {marks}: the run does not count")


def _straight(settings: Settings, blocks: Sequence[Any], marks: int) -> Figures:
    client = connection.connect(settings.clickhouse_url)
    migrate(client, lambda: time.time_ns() // 1_000_000)
    statement = f"INSERT INTO visits ({', '.join(COLUMNS['visits'])}) VALUES"
    client.execute(statement, blocks[0], columnar=True)
    cpu, began = time.process_time(), time.perf_counter()
    for block in blocks[1:]:
        client.execute(statement, block, columnar=True)
    seconds = time.perf_counter() - began
    client.disconnect()
    counted = marks - len(blocks[0][0])
    return {"marks_per_second": counted / seconds, "cpu_us": (time.process_time() - cpu) / counted * 1e6}


def _inserted(settings: Settings) -> int:
    """Marks that the running role says are in. 0 before it answers."""
    url = f"http://127.0.0.1:{metrics_port(settings, 'archive')}/metrics"
    try:
        with urllib.request.urlopen(url, timeout=2) as answer:
            text = answer.read().decode()
    except OSError:
        return 0
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            if sample.name == "truyvet_archive_rows_total" and sample.labels["table"] == "visits":
                return int(sample.value)
    return 0


def _sink(settings: Settings, marks: int) -> Figures:
    first: tuple[float, int, float] | None = None
    with worker(settings, "truyvet", "run", "archive") as process:
        deadline = time.monotonic() + 120
        while True:
            found, now = _inserted(settings), time.perf_counter()
            if found and first is None:
                first = now, found, cpu_of(process)
            if first is not None and found >= marks:
                break
            if time.monotonic() > deadline:
                raise SystemExit(f"the role stopped at {found} of {marks} marks")
            time.sleep(0.02)
        began, before, cpu = first
        counted = marks - before
        return {
            "marks_per_second": counted / (now - began),
            "cpu_us": (cpu_of(process) - cpu) / counted * 1e6,
            "memory_mb": process.memory_info().rss / 1e6,
        }


def _forget_place(settings: Settings) -> None:
    """The next run of the role reads from the beginning again."""
    admin = AdminClient({"bootstrap.servers": settings.kafka_address})
    group = settings.group("archive")

    def gone() -> bool:  # the broker may not have seen yet that the group is empty
        return admin.delete_consumer_groups([group])[group].exception() is None

    wait(gone, 30, "the group is deleted")


def _round(settings: Settings, job: str, blocks: Sequence[Any], marks: int) -> Figures:
    own = _empty_archive(settings)
    engine = engine_processes()["ClickHouse"]
    cpu = cpu_of(engine)
    jobs: dict[str, Callable[[], Figures]] = {
        _STRAIGHT: lambda: _straight(own, blocks, marks),
        _SINK: lambda: _sink(own, marks),
    }
    found = jobs[job]()
    found["engine_cpu_us"] = (cpu_of(engine) - cpu) / marks * 1e6
    _check(own, marks)
    _drop(own)
    if job == _SINK:
        _forget_place(settings)
    return found


def _summary(rounds: list[dict[str, Figures]], marks: int) -> tuple[dict[str, Any], str]:
    ratio = statistics.median(
        each[_SINK]["marks_per_second"] / each[_STRAIGHT]["marks_per_second"] for each in rounds
    )
    rows = []
    for job in (_STRAIGHT, _SINK):
        of = [each[job] for each in rounds]
        speed = spread([each["marks_per_second"] for each in of])
        own, engine = (statistics.median(each[name] for each in of) for name in ("cpu_us", "engine_cpu_us"))
        memory = f"{max(each['memory_mb'] for each in of):.0f}" if job == _SINK else ""
        rows.append((job, speed, f"{own:.2f}", f"{engine:.2f}", memory))
    table = markdown(("", "marks/s", "its CPU, µs a mark", "ClickHouse's CPU, µs a mark", "memory, MB"), rows)
    text = (
        f"# Sink\n\n{table}\nRatio {ratio:.2f} (goal: {GOAL}). {marks:,} marks a run, {len(rounds)} rounds in"
        " turn, everything on the same two cores. `python -m benchmarks.sink`\n"
    )
    return {"rounds": rounds, "marks": marks, "ratio": ratio}, text


def picture(result: Mapping[str, Any], path: Path) -> None:
    """Both, round by round."""
    rounds = result["rounds"]
    with drawing(path) as (axes,):
        places = range(len(rounds))
        for place, (job, colour) in enumerate(((_STRAIGHT, OTHERS), (_SINK, OURS))):
            speeds = [each[job]["marks_per_second"] / 1000 for each in rounds]
            axes.bar([at + 0.4 * place for at in places], speeds, 0.38, color=colour, label=job)
        axes.set_xticks([at + 0.2 for at in places], [f"round {at + 1}" for at in places])
        axes.set_ylabel("thousand marks a second")
        axes.set_title(f"ratio {result['ratio']:.2f}, wanted {GOAL}", loc="left", fontsize=9)
        key(axes)


def main(argv: Sequence[str] | None = None) -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--marks", type=int, default=2_000_000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--quick", action="store_true", help="one short round; nothing is written")
    options = parser.parse_args(argv)
    if options.quick:
        options.marks, options.rounds = 200_000, 1
    console = Console()
    rounds: list[dict[str, Figures]] = []
    values = _records(options.marks)
    blocks = _blocks(values)
    with installation(["kafka", "clickhouse"]) as settings, Progress(console=console) as progress:
        TopicAdmin(settings).apply()
        _fill(settings, values)
        task = progress.add_task("", total=options.rounds * 2)
        for _ in range(options.rounds):
            found = {}
            for job in (_STRAIGHT, _SINK):
                progress.update(task, description=job)
                found[job] = _round(settings, job, blocks, options.marks)
                progress.advance(task)
            rounds.append(found)
    result, text = _summary(rounds, options.marks)
    console.print(text, markup=False)
    if not options.quick:
        write("sink", result, text, picture=picture)


if __name__ == "__main__":
    main()
