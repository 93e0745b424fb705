"""Topics on a real broker: idempotent, growing, never shrinking, set back when drifted."""

from __future__ import annotations

import time

import orjson
import pytest
from confluent_kafka.admin import AlterConfigOpType, ConfigEntry, ConfigResource, ResourceType
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from deploy.cli import topics as cli
from deploy.local import engines as local
from deploy.local.health import admin
from deploy.local.topics import (
    Found,
    KafkaAwayError,
    TopicAdmin,
    TopicsError,
    apply,
    plan,
    wanted,
)
from schemas import topics
from schemas.settings import Settings


def changed(settings: Settings, **update: object) -> Settings:
    return settings.model_copy(update=update)


def actions(settings: Settings) -> dict[str, str]:
    return {step.wanted.topic.name: step.action for step in apply(settings)}


@pytest.mark.engines
def test_apply_makes_what_is_declared_and_then_changes_nothing(settings: Settings) -> None:
    other = changed(settings, topic_prefix=settings.topic_prefix + "b.")
    try:
        assert set(actions(other).values()) == {"create"}
        assert set(actions(other).values()) == {"keep"}
        found = TopicAdmin(other).found({other.topic(topic) for topic in topics.TOPICS.values()})
        for topic in topics.TOPICS.values():
            there = found[other.topic(topic)]
            assert there.partitions == topic.partitions
            assert topic.config().items() <= there.config.items()
        assert found[other.topic(topics.CASES)].config["cleanup.policy"] == "compact"
    finally:
        TopicAdmin(other).delete()
    assert set(actions(settings).values()) == {"keep"}, "the neighbour with the shorter prefix is untouched"


@pytest.mark.engines
def test_partitions_grow_and_never_shrink(settings: Settings) -> None:
    grown = changed(settings, partitions={"scans": 6})
    assert actions(grown)["scans"] == "grow"
    assert actions(grown)["scans"] == "keep"
    drifting = changed(settings, partitions={"scans": 5, "visits": 8})
    with pytest.raises(TopicsError, match=r"scans: has 6 partitions, 5 are wanted.*scans to 6 or more"):
        apply(drifting)
    assert actions(grown)["visits"] == "keep", "a refusal changes nothing at all"


@pytest.mark.engines
def test_the_count_of_touched_is_part_of_the_protocol(settings: Settings) -> None:
    with pytest.raises(TopicsError, match=r"touched: has 4 partitions, 8 are wanted.*transactional\.id"):
        apply(changed(settings, partitions={"touched": 8}))
    assert set(actions(settings).values()) == {"keep"}


@pytest.mark.engines
def test_a_drifted_setting_is_set_back_and_the_operators_own_stays(settings: Settings) -> None:
    client, name = admin(settings.kafka_address), settings.topic(topics.EXPOSURES)
    entries = [
        ConfigEntry("cleanup.policy", "delete", incremental_operation=AlterConfigOpType.SET),
        ConfigEntry("segment.ms", "1234567", incremental_operation=AlterConfigOpType.SET),
    ]
    resource = ConfigResource(ResourceType.TOPIC, name, incremental_configs=entries)
    client.incremental_alter_configs([resource])[resource].result(10)
    deadline = time.monotonic() + 20
    while TopicAdmin(settings).found({name})[name].config["segment.ms"] != "1234567":
        assert time.monotonic() < deadline, "the broker does not show its own setting"
    (step,) = [step for step in apply(settings) if step.action != "keep"]
    assert (step.action, step.wanted.topic) == ("configure", topics.EXPOSURES)
    assert step.detail == "cleanup.policy delete → compact"
    there = TopicAdmin(settings).found({name})[name].config
    assert there["cleanup.policy"] == "compact"
    assert there["segment.ms"] == "1234567"


@pytest.mark.engines
def test_more_copies_than_brokers_is_explained(settings: Settings) -> None:
    three = changed(settings, topic_prefix=settings.topic_prefix + "c.", replication=3)
    with pytest.raises(TopicsError, match="TRUYVET_REPLICATION"):
        apply(three)


def test_kafka_away_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    (port,) = local.free_ports(1)
    with pytest.raises(KafkaAwayError, match=rf"127.0.0.1:{port}: .*truyvet up.*TRUYVET_KAFKA"):
        apply(Settings(kafka_port=port))
    monkeypatch.setenv("TRUYVET_KAFKA", f"127.0.0.1:{port}")
    said = CliRunner().invoke(cli.commands, ["apply"])
    assert said.exit_code == 3
    assert "what TRUYVET_KAFKA says" in said.output and "Traceback" not in said.output
    assert "truyvet up" not in said.output, "it would start no Kafka then"


@pytest.mark.engines
def test_the_commands(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRUYVET_KAFKA", settings.kafka)
    monkeypatch.setenv("TRUYVET_TOPIC_PREFIX", settings.topic_prefix)
    monkeypatch.setenv("TRUYVET_PARTITIONS", '{"visits": 6, "touched": 9}')
    run = CliRunner().invoke
    listed = run(cli.commands, ["list", "--json"])
    assert listed.exit_code == 0, listed.output
    states = {row["topic"].removeprefix(settings.topic_prefix): row for row in orjson.loads(listed.stdout)}
    assert states["scans"]["state"] == "as declared"
    assert states["visits"]["state"].startswith("too few partitions: 4 → 6")
    assert states["touched"]["state"].startswith("cannot be changed: has 4 partitions")
    assert run(cli.commands, ["apply"]).exit_code == 2
    monkeypatch.setenv("TRUYVET_PARTITIONS", '{"visits": 6}')
    applied = run(cli.commands, ["apply", "--json"])
    assert applied.exit_code == 0
    did = {
        row["topic"].removeprefix(settings.topic_prefix): row["did"] for row in orjson.loads(applied.stdout)
    }
    assert did == {**dict.fromkeys(topics.TOPICS, "as declared"), "visits": "grown"}


@given(
    there=st.dictionaries(st.sampled_from(sorted(topics.TOPICS)), st.integers(1, 9)),
    want=st.dictionaries(st.sampled_from(sorted(topics.TOPICS)), st.integers(1, 9)),
)
def test_a_plan_never_shrinks_and_misses_nothing(there: dict[str, int], want: dict[str, int]) -> None:
    each = wanted(Settings(partitions=want))
    found = {name: Found(count, 1, topics.TOPICS[name].config()) for name, count in there.items()}
    steps = {step.wanted.name: step for step in plan(each, found)}
    assert steps.keys() == set(topics.TOPICS)
    for name, step in steps.items():
        target = step.wanted.partitions
        if name not in there:
            assert step.action == "create"
        elif there[name] == target:
            assert step.action == "keep"
        elif name == "touched" or there[name] > target:
            assert step.action == "refuse"
        else:
            assert step.action == "grow"
