"""The gateway beside an endpoint of the same server that does nothing: python -m benchmarks.gateway

One server process (benchmarks/gateway_ends.py), one process of load with many connections that are kept
open; the endpoints are measured in turn, each round gives a ratio, the median counts. An answer of the
gateway means that Kafka has acknowledged. Latencies at saturation, and at half of the speed found.
Writes docs/benchmarks/gateway.json and .md.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import psutil
from pydantic import SecretStr
from rich.console import Console
from rich.progress import Progress

from benchmarks.gateway_ends import KEY
from benchmarks.pictures import bars, drawing, goal
from benchmarks.running import answers, cpu_of, installation, markdown, spread, wait, worker, write
from deploy.local.topics import TopicAdmin
from schemas.settings import Settings

BATCH: Final = 100
GOAL_SINGLE: Final = 0.5
GOAL_BATCH: Final = 30_000
NOOP, BARE, SINGLE, BATCHED, HALF = "no-op of FastAPI", "no-op below FastAPI", "one scan", "100 scans", "half"
Figures = dict[str, float]


def _load(settings: Settings, server: psutil.Process, options: Any, path: str, **how: float) -> Figures:
    """One measurement; `how`: scans a request, rate of requests a second (0: as fast as it goes)."""
    scans, rate = how["scans"], how["rate"]
    connections = options.connections if scans == 1 else max(4, options.connections // 8)
    words = (settings.gateway_port, path, scans, options.seconds, connections, rate)
    before = cpu_of(server)
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.gateway_ends", "load", *map(str, words)],
        capture_output=True,
        text=True,
        timeout=options.seconds * 4 + 30,
        check=False,
    )
    if done.returncode:
        raise SystemExit(f"{path}: {done.stderr.strip()[-500:]}")
    found: Figures = json.loads(done.stdout)
    return found | {"server_us": (cpu_of(server) - before) / found["sent"] * 1e6}


def _table(rounds: list[dict[str, Figures]]) -> str:
    rows = []
    for name in (NOOP, BARE, SINGLE, BATCHED):
        of = [each[name] for each in rounds]
        speeds = [each["requests_per_second"] for each in of]
        scans = {SINGLE: 1, BATCHED: BATCH}.get(name, 0)
        rows.append(
            (
                name,
                spread(speeds),
                f"{statistics.median(speeds) * scans:,.0f}" if scans else "",
                f"{statistics.median(each['p50_ms'] for each in of):.1f}",
                f"{statistics.median(each['p99_ms'] for each in of):.1f}",
                f"{statistics.median(each['server_us'] for each in of):,.0f}",
                f"{statistics.median(each['client_cpu'] for each in of):.2f}",
            )
        )
    heads = (
        "a request",
        "requests/s",
        "scans/s",
        "p50 ms",
        "p99 ms",
        "server's CPU, µs",
        "cores of the load",
    )
    return markdown(heads, rows)


def _summary(rounds: list[dict[str, Figures]], options: Any) -> tuple[dict[str, Any], str]:
    def ratio(name: str, other: str) -> float:
        return statistics.median(
            each[name]["requests_per_second"] / each[other]["requests_per_second"] for each in rounds
        )

    def middle(name: str, figure: str) -> float:
        return statistics.median(each[name][figure] for each in rounds)

    batches = middle(BATCHED, "requests_per_second") * BATCH
    half = f"{SINGLE}, {HALF}"
    result = {
        "rounds": rounds,
        "single_to_noop": ratio(SINGLE, NOOP),
        "single_to_bare": ratio(SINGLE, BARE),
        "batch_scans_per_second": batches,
        "half_speed_p99_ms": middle(half, "p99_ms"),
    }
    text = (
        f"# Gateway\n\n{_table(rounds)}\n"
        f"- One scan a request: {result['single_to_noop']:.2f} of the requests/s of a no-op of FastAPI on the"
        f" same server (goal: {GOAL_SINGLE}), {result['single_to_bare']:.2f} of one below FastAPI.\n"
        f"- {BATCH} scans a request: {batches:,.0f} scans/s (goal: {GOAL_BATCH:,}).\n"
        f"- At half speed ({middle(half, 'requests_per_second'):,.0f} single scans a second): p50"
        f" {middle(half, 'p50_ms'):.1f} ms, p99 {middle(half, 'p99_ms'):.1f} ms, counted from when a request"
        " was due.\n\n"
        f"{len(rounds)} rounds in turn, {options.seconds:g} s each, {options.connections} connections"
        f" ({max(4, options.connections // 8)} for batches), one server process; load, server and Kafka on"
        " the same two cores. `python -m benchmarks.gateway`\n"
    )
    return result, text


def picture(result: Mapping[str, Any], path: Path) -> None:
    """Requests of each kind, and how long they took at full and at half speed."""
    rounds, half = result["rounds"], f"{SINGLE}, {HALF}"

    def middle(kind: str, figure: str) -> float:
        return float(statistics.median(each[kind][figure] for each in rounds))

    with drawing(path, 3, 2.0) as (requests, scans, waits):
        kinds = (BARE, NOOP, SINGLE)
        bars(
            requests,
            kinds,
            [middle(kind, "requests_per_second") for kind in kinds],
            [kind == SINGLE for kind in kinds],
        )
        requests.set_xlabel("requests a second")
        bars(scans, [f"{BATCH} scans"], [middle(BATCHED, "requests_per_second") * BATCH], [True])
        goal(scans, GOAL_BATCH, f"wanted: {GOAL_BATCH:,}")
        scans.set_xlabel("scans a second")
        kinds = (SINGLE, half, BATCHED)
        bars(waits, kinds, [middle(kind, "p99_ms") for kind in kinds], [True] * 3, "{:,.1f}")
        waits.set_xlabel("ms that 99 % of the requests were answered within")


def main(argv: Sequence[str] | None = None) -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=5, help="of each measurement")
    parser.add_argument("--connections", type=int, default=128)
    parser.add_argument("--quick", action="store_true", help="one short round; nothing is written")
    options = parser.parse_args(argv)
    if options.quick:
        options.rounds, options.seconds = 1, 1
    console = Console()
    rounds: list[dict[str, Figures]] = []
    with installation(["kafka"], gateway_keys={"benchmark": SecretStr(KEY)}) as settings:
        TopicAdmin(settings).apply()
        with (
            worker(settings, "benchmarks.gateway_ends", "serve") as server,
            Progress(console=console) as progress,
        ):
            ready = f"http://127.0.0.1:{settings.gateway_port}/readyz"
            wait(lambda: answers(ready), 30, "the gateway gets ready")
            task = progress.add_task("", total=options.rounds * 5)
            for _ in range(options.rounds):
                found: dict[str, Figures] = {}
                for name, path, scans in (
                    (NOOP, "/noop", 1),
                    (SINGLE, "/v1/scans", 1),
                    (BARE, "/bare", 1),
                    (BATCHED, "/v1/scans", BATCH),
                    (f"{SINGLE}, {HALF}", "/v1/scans", 1),
                ):
                    progress.update(task, description=name)
                    rate = found[SINGLE]["requests_per_second"] / 2 if HALF in name else 0
                    found[name] = _load(settings, server, options, path, scans=scans, rate=rate)
                    progress.advance(task)
                rounds.append(found)
    result, text = _summary(rounds, options)
    console.print(text, markup=False)
    if not options.quick:
        write("gateway", result, text, picture=picture)


if __name__ == "__main__":
    main()
