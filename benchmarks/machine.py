"""On what the figures were measured, and whether anything else ran meanwhile."""

from __future__ import annotations

import hashlib
import os
import platform
import re
import shutil
import subprocess
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Final

import psutil

BUSY_LIMIT: Final = 0.10  # of all cores, while the engines idle
SLOW_LIMIT: Final = 1.15  # against the best calibration of the same run
_PACKAGES: Final = ("faust-streaming", "aiokafka", "confluent-kafka", "redis", "pydantic", "orjson")


@dataclass(frozen=True, slots=True)
class Quiet:
    """One look before a round. `calibration`: ms of a fixed work on one core; `why` it is not quiet."""

    load: float
    busy: float
    calibration: float
    why: str = ""


@dataclass(slots=True)
class Watch:
    """Looks before each round; the quickest calibration so far is what the machine can do."""

    looks: list[Quiet] = field(default_factory=list)

    def look(self) -> Quiet:
        """Takes about a second and a half."""
        busy = psutil.cpu_percent(1.0) / 100
        calibration = min(_fixed_work() for _ in range(3))
        best = min([calibration, *(look.calibration for look in self.looks)])
        reasons = []
        if busy > BUSY_LIMIT:
            reasons.append(f"{busy:.0%} of the cores were busy before anything was started")
        if calibration > SLOW_LIMIT * best:
            reasons.append(f"a fixed piece of work took {calibration / best:.2f} times its best")
        found = Quiet(round(os.getloadavg()[0], 2), busy, round(calibration, 1), "; ".join(reasons))
        self.looks.append(found)
        return found


def _fixed_work() -> float:
    began = time.perf_counter()
    digest = b""
    for _ in range(100_000):
        digest = hashlib.blake2s(digest).digest()
    return (time.perf_counter() - began) * 1000


def describe() -> dict[str, object]:
    """The machine, as far as it explains speeds."""
    memory = psutil.virtual_memory().total / 2**30
    return {
        "cpu": _cpu_name(),
        "cores": os.cpu_count(),
        "memory GiB": round(memory),
        "system": f"{platform.system()} {platform.release().split('-')[0]}",
    }


def _cpu_name() -> str:
    try:
        text = Path("/proc/cpuinfo").read_text()
    except OSError:
        return platform.processor()
    found = re.search(r"model name\s*:\s*(.+)", text)
    return found.group(1) if found else platform.processor()


def versions(jars: Iterable[Path], pythons: Iterable[tuple[Path, str]]) -> dict[str, str]:
    """What was compared: packages of this Python, servers, jars by name, and packages of other Pythons."""
    found = {"python": platform.python_version()}
    for name in _PACKAGES:
        found[name] = metadata.version(name)
    for jar in jars:
        name, _, version = jar.stem.rpartition("-")
        found[name] = version
    for python, name in pythons:
        code = f"import importlib.metadata as m; print(m.version({name!r}))"
        found[name] = _said(str(python), "-c", code)
    found["java"] = re.sub(r'.*version "([^"]+)".*', r"\1", _said("java", "-version"))
    found["redis-server"] = re.sub(r".*v=(\S+).*", r"\1", _said("redis-server", "--version"))
    return found


def _said(*command: str) -> str:
    """The first line that a program prints; empty when it is not there."""
    if shutil.which(command[0]) is None:
        return ""
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=30)
    return next(iter((done.stdout + done.stderr).strip().splitlines()), "")
