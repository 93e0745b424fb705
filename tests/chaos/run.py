"""One run: engines and roles up, traffic and faults side by side, then everything read and compared."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import redis
from pydantic import SecretStr

from deploy.local import engines as local
from deploy.local.health import http_answers
from deploy.local.lag import Lag, LagUnknownError, consumer_lag
from deploy.local.memory import environment_of
from deploy.local.roles import ROLES
from deploy.local.topics import TopicAdmin
from producers.venues.register import publish_venues
from schemas.settings import Settings
from tests.chaos import compare, expected, found
from tests.chaos.compare import Line
from tests.chaos.plan import Fault, draw
from tests.chaos.processes import Hit, OwnEnd, Processes, Spec
from tests.chaos.recovery import Sampler, recovered
from tests.chaos.scenario import Scenario, build
from tests.chaos.traffic import KEY, Sent, Traffic

ENGINES: Final = ("kafka", "redis", "clickhouse")
PROCESSES: Final = ("gateway", "ingest-0", "ingest-1", "cases", "matcher", "archive")
TARGETS: Final = (*ENGINES, *PROCESSES)
# Everything is up within this on a loaded machine; past it the run cannot begin.
_UP_S: Final = 120.0
# After the last fault, what was posted is acknowledged within this, and worked off within the next.
ACKNOWLEDGED_S: Final = 120.0
SETTLED_S: Final = 240.0
_CALM_S: Final = 3.0  # lag must stay away for so long: the output of one role is the input of the next


@dataclass(frozen=True, slots=True)
class Options:
    """What is asked for."""

    seconds: float
    seed: int
    scans: int
    cases: int
    faults: int


@dataclass
class Outcome:
    """What a run came to."""

    options: Options
    scenario: Scenario
    lines: list[Line]
    sent: Sent
    hits: list[Hit] = field(default_factory=list)
    recoveries: list[float | None] = field(default_factory=list)
    own_ends: list[OwnEnd] = field(default_factory=list)
    planned: list[Fault] = field(default_factory=list)
    stuck: list[str] = field(default_factory=list)  # what only a restart set going again, or nothing did
    settled: float = 0.0  # seconds from the end of faults and traffic until nothing was waiting

    @property
    def ok(self) -> bool:
        """Whether every promise was kept, every fault carried out, and nothing hung."""
        complete = len(self.hits) == len(self.planned)
        return compare.kept(self.lines) and complete and not self.stuck and not self.sent.errors


class CannotRunError(RuntimeError):
    """The run could not begin; the message says why."""


def role_command(name: str) -> tuple[str, ...]:
    """How the roles are started, as in production."""
    role, _, number = name.partition("-")
    return (sys.executable, "-m", "truyvet", "run", role, "--worker", number or "0")


def today() -> int:
    """The local midnight (Asia/Ho_Chi_Minh) that began today, in minutes of the epoch."""
    return (int(time.time()) // 60 + 420) // 1440 * 1440 - 420


@contextmanager
def processes(folder: Path, clock: Callable[[], float]) -> Iterator[Processes]:
    """Processes that are ended with the block."""
    held = Processes(folder / "logs", clock)
    try:
        yield held
    finally:
        held.end()


def start_engines(held: Processes, folder: Path) -> Settings:
    """Kafka, Redis and ClickHouse of the run's own; the settings that lead to them."""
    kafka, controller, marks, archive, gateway = local.free_ports(5)
    launches = [
        local.kafka(folder / "kafka", kafka, controller),
        local.redis(folder / "redis", marks),
        local.clickhouse(folder / "clickhouse", archive),
    ]
    local.check_ports(launches)
    for launch in launches:
        launch.prepare()
        held.start(Spec(launch.name, launch.command))
    for launch in launches:
        if reason := local.wait_until(launch.answers, _UP_S):
            raise CannotRunError(f"{launch.name} did not start: {reason}")
    return Settings(
        kafka=f"127.0.0.1:{kafka}",
        redis=f"redis://127.0.0.1:{marks}/0",
        clickhouse=f"clickhouse://default@127.0.0.1:{archive}/default",
        gateway_port=gateway,
        metrics_port=local.free_base((0, 1, 64, 65, 66)),
    )


def start_roles(
    held: Processes,
    settings: Settings,
    scenario: Scenario,
    commands: Mapping[str, tuple[str, ...]],
    env: Mapping[str, str] | None = None,
) -> None:
    """Topics, register, then the roles (`commands` by name); waits until the gateway is ready."""
    TopicAdmin(settings).apply()
    publish_venues(settings, scenario.venues)
    for name, command in commands.items():
        held.start(Spec(name, command, {**environment_of(settings), **(env or {})}))
    if reason := local.wait_until(lambda: _ready(settings), _UP_S):
        raise CannotRunError(f"the gateway did not start: {reason}")


def _ready(settings: Settings) -> None:
    http_answers(f"http://127.0.0.1:{settings.gateway_port}/readyz")


