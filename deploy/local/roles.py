"""The roles of an installation: what `truyvet run` starts, where each answers, what it reads.

A role is one kind of worker process. `truyvet run ROLE [--worker N]` is one process of it; both the process
itself and the one who starts and watches it take its port from here.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from schemas import topics
from schemas.settings import Settings
from schemas.topics import Topic


@dataclass(frozen=True, slots=True)
class Role:
    """One kind of worker. `port_offset` counts from `Settings.metrics_port`; None: the gateway's own port."""

    name: str
    about: str
    port_offset: int | None
    inputs: tuple[Topic, ...] = ()
    most_workers: int = 1


INGEST: Final = Role("ingest", "scans → marks, visits, touched", 0, (topics.SCANS,), most_workers=64)
CASES: Final = Role("cases", "cases → the places that they touch", 64, (topics.CASES,))
MATCHER: Final = Role("matcher", "touched → exposures and venue warnings", 65, (topics.TOUCHED,))
ARCHIVE: Final = Role(
    "archive",
    "everything that is kept → ClickHouse",
    66,
    (
        topics.VISITS,
        topics.EXPOSURES,
        topics.VENUE_WARNINGS,
        topics.CASES,
        topics.VENUES,
        topics.SCANS_REJECTED,
        topics.CASES_REJECTED,
        topics.ARCHIVE_REJECTED,
    ),
)
GATEWAY: Final = Role("gateway", "HTTP → scans", None)

# In the order of their start, against the stream: who posts a scan finds the whole chain awake.
ROLES: Final = {role.name: role for role in (ARCHIVE, MATCHER, CASES, INGEST, GATEWAY)}


@dataclass(frozen=True, slots=True)
class Worker:
    """One process of a role."""

    role: Role
    number: int = 0

    @property
    def name(self) -> str:
        """The name that people see: `archive`, `ingest-0`."""
        return f"{self.role.name}-{self.number}" if self.role.most_workers > 1 else self.role.name


def workers(settings: Settings, names: tuple[str, ...] | None = None) -> list[Worker]:
    """The processes of the named roles (default: all), in the order of their start.

    Raises ValueError for a name that is no role.
    """
    unknown = [name for name in names or () if name not in ROLES]
    if unknown:
        raise ValueError(f"no role is called {', '.join(unknown)}: there are {', '.join(ROLES)}")
    found = []
    for role in ROLES.values():
        if names is None or role.name in names:
            count = settings.ingest_workers if role is INGEST else 1
            found += [Worker(role, number) for number in range(count)]
    return found


def metrics_port(settings: Settings, role: str, worker: int = 0) -> int:
    """The port of `/metrics` and `/healthz` of one process, on loopback. Raises KeyError, ValueError."""
    known = ROLES[role]
    if known.port_offset is None:
        return settings.gateway_port
    if not 0 <= worker < known.most_workers:
        raise ValueError(f"{role} has workers 0 to {known.most_workers - 1}, not {worker}")
    return settings.metrics_port + known.port_offset + worker


def health_url(settings: Settings, worker: Worker) -> str:
    """Where a process answers 200 as long as it is well."""
    host = settings.gateway_host if worker.role is GATEWAY else "127.0.0.1"
    if host in {"0.0.0.0", "::", ""}:
        host = "127.0.0.1"
    bracketed = f"[{host}]" if ":" in host else host
    return f"http://{bracketed}:{metrics_port(settings, worker.role.name, worker.number)}/healthz"
