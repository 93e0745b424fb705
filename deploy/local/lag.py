"""How far behind is each consumer group, and how old is what it has not done yet?"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final, Literal

from confluent_kafka import Consumer, KafkaError, KafkaException, TopicPartition
from confluent_kafka.admin import AdminClient, OffsetSpec
from tenacity import retry, retry_if_exception, stop_after_delay, wait_fixed

from deploy.local.health import admin
from deploy.local.roles import ARCHIVE, ROLES, Role
from deploy.local.topics import KafkaAwayError, TopicAdmin, TopicsError
from schemas import topics
from schemas.settings import Settings

# Less than this until Kafka deletes what waits: a day is what it takes to notice and mend. Of a topic that is
# kept for less than two days, half of it.
_LATE_HOURS: Final = 24.0
# A broker that does not answer a question about offsets within this time is taken for stuck.
PATIENCE: Final = 10.0
_BEGIN: Final = OffsetSpec.earliest()  # type: ignore[no-untyped-call]
_END: Final = OffsetSpec.latest()  # type: ignore[no-untyped-call]


class LagUnknownError(RuntimeError):
    """Kafka does not answer, so nobody knows."""


# late: what waits is deleted soon; lost: Kafka has deleted records that the group had not read
Retention = Literal["kept", "late", "lost"]


@dataclass(frozen=True, slots=True)
class Lag:
    """One group on one topic. `records` counts offsets from the last committed to the end.

    Topics that are written in transactions (exposures, venue-warnings) hold markers between the records: a
    consumer that has read everything can still stand one offset a partition before the end.
    """

    role: str
    group: str
    topic: str
    records: int
    partitions: int
    uncommitted: int  # partitions with records that the group has never committed
    # Until Kafka may delete the oldest record that waits; with nothing waiting, until it would delete one
    # that comes now. None: never (compacted, or retention.ms is -1), or it was not asked.
    hours_to_age_out: float | None = None
    deleted_unread: int = 0  # offsets, a few of which may be markers; not of compacted topics
    retention: Retention = "kept"


@dataclass(frozen=True, slots=True)
class Freshness:
    """Seconds, by the clock of the `visits` records; None: there is none."""

    newest_archived: float | None  # age of the newest visit in the archive
    oldest_waiting: float | None  # age of the oldest visit that waits for the archive


def _settling(error: BaseException) -> bool:
    """A broker that has just started, or just made a topic, answers the same question a moment later."""
    return isinstance(error, KafkaException) and error.args[0].code() in {
        KafkaError.NOT_COORDINATOR,
        KafkaError.COORDINATOR_LOAD_IN_PROGRESS,
        KafkaError.COORDINATOR_NOT_AVAILABLE,
        KafkaError.NOT_LEADER_FOR_PARTITION,
        KafkaError.LEADER_NOT_AVAILABLE,
        KafkaError.UNKNOWN_TOPIC_OR_PART,
    }


_patiently = retry(
    retry=retry_if_exception(_settling), wait=wait_fixed(0.2), stop=stop_after_delay(PATIENCE), reraise=True
)


@dataclass(frozen=True, slots=True)
class Place:
    """Where a group stands on one partition. `done`: the next offset to be acknowledged; `end`: the next to
    be written; `committed`: whether the group ever did; `begin`: the first that is there; `deleted`: how many
    Kafka deleted between what was committed and `begin`."""

    done: int
    end: int
    committed: bool
    begin: int
    deleted: int = 0

    @property
    def lag(self) -> int:
        """Offsets from the last committed to the end; see Lag.records about markers."""
        return max(0, self.end - self.done)


# topic and partition
Key = tuple[str, int]


def places(settings: Settings, roles: Iterable[Role]) -> dict[str, dict[Key, Place]]:
    """Where each role's group stands on each partition that is there. Raises LagUnknownError."""
    reading = [role for role in roles if role.inputs]
    client = admin(settings.kafka_address)
    found: dict[str, dict[Key, Place]] = {}
    try:
        partitions = _partitions(client, settings, reading)
        flat = [each for own in partitions.values() for each in own]
        ends, begins = (
            _offsets(client, flat, _END),
            _offsets(client, flat, _BEGIN),
        )
        for role in reading:
            own = [each for topic in role.inputs for each in partitions.get(settings.topic(topic), [])]
            committed = _committed(settings, role, own)
            found[role.name] = {
                key: Place(
                    max(committed.get(key, begins[key]), begins[key]),
                    ends[key],
                    key in committed,
                    begins[key],
                    max(0, begins[key] - committed.get(key, begins[key])),
                )
                for key in ((each.topic, each.partition) for each in own)
            }
    except KafkaException as error:
        raise LagUnknownError(
            f"Kafka at {settings.kafka_address} does not tell offsets: {error.args[0].str()}"
        ) from None
    return found


