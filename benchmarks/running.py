"""What the benchmarks of the path have in common: engines of their own, worker processes, figures, files."""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import psutil

from deploy.local import engines
from deploy.local.memory import environment_of
from schemas.settings import Settings

OUT: Final = Path("docs/benchmarks")
Picture = Callable[[Mapping[str, Any], Path], None]
_STOP_S: Final = 15.0  # a worker that does not end at SIGTERM is killed: the next round must not wait for it


@contextmanager
def installation(names: Sequence[str], **changes: Any) -> Iterator[Settings]:
    """Engines of their own (`kafka`, `redis`, `clickhouse`) in a temporary folder, and settings for them."""
    with tempfile.TemporaryDirectory(prefix="truyvet-bench-") as folder:
        home = Path(folder)
        kafka, controller, redis, clickhouse, gateway = engines.free_ports(5)
        known = {
            "kafka": lambda: engines.kafka(home / "kafka", kafka, controller),
            "redis": lambda: engines.redis(home / "redis", redis),
            "clickhouse": lambda: engines.clickhouse(home / "clickhouse", clickhouse),
        }
        with engines.scratch([known[name]() for name in names], home / "logs"):
            yield Settings(
                kafka=f"127.0.0.1:{kafka}",
                redis=f"redis://127.0.0.1:{redis}/0",
                clickhouse=f"clickhouse://default@127.0.0.1:{clickhouse}/default",
                gateway_port=gateway,
                metrics_port=engines.free_base((0, 64, 65, 66)),
                **changes,
            )


@contextmanager
def worker(settings: Settings, *command: str) -> Iterator[psutil.Process]:
    """`python -m COMMAND` with these settings; what it said goes to stderr when the block fails."""
    with tempfile.TemporaryFile() as log:
        process = subprocess.Popen(
            [sys.executable, "-m", *command],
            env={**os.environ, **environment_of(settings)},
            stdout=log,
            stderr=log,
        )
        try:
            yield psutil.Process(process.pid)
        except BaseException:
            log.seek(0)
            sys.stderr.write(log.read().decode(errors="replace")[-3000:])
            raise
        finally:
            engines.end(process, _STOP_S)


def wait(until: Callable[[], bool], seconds: float, what: str) -> None:
    """Ask ten times a second. Raises SystemExit when `what` does not come true in time."""
    deadline = time.monotonic() + seconds
    while not until():
        if time.monotonic() > deadline:
            raise SystemExit(f"{what}: not within {seconds:.0f} s")
        time.sleep(0.1)


def answers(url: str) -> bool:
    """Whether it says 200."""
    try:
        with urllib.request.urlopen(url, timeout=2) as answer:  # noqa: S310 (a URL of ours)
            return bool(answer.status == 200)
    except (urllib.error.URLError, OSError):
        return False


def cpu_of(process: psutil.Process) -> float:
    """CPU seconds that a process has used, of its threads in user and system."""
    times = process.cpu_times()
    return float(times.user + times.system)


def engine_processes() -> dict[str, psutil.Process]:
    """The engines that this process has started, by name."""
    found: dict[str, psutil.Process] = {}
    for child in psutil.Process().children(recursive=True):
        words = " ".join(child.cmdline())
        for name, sign in (
            ("Kafka", "kafka.Kafka"),
            ("Redis", "redis-server"),
            ("ClickHouse", "local.clickhouse"),
        ):
            if sign in words:
                found[name] = child
    return found


def spread(values: Sequence[float], digits: int = 0) -> str:
    """Median (least to most)."""
    form = f"{{:,.{digits}f}}"
    return (
        f"{form.format(statistics.median(values))} ({form.format(min(values))} to {form.format(max(values))})"
    )


def percentile(values: Sequence[float], share: float) -> float:
    """The value below which that share of the values lies."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


def markdown(heads: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """A table."""
    lines = [heads, ["---"] * len(heads), *rows]
    return "".join(f"| {' | '.join(str(cell) for cell in line)} |\n" for line in lines)


def write(
    name: str, result: Mapping[str, Any], text: str, out: Path = OUT, picture: Picture | None = None
) -> None:
    """docs/benchmarks/NAME.json and .md, and .svg if there is a picture, which the page then shows."""
    out.mkdir(parents=True, exist_ok=True)
    machine = {"cores": os.cpu_count(), "load": os.getloadavg()}
    (out / f"{name}.json").write_text(json.dumps({**machine, **result}, indent=2) + "\n")
    if picture is not None:
        picture(result, out / f"{name}.svg")
        text += f"\n![{name}]({name}.svg)\n"
    (out / f"{name}.md").write_text(text)
