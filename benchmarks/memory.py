"""What a mark costs to keep, in Redis and in ClickHouse: python -m benchmarks.memory

A simulated province: people with several scans a day over several days, at the places of their habits. Every
mark goes into Redis through the store's own steps (Store.add_scans) and into the archive through its own
insert; what then stands in both is weighed, in Redis by structure. No Kafka, no roles.
Writes docs/benchmarks/memory.json and .md.
"""

from __future__ import annotations

import argparse
import asyncio
import time
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import redis
from clickhouse_driver import Client
from rich.console import Console
from rich.progress import Progress

from benchmarks.pictures import OTHERS, OURS, drawing, goal
from benchmarks.running import installation, markdown, write
from producers.simulator.country import HourRows, country_rows
from producers.simulator.province import make_province
from schemas.settings import Settings
from schemas.topics import DAY_MS
from sinks import connection
from sinks.bulk import insert_marks
from sinks.migrate import migrate
from stream_processors.layout import KINDS, Layout
from stream_processors.requests import Marks
from stream_processors.servers import connect
from stream_processors.store import Store

GOAL: Final = 40.0
_PREFIXES: Final = {
    "b": "b: buckets of a venue's hour",
    "d": "d: large groups of a bucket",
    "p": "p: index of persons",
    "c": "c: cases of a person",
    "w": "w: who has cases",
    "f": "f: flags",
    "k": "k: cases",
    "e": "e: what stands published",
    "x": "x: erased",
    "s": "s: state",
}
_SAMPLED: Final = 20_000  # keys whose size is asked for: MEMORY USAGE of millions would take minutes


def _clock_ms() -> int:
    return time.time_ns() // 1_000_000


def _marks(rows: HourRows, codes: Any, chance: np.random.Generator) -> Marks:
    """Every set bit is a mark; its scan's id is drawn. Ordered by hour and minute, as a stream is."""
    parts = []
    for kind, masks in (("in", rows.ins), ("out", rows.outs), ("void", rows.voids)):
        for minute in range(60):
            found = np.flatnonzero(masks >> np.uint64(minute) & np.uint64(1))
            parts.append(
                (found, np.full(len(found), minute, np.int64), np.full(len(found), KINDS[kind], np.int64))
            )
    row, minutes, kinds = (np.concatenate(column) for column in zip(*parts, strict=True))
    order = np.lexsort((minutes, rows.hour[row]))
    row, minutes, kinds = row[order], minutes[order], kinds[order]
    ids = chance.integers(0, 1 << 63, len(row))
    return Marks(
        [f"{number:032x}" for number in ids.tolist()],
        [f"{person:016x}" for person in rows.person[row].tolist()],
        codes[rows.venue[row]].tolist(),
        rows.hour[row].astype(np.int64),
        minutes,
        kinds,
    )


async def _fill_redis(settings: Settings, parts: Iterator[Marks], advance: Any) -> int:
    layout = Layout(settings.redis_shards, settings.retention_days)
    store = Store(connect(settings.redis_url), layout, _clock_ms, lambda *_: None)
    await store.open({})
    count = 0
    for marks in parts:
        found = await store.add_scans(marks, [])
        count += found.verdicts.count("n")
        advance(len(marks))
    await store.close()
    return count


