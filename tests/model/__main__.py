"""`python -m tests.model`: every scenario, with a crash or a zombie at any step: minutes, and gigabytes.

What is too long for each run of the tests, on a Redis of its own. Exit 1 when anything is broken.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import redis

from deploy.local.engines import free_ports
from tests.model.actors import Actors, Tree
from tests.model.explore import Explorer, Scenario
from tests.model.scenarios import NOW_MS, REGISTERS, SCENARIOS
from tests.model.scripts import Scripts
from tests.stream.harness import redis_of_its_own

_WAYS = {"no fault": (0, False), "a crash": (1, False), "a zombie": (1, True)}


def _explored(scenario: Scenario, client: redis.Redis, most: int) -> tuple[str, bool]:
    explorer = Explorer(scenario, Tree(Actors(REGISTERS, NOW_MS)), Scripts(client))
    began = time.monotonic()
    found = explorer.explore(most)
    said = found.broken[0] if found.broken else "holds" if found.whole else "holds as far as was looked"
    return f"{found.states:>10,} states {time.monotonic() - began:6.1f} s  {said}", not found.broken


def main() -> int:
    """Explore, and print a line for each scenario and fault."""
    parser = argparse.ArgumentParser(prog="python -m tests.model", description=__doc__)
    parser.add_argument("--most", type=int, default=8_000_000, help="states of one exploration")
    parser.add_argument("--only", default="", help="scenarios whose names contain this")
    given = parser.parse_args()
    (port,) = free_ports(1)
    held = True
    with (
        tempfile.TemporaryDirectory() as folder,
        redis_of_its_own(Path(folder), port),
        redis.Redis(port=port) as client,
    ):
        for scenario in SCENARIOS:
            for way, (faults, zombies) in _WAYS.items():
                if given.only in scenario.name:
                    said, good = _explored(
                        replace(scenario, faults=faults, zombies=zombies), client, given.most
                    )
                    print(f"{scenario.name:<38} {way:<9} {said}", flush=True)
                    held &= good
    return 0 if held else 1


if __name__ == "__main__":
    sys.exit(main())
