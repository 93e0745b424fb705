"""Make the topics of `schemas.topics` true on a cluster, whichever it is.

Idempotent: what is there and right is left alone. Partitions grow and never shrink; declared settings that
have drifted are set back; settings that are not declared are the operator's own and stay.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Literal

from confluent_kafka import KafkaException, TopicCollection
from confluent_kafka.admin import (
    AdminClient,
    AlterConfigOpType,
    ConfigEntry,
    ConfigResource,
    NewPartitions,
    NewTopic,
    ResourceType,
)
from confluent_kafka.error import KafkaError

from deploy.local.health import admin
from schemas import topics
from schemas.kafka import kafka_away, nobody_listens
from schemas.settings import Settings
from schemas.topics import Topic

# Creating topics on a loaded broker takes a second; past this the controller is taken for away.
PATIENCE: Final = 20.0


class TopicsError(ValueError):
    """The declaration and the cluster contradict each other: nothing was changed."""


class KafkaAwayError(ConnectionError):
    """No broker answers at the address."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """A topic as it should be on this installation's cluster."""

    topic: Topic
    name: str
    partitions: int
    replication: int
    config: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Found:
    """A topic as it is; `config` holds all its settings, those of the broker's default too."""

    partitions: int
    replication: int
    config: Mapping[str, str]


Action = Literal["create", "grow", "configure", "keep", "refuse"]


@dataclass(frozen=True, slots=True)
class Step:
    """What is to be done about one topic, and in words why."""

    action: Action
    wanted: Wanted
    detail: str = ""
    config: Mapping[str, str] = field(default_factory=dict)


def wanted(settings: Settings) -> list[Wanted]:
    """Every topic as these settings want it."""
    # with three copies, a record counts as written when two have it: one broker may be lost or restarted
    durable = {"min.insync.replicas": "2"} if settings.replication >= 3 else {}
    return [
        Wanted(
            topic,
            settings.topic(topic),
            settings.partitions.get(topic.name, topic.partitions),
            settings.replication,
            topic.config() | durable,
        )
        for topic in topics.TOPICS.values()
    ]


def plan(want: list[Wanted], found: Mapping[str, Found]) -> list[Step]:
    """Compare; pure. A topic may need two steps (grow and configure)."""
    steps = []
    for each in want:
        there = found.get(each.name)
        if there is None:
            steps.append(Step("create", each, f"{each.partitions} partitions, {each.replication} copies"))
            continue
        own = []
        if each.partitions != there.partitions:
            own.append(_resize(each, there.partitions))
        drift = {key: value for key, value in each.config.items() if there.config.get(key) != value}
        if drift:
            words = ", ".join(f"{key} {there.config.get(key)} → {value}" for key, value in drift.items())
            own.append(Step("configure", each, words, drift))
        if not own:
            note = ""
            if there.replication != each.replication:
                note = (
                    f"has {there.replication} copies, TRUYVET_REPLICATION says {each.replication}: "
                    "move it with kafka-reassign-partitions"
                )
            own.append(Step("keep", each, note))
        steps += own
    return steps


def _resize(each: Wanted, there: int) -> Step:
    if each.topic is topics.TOUCHED:
        return Step(
            "refuse",
            each,
            f"has {there} partitions, {each.partitions} are wanted: the count of `touched` is part of the "
            "matching protocol (one transactional.id a partition, a venue always in the same partition) and "
            f"cannot change while events are in it: set TRUYVET_PARTITIONS touched to {there}, or drain it, "
            "stop the matcher and delete the topic first",
        )
    if each.partitions < there:
        return Step(
            "refuse",
            each,
            f"has {there} partitions, {each.partitions} are wanted: Kafka cannot take partitions away: "
            f"set TRUYVET_PARTITIONS {each.topic.name} to {there} or more",
        )
    caution = ""
    if each.topic.key is not None:
        caution = "; keys move: older records stay where they are, readers go by `version`"
    return Step("grow", each, f"{there} → {each.partitions} partitions{caution}")