def _weigh(settings: Settings, marks: int) -> list[tuple[str, int, float]]:
    """Of every structure: keys, bytes a mark. Sizes are those of a sample of each, times its keys."""
    client = redis.Redis.from_url(settings.redis_url)
    keys: dict[str, list[bytes]] = defaultdict(list)
    counts: Counter[str] = Counter()
    for key in client.scan_iter(count=10_000):
        prefix = key[:1].decode()
        counts[prefix] += 1
        keys[prefix].append(key)
    rows = []
    for prefix, found in keys.items():
        some = found[:: max(1, len(found) // _SAMPLED)]
        with client.pipeline(transaction=False) as asked:
            for key in some:
                asked.memory_usage(key, samples=0)
            sizes = asked.execute()
        rows.append((prefix, counts[prefix], sum(sizes) / len(some) * counts[prefix] / marks))
    return sorted(rows, key=lambda row: -row[2])


def _archive_bytes(settings: Settings, marks: int) -> dict[str, float]:
    client = Client.from_url(settings.clickhouse_url)
    for table in ("visits", "visits_by_person"):
        client.execute(f"OPTIMIZE TABLE {table} FINAL")
    return {
        table: size / marks
        for table, size in client.execute(
            "SELECT table, sum(bytes_on_disk) FROM system.parts WHERE active AND table LIKE 'visits%'"
            " GROUP BY table ORDER BY table"
        )
    }


def _run(options: Any, progress: Progress) -> dict[str, Any]:
    end = _clock_ms() // DAY_MS * DAY_MS
    # four marks a person and day, as the simulator's regulars make them
    people = max(1_000, options.marks // (4 * options.days))
    province = make_province(people=people, venues=options.venues, seed=7)
    codes = np.array([venue.code for venue in province.venues], dtype=object)
    chance = np.random.default_rng(7)
    with installation(["redis", "clickhouse"], redis_maxmemory="0") as settings:
        archive = connection.connect(settings.clickhouse_url)
        migrate(archive, _clock_ms)
        task = progress.add_task("marks", total=options.marks)
        empty = int(redis.Redis.from_url(settings.redis_url).info("memory")["used_memory"])  # type: ignore[index, unused-ignore]

        def parts() -> Iterator[Marks]:
            for rows in country_rows(province, options.days, options.marks, end, 7):
                columns = {name: getattr(rows, name) for name in ("hour", "person", "ins", "outs", "voids")}
                insert_marks(
                    archive,
                    {"venue": codes[rows.venue], **columns, "party": rows.party, "sources": rows.sources},
                )
                yield _marks(rows, codes, chance)

        marks = asyncio.run(_fill_redis(settings, parts(), lambda count: progress.advance(task, count)))
        memory: Any = redis.Redis.from_url(settings.redis_url).info("memory")
        return {
            "marks": marks,
            "people": people,
            "venues": options.venues,
            "days": options.days,
            "redis_bytes": (int(memory["used_memory"]) - empty) / marks,
            "redis_resident_bytes": int(memory["used_memory_rss"]) / marks,
            "structures": _weigh(settings, marks),
            "clickhouse": _archive_bytes(settings, marks),
        }


def _text(found: dict[str, Any]) -> str:
    rows: list[tuple[object, ...]] = [
        (_PREFIXES.get(prefix, prefix), f"{keys:,}", f"{size:.1f}")
        for prefix, keys, size in found["structures"]
    ]
    rows.append(("all that Redis holds more than when it was empty", "", f"{found['redis_bytes']:.1f}"))
    rows.append(("resident, with what the allocator has free", "", f"{found['redis_resident_bytes']:.1f}"))
    rows += [(f"ClickHouse, {table}", "", f"{size:.1f}") for table, size in found["clickhouse"].items()]
    return (
        f"# Memory\n\n{markdown(('where', 'keys', 'bytes a mark'), rows)}\n"
        f"Redis: {found['redis_bytes']:.1f} bytes a mark (goal: {GOAL:.0f}). {found['marks']:,} marks of"
        f" {found['people']:,} people at {found['venues']:,} places in {found['days']} days."
        " `python -m benchmarks.memory`\n"
    )


def picture(found: Mapping[str, Any], path: Path) -> None:
    """What a mark's bytes are for, in each store."""
    parts = [
        ("Redis", _PREFIXES.get(prefix, prefix), size)
        for prefix, _, size in found["structures"]
        if size > 0.1
    ]
    known = sum(size for _, _, size in parts)
    parts.append(("Redis", "the rest of it", max(0.0, found["redis_bytes"] - known)))
    parts += [("ClickHouse", table, size) for table, size in found["clickhouse"].items()]
    with drawing(path, height=2.2) as (axes,):
        ends: dict[str, float] = {}
        for store, name, size in parts:
            begin = ends.get(store, 0.0)
            colour = OTHERS if begin else OURS
            (bar,) = axes.barh([store], [size], left=begin, edgecolor="white", color=colour)
            if size > 1:
                middle = bar.get_y() + bar.get_height() / 2
                at = begin + size / 2, middle
                axes.text(*at, f"{name}\n{size:.1f}", ha="center", va="center", fontsize=8)
            ends[store] = begin + size
        axes.invert_yaxis()
        axes.set_xlabel("bytes a mark")
        goal(axes, GOAL, f"wanted of Redis: {GOAL:.0f}")


def main(argv: Sequence[str] | None = None) -> None:
    """Fill, weigh and write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--marks", type=int, default=10_000_000)
    parser.add_argument("--days", type=int, default=7)
    parser.add_argument("--venues", type=int, default=900)
    parser.add_argument("--quick", action="store_true", help="200,000 marks; nothing is written")
    options = parser.parse_args(argv)
    if options.quick:
        options.marks = 200_000
    console = Console()
    with Progress(console=console) as progress:
        found = _run(options, progress)
    text = _text(found)
    console.print(text, markup=False)
    if not options.quick:
        write("memory", found, text, picture=picture)


if __name__ == "__main__":
    main()