def consumer_lag(settings: Settings, roles: Iterable[Role] = tuple(ROLES.values())) -> list[Lag]:
    """The lag of each role's group on each of its topics. Raises LagUnknownError."""
    reading = [role for role in roles if role.inputs]
    return _lags(settings, reading, places(settings, reading))


def lag_and_age(settings: Settings, now: float | None = None) -> list[Lag]:
    """As consumer_lag of all roles, with what Kafka's retention does to it. Raises LagUnknownError.

    Reads the record at each place that waits: one look a role, up to a few seconds each while there is lag.
    """
    moment = time.time() if now is None else now
    reading = [role for role in ROLES.values() if role.inputs]
    stand = places(settings, reading)
    kept = _retention(settings, {name for own in stand.values() for name, _ in own})
    stamps = {
        role.name: _stamps(
            settings,
            settings.group("status"),
            [
                TopicPartition(name, number, place.done)
                for (name, number), place in stand[role.name].items()
                if place.lag and kept.get(name) is not None
            ],
        )
        for role in reading
    }
    found = []
    for lag in _lags(settings, reading, stand):
        hours = kept.get(lag.topic)
        if hours is None:
            found.append(lag)
            continue
        own = [moment - stamp / 1000 for (name, _), stamp in stamps[lag.role].items() if name == lag.topic]
        left = round(hours - max([0.0, *own]) / 3600, 1)
        deleted = sum(place.deleted for (name, _), place in stand[lag.role].items() if name == lag.topic)
        late = lag.records > 0 and left < min(_LATE_HOURS, hours / 2)
        state: Retention = "lost" if deleted else "late" if late else "kept"
        found.append(replace(lag, hours_to_age_out=left, deleted_unread=deleted, retention=state))
    return found


def _retention(settings: Settings, names: set[str]) -> dict[str, float]:
    """For how many hours the broker keeps each topic now; without those that it keeps for ever."""
    try:
        found = TopicAdmin(settings).found(names)
    except (KafkaAwayError, TopicsError) as error:
        raise LagUnknownError(str(error)) from None
    return {
        name: int(it.config["retention.ms"]) / 3_600_000
        for name, it in found.items()
        if "delete" in it.config["cleanup.policy"] and int(it.config["retention.ms"]) >= 0
    }


def _lags(settings: Settings, reading: Sequence[Role], stand: Mapping[str, Mapping[Key, Place]]) -> list[Lag]:
    found = []
    for role in reading:
        for topic in role.inputs:
            name = settings.topic(topic)
            own = [place for (of, _), place in stand[role.name].items() if of == name]
            if own:
                records = sum(place.lag for place in own)
                uncommitted = sum(not place.committed and place.end > place.begin for place in own)
                found.append(Lag(role.name, settings.group(role.name), name, records, len(own), uncommitted))
    return found


def holding(settings: Settings, role: Role, stand: Mapping[Key, Place]) -> set[Key]:
    """Those of these partitions that hold a record at or after the place; the rest of the lag is markers.

    Takes as long as Kafka needs to give a record, at most a few seconds. A partition that is not read by
    then is not told: better too few than wrong.
    """
    group = settings.group(role.name)
    waiting = [TopicPartition(topic, number, place.done) for (topic, number), place in stand.items()]
    return set(_stamps(settings, group, waiting))