class TopicAdmin:
    """The topics of one installation on its cluster.

    Every method raises KafkaAwayError when no broker answers, TopicsError when the cluster refuses.
    """

    def __init__(self, settings: Settings, client: AdminClient | None = None) -> None:
        self._settings: Final = settings
        self._client: Final = client or admin(settings.kafka_address)

    def plan(self) -> list[Step]:
        """What `apply` would do."""
        want = wanted(self._settings)
        return plan(want, self.found({each.name for each in want}))

    def apply(self) -> list[Step]:
        """Do it. Raises TopicsError before any change when one topic must be refused."""
        steps = self.plan()
        if refused := [step for step in steps if step.action == "refuse"]:
            raise TopicsError("\n".join(f"{step.wanted.name}: {step.detail}" for step in refused))
        create = [step.wanted for step in steps if step.action == "create"]
        if create:
            new = [
                NewTopic(
                    each.name,
                    num_partitions=each.partitions,
                    replication_factor=each.replication,
                    config=dict(each.config),
                )
                for each in create
            ]
            self._wait(
                self._client.create_topics(new, operation_timeout=PATIENCE, request_timeout=PATIENCE),
                unless=KafkaError.TOPIC_ALREADY_EXISTS,  # another `apply` was quicker, with the same wish
            )
        grow = [step.wanted for step in steps if step.action == "grow"]
        if grow:
            new_partitions = [NewPartitions(each.name, each.partitions) for each in grow]
            self._wait(
                self._client.create_partitions(
                    new_partitions, operation_timeout=PATIENCE, request_timeout=PATIENCE
                )
            )
        configure = [step for step in steps if step.action == "configure"]
        if configure:
            resources = [
                ConfigResource(
                    ResourceType.TOPIC,
                    step.wanted.name,
                    incremental_configs=[
                        ConfigEntry(key, value, incremental_operation=AlterConfigOpType.SET)
                        for key, value in step.config.items()
                    ],
                )
                for step in configure
            ]
            self._wait(self._client.incremental_alter_configs(resources, request_timeout=PATIENCE))
        if create or grow or configure:
            self._settle()
        return steps

    def _settle(self) -> None:
        """Wait until the broker shows what its controller has done: who reads next must find the topics."""
        deadline = time.monotonic() + PATIENCE
        while open_steps := [step for step in self.plan() if step.action != "keep"]:
            if time.monotonic() > deadline:
                names = ", ".join(step.wanted.name for step in open_steps)
                raise TopicsError(f"{names}: changed, but the broker does not show it: is it overloaded?")
            time.sleep(0.05)

    def delete(self) -> None:
        """Delete this installation's topics with all that is in them: for scratch installations."""
        names = list(self.found({self._settings.topic(topic) for topic in topics.TOPICS.values()}))
        if names:
            self._wait(
                self._client.delete_topics(names, operation_timeout=PATIENCE, request_timeout=PATIENCE),
                unless=KafkaError.UNKNOWN_TOPIC_OR_PART,
            )

    def found(self, names: set[str]) -> dict[str, Found]:
        """Those of the named topics that exist."""
        if nobody_listens(self._settings.kafka_address):
            raise KafkaAwayError(kafka_away(self._settings))
        there = self._call(lambda: self._client.list_topics(timeout=PATIENCE)).topics
        present = sorted(names & set(there))
        if not present:
            return {}
        described = self._client.describe_topics(TopicCollection(present), request_timeout=PATIENCE)
        configs = self._client.describe_configs(
            [ConfigResource(ResourceType.TOPIC, name) for name in present], request_timeout=PATIENCE
        )
        settings_of = {
            resource.name: {key: entry.value for key, entry in self._call(future.result).items()}
            for resource, future in configs.items()
        }
        result = {}
        for name, future in described.items():
            partitions = self._call(future.result).partitions
            result[name] = Found(len(partitions), len(partitions[0].replicas), settings_of[name])
        return result

    def _wait(self, futures: Mapping[Any, Any], unless: int | None = None) -> None:
        for key, future in futures.items():
            try:
                future.result(PATIENCE + 5)
            except KafkaException as error:
                if error.args[0].code() == unless:
                    continue
                name = key.name if isinstance(key, ConfigResource) else key
                raise self._plain(error, f"{name}: ") from None

    def _call(self, ask: Callable[[], Any]) -> Any:
        try:
            return ask()
        except KafkaException as error:
            raise self._plain(error) from None

    def _plain(self, error: KafkaException, before: str = "") -> Exception:
        away = {
            KafkaError._TRANSPORT,
            KafkaError._ALL_BROKERS_DOWN,
            KafkaError._TIMED_OUT,
            KafkaError._RESOLVE,
            KafkaError.REQUEST_TIMED_OUT,
        }
        kafka_error = error.args[0]
        if kafka_error.code() in away:
            return KafkaAwayError(kafka_away(self._settings, kafka_error.str()))
        hint = ""
        if kafka_error.code() == KafkaError.INVALID_REPLICATION_FACTOR:
            hint = " (TRUYVET_REPLICATION is more than the cluster has brokers)"
        return TopicsError(f"{before}Kafka refuses: {kafka_error.str()}{hint}")


def apply(settings: Settings) -> list[Step]:
    """Create and correct every topic of this installation; see TopicAdmin.apply."""
    return TopicAdmin(settings).apply()