def with_keys(settings: Settings) -> Settings:
    """The settings with a key for the devices."""
    return settings.model_copy(update={"gateway_keys": {"chaos": SecretStr(KEY)}, "ingest_workers": 2})


# --- waiting --------------------------------------------------------------------------------------


def waiting(settings: Settings) -> list[str]:
    """In words, what is not done yet; empty when all is."""
    try:
        lags = consumer_lag(settings, list(ROLES.values()))
    except LagUnknownError as error:
        return [str(error)]
    found = [f"{lag.role}: {lag.records} of {lag.topic}" for lag in lags if _behind(lag)]
    try:
        with redis.Redis.from_url(settings.redis_url, socket_timeout=3.0) as client:
            status = client.hget("s:{0}", "status")
    except redis.RedisError as error:
        return [f"Redis: {error}"]
    if status is not None and status != b"ready":
        found.append("Redis was lost and is being rebuilt")
    return found


def _behind(lag: Lag) -> bool:
    # `touched` may end with the marker of a transaction, which Faust does not commit past
    return lag.records > (lag.partitions if lag.role == "matcher" and not lag.uncommitted else 0)


def settle(held: Processes, settings: Settings, seconds: float = SETTLED_S) -> list[str]:
    """Wait until nothing is waiting, and stays so; what still is when the time is over."""
    deadline = time.monotonic() + seconds
    calm_since: float | None = None
    while True:
        held.tick()
        left = [] if held.calm else ["a process is down"]
        left = left or waiting(settings)
        now = time.monotonic()
        if not left:
            calm_since = calm_since or now
            if now - calm_since >= _CALM_S:
                return []
        else:
            calm_since = None
            if now > deadline:
                return left
        time.sleep(0.2)


# --- the whole ------------------------------------------------------------------------------------


def run(options: Options, folder: Path, say: Callable[[str], None]) -> Outcome:
    """Run it in a scratch folder. Raises CannotRunError, EngineError."""
    say(f"seed {options.seed}: making the scenario and what must come of it …")
    scenario = build(options.seed, options.scans, options.cases, today())
    wanted = expected.expect(scenario, folder / "oracle")
    planned = draw(options.seed, TARGETS, options.faults, options.seconds)
    began = [time.monotonic()]

    def clock() -> float:
        return time.monotonic() - began[0]

    with processes(folder, clock) as held:
        say("starting Kafka, Redis, ClickHouse and the roles …")
        settings = with_keys(start_engines(held, folder))
        start_roles(held, settings, scenario, {name: role_command(name) for name in PROCESSES})
        traffic, sampler = Traffic(scenario, settings, options.seconds, clock), Sampler(settings, clock)
        began[0] = time.monotonic()
        say(
            f"{scenario.scans} scans in {len(scenario.posts)} posts, {len(planned)} faults,"
            f" {options.seconds:.0f} s …"
        )
        outcome = Outcome(options, scenario, [], traffic.sent, held.hits, planned=planned)
        traffic.start()
        sampler.start()
        try:
            _hit(held, planned, traffic, options.seconds, clock, say)
            traffic.stop()
            outcome.settled = _settle_in_the_end(held, settings, outcome.stuck, say)
        finally:
            traffic.stop()
            sampler.stop()
        outcome.own_ends = list(held.own_ends)
        answers = sorted(traffic.sent.times)
        outcome.recoveries = [recovered(hit, sampler.samples, answers) for hit in held.hits]
        say("reading and comparing …")
        seen = read(settings, traffic.sent)
        outcome.lines = compare.compare(wanted, seen)
    return outcome


def read(settings: Settings, sent: Sent) -> found.Found:
    """Everything that the run left behind."""
    seen = found.read(settings)
    seen.acknowledged, seen.answers_wrong = sent.acknowledged, sent.wrong
    return seen


def _hit(
    held: Processes,
    planned: list[Fault],
    traffic: Traffic,
    seconds: float,
    clock: Callable[[], float],
    say: Callable[[str], None],
) -> None:
    """Carry out the plan until all is sent and acknowledged, or no hope is left."""
    due = list(planned)
    while due or not held.calm or (traffic.busy and clock() < seconds + ACKNOWLEDGED_S):
        now = clock()
        if now > seconds + ACKNOWLEDGED_S:
            break
        for fault in [fault for fault in due if fault.at <= now]:
            if held.hit(fault):  # else again a moment later: its target is down
                due.remove(fault)
                say(f"{now:6.1f} s  {fault.signal} to {fault.target}")
        held.tick()
        time.sleep(0.05)


def _settle_in_the_end(
    held: Processes, settings: Settings, stuck: list[str], say: Callable[[str], None]
) -> float:
    """Wait without another restart first: a role that hangs is told, and only then set going again.

    Returns how many seconds it took.
    """
    began = time.monotonic()
    stuck += [f"stuck until restarted: {words}" for words in settle(held, settings)]
    if stuck:
        say(f"{'; '.join(stuck)}: restarting the roles …")
        held.again(PROCESSES)
        stuck += [f"stuck after a restart: {words}" for words in settle(held, settings)]
    return time.monotonic() - began
