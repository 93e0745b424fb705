"""make bench: every measurement in turn, or those named: python -m benchmarks [names…] [--quick]"""

from __future__ import annotations

import argparse
import importlib
import sys
import time
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
    console = Console()
    chosen = options.names or list(PARTS)
    failed = []
    for number, name in enumerate(chosen, 1):
        console.rule(f"{number} of {len(chosen)}: {name}, {PARTS[name]}")
        began = time.monotonic()
        code = importlib.import_module(f"benchmarks.{name}").main(["--quick"] if options.quick else [])
        console.print(f"{name}: {'failed' if code else 'done'} after {time.monotonic() - began:.0f} s")
        if code:
            failed.append(name)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