def freshness(settings: Settings, now: float | None = None) -> Freshness:
    """How fresh is the archive? Reads one visit record a partition on either side of its offset.

    Raises LagUnknownError.
    """
    client = admin(settings.kafka_address)
    name = settings.topic(topics.VISITS)
    moment = time.time() if now is None else now
    try:
        flat = _partitions(client, settings, [ARCHIVE]).get(name, [])
        committed = _committed(settings, ARCHIVE, flat)
        ends = _offsets(client, flat, _END)
        begins = _offsets(client, flat, _BEGIN)
    except KafkaException as error:
        raise LagUnknownError(f"Kafka does not tell offsets: {error.args[0].str()}") from None
    archived, waiting = [], []
    for each in flat:
        key = (name, each.partition)
        done = max(committed.get(key, begins[key]), begins[key])
        if done > begins[key]:
            archived.append(TopicPartition(name, each.partition, done - 1))
        if done < ends[key]:
            waiting.append(TopicPartition(name, each.partition, done))
    written, left = _timestamps(settings, archived), _timestamps(settings, waiting)
    return Freshness(
        max(0.0, moment - max(written) / 1000) if written else None,
        max(0.0, moment - min(left) / 1000) if left else None,
    )


def _partitions(
    client: AdminClient, settings: Settings, roles: Sequence[Role]
) -> dict[str, list[TopicPartition]]:
    names = {settings.topic(topic) for role in roles for topic in role.inputs}
    there = client.list_topics(timeout=PATIENCE).topics
    return {
        name: [TopicPartition(name, number) for number in sorted(there[name].partitions)]
        for name in sorted(names)
        if name in there
    }


@_patiently
def _offsets(
    client: AdminClient, partitions: Sequence[TopicPartition], spec: OffsetSpec
) -> Mapping[tuple[str, int], int]:
    if not partitions:
        return {}
    asked = client.list_offsets(dict.fromkeys(partitions, spec), request_timeout=PATIENCE)
    return {(each.topic, each.partition): future.result().offset for each, future in asked.items()}


@_patiently
def _committed(
    settings: Settings, role: Role, partitions: Sequence[TopicPartition]
) -> dict[tuple[str, int], int]:
    """What a role's group has committed; partitions without a commit are left out.

    Asked through a consumer that never joins: with librdkafka 2.16 the process crashes when an admin client
    asks a coordinator that is just loading (librdkafka issue 5040, open).
    """
    if not partitions:
        return {}
    consumer = _reader(settings, settings.group(role.name))
    try:
        places = consumer.committed(list(partitions), timeout=PATIENCE)
    finally:
        consumer.close()
    return {(each.topic, each.partition): each.offset for each in places if each.offset >= 0}


def _reader(settings: Settings, group: str) -> Consumer:
    """A consumer that looks at a group, or at single records, and neither joins nor commits."""
    return Consumer(
        {
            "bootstrap.servers": settings.kafka_address,
            "group.id": group,
            "enable.auto.commit": False,
            "auto.offset.reset": "latest",
            "fetch.message.max.bytes": 4096,
            "log_level": 0,
        }
    )


def _timestamps(settings: Settings, places: Sequence[TopicPartition]) -> list[int]:
    """The times (ms) of the records at these places; one that is compacted or gone is left out."""
    return list(_stamps(settings, settings.group("status"), places).values())


def _stamps(settings: Settings, group: str, places: Sequence[TopicPartition]) -> dict[Key, int]:
    """The time (ms) of the first record at or after each place; a partition that gives none is left out."""
    if not places:
        return {}
    consumer = _reader(settings, group)
    found: dict[Key, int] = {}
    try:
        consumer.assign(list(places))
        deadline = time.monotonic() + PATIENCE / 4
        while len(found) < len(places) and time.monotonic() < deadline:
            message = consumer.poll(0.2)
            if message is None or message.error():
                continue
            found.setdefault((message.topic() or "", message.partition() or 0), message.timestamp()[1])
    finally:
        consumer.close()
    return found
