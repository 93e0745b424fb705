"""make bench: every measurement in turn, or those named: python -m benchmarks [names…] [--quick]

Quick ones say whether everything works; most of their time they wait for servers to start and to end. So two
run beside each other, each in a process of its own.
"""

from __future__ import annotations

import argparse
import importlib
import subprocess
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from typing import Final

from rich.console import Console

# To add one: a line here, and a module whose `main(argv)` knows --quick and returns an exit code (or None).
PARTS: Final = {
    "throughput": "the ingest job beside the same work in other frameworks",
    "latency": "case and late scan to exposure, under load",
    "calm": "a scan until its visit is published, when few come",
    "freshness": "a scan until it can be asked for, and the most that is sustained",
    "gateway": "requests and scans a second that are taken in",
    "sink": "visits into ClickHouse beside the same columns straight from memory",
    "memory": "what a mark takes in Redis and ClickHouse",
    "backlog": "what a worker holds while ten million scans wait",
    "scaling": "several workers, and a Redis Cluster",
    "capacity": "machines for a population, computed",
    "lookups": "what a tracer's questions cost",
}


_AT_ONCE: Final = 2  # quick ones; more would wait for the two cores instead of for servers
_LONG: Final = ("latency", "throughput", "scaling")  # begun first: one that began last would run alone
_ENDS_S: Final = 30.0  # at Ctrl-C, for the servers of a part; it is killed past it


def _in_turn(names: Sequence[str], quick: bool, console: Console) -> list[str]:
    """Run them here; those that failed."""
    failed = []
    for number, name in enumerate(names, 1):
        console.rule(f"{number} of {len(names)}: {name}, {PARTS[name]}")
        began = time.monotonic()
        code = importlib.import_module(f"benchmarks.{name}").main(["--quick"] if quick else [])
        console.print(f"{name}: {'failed' if code else 'done'} after {time.monotonic() - began:.0f} s")
        if code:
            failed.append(name)
    return failed


def _beside_each_other(names: Sequence[str], console: Console) -> list[str]:
    """Quick ones; what each says is shown when it is over. Those that failed."""
    names = sorted(names, key=lambda name: name not in _LONG)
    running: dict[str, subprocess.Popen[str]] = {}

    def run(name: str) -> tuple[str, int]:
        command = [sys.executable, "-m", "benchmarks", name, "--quick"]
        running[name] = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace"
        )
        said, _ = running[name].communicate()
        return said, running.pop(name).returncode

    failed = []
    with ThreadPoolExecutor(_AT_ONCE) as pool, console.status("") as status:
        asked = {pool.submit(run, name): name for name in names}
        status.update(f"0 of {len(names)}: {' and '.join(names[:_AT_ONCE])} are under way")
        try:
            for number, future in enumerate(as_completed(asked), 1):
                said, code = future.result()
                console.print(said, markup=False, highlight=False)
                status.update(f"{number} of {len(names)}: {' and '.join(running)} under way")
                if code:
                    failed.append(asked[future])
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            for process in list(running.values()):
                process.terminate()
                try:
                    process.wait(_ENDS_S)
                except subprocess.TimeoutExpired:
                    process.kill()
            raise
    return failed


def main(argv: list[str]) -> int:
    """Run the parts; 1 when one of them failed. The others still run."""
    names = "\n".join(f"  {name:12} {about}" for name, about in PARTS.items())
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks",
        description=f"Measurements, in turn:\n{names}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("names", nargs="*", metavar="name", help="default: all")
    parser.add_argument("--quick", action="store_true", help="small and short: whether it works, not figures")
    options = parser.parse_args(argv)
    if unknown := [name for name in options.names if name not in PARTS]:
        parser.error(f"no part is called {', '.join(unknown)}: there are {', '.join(PARTS)}")
    console, chosen = Console(), options.names or list(PARTS)
    if options.quick and len(chosen) > 1:
        failed = _beside_each_other(chosen, console)
    else:
        failed = _in_turn(chosen, options.quick, console)
    if failed:
        console.print(f"[red]failed: {', '.join(failed)}[/]")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
