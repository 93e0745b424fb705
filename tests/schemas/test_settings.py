"""Settings: errors name the variable, addresses and names follow from them."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest

from schemas import topics
from schemas.settings import Settings, SettingsError, load_settings, redis_cluster, unknown_variables


@pytest.fixture(autouse=True)
def _no_settings_of_the_shell(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.startswith("TRUYVET_"):
            monkeypatch.delenv(name)


def test_defaults_are_the_embedded_stack() -> None:
    settings = load_settings()
    assert settings.kafka_address == "127.0.0.1:19092"
    assert settings.redis_url == "redis://127.0.0.1:16379/0"
    assert settings.clickhouse_url == "clickhouse://default@127.0.0.1:19000/default"
    assert settings.topic(topics.SCANS) == "scans"
    assert settings.group("archive") == "truyvet-archive"


def test_addresses_given_are_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRUYVET_KAFKA", "k1:9092,k2:9092")
    monkeypatch.setenv("TRUYVET_REDIS", "rediss://cache:6380/1")
    monkeypatch.setenv("TRUYVET_CLICKHOUSE", "clickhouse://u:p@house:9000/tv")
    monkeypatch.setenv("TRUYVET_TOPIC_PREFIX", "hue.")
    monkeypatch.setenv("TRUYVET_PARTITIONS", '{"scans": 12}')
    settings = load_settings()
    assert settings.kafka_address == "k1:9092,k2:9092"
    assert settings.redis_url == "rediss://cache:6380/1"
    assert settings.clickhouse_url == "clickhouse://u:p@house:9000/tv"
    assert settings.topic(topics.VENUE_WARNINGS) == "hue.venue-warnings"
    assert settings.group("archive") == "hue.truyvet-archive"
    assert settings.partitions == {"scans": 12}


def test_a_cluster_is_named_by_some_of_its_nodes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRUYVET_REDIS", "rediss+cluster://me:secret@a:7000,b:7001")
    url = load_settings().redis_url
    assert redis_cluster(url) == ["rediss://me:secret@a:7000", "rediss://me:secret@b:7001"]
    assert redis_cluster("redis://a:7000/0") is None


@pytest.mark.parametrize(
    ("value", "address"),
    [
        ("k1", "k1"),  # on Kafka's own port
        ("kafka_1:9092", "kafka_1:9092"),
        ("k1:9092, k2.example:9093", "k1:9092,k2.example:9093"),
        ("[::1]:9092,[fe80::1]", "[::1]:9092,[fe80::1]"),
        (" ", "127.0.0.1:19092"),
    ],
)
def test_an_address_of_kafka_in_each_of_its_forms(
    monkeypatch: pytest.MonkeyPatch, value: str, address: str
) -> None:
    monkeypatch.setenv("TRUYVET_KAFKA", value)
    assert load_settings().kafka_address == address


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("KAFKA", "kafka://localhost:1"),
        ("KAFKA", "k1:9092,PLAINTEXT://k2:9092"),
        ("KAFKA", "k1:9092/"),
        ("KAFKA", "k1:9092,"),
        ("KAFKA", "k1:9092 k2:9092"),
        ("KAFKA", "k1:0"),
        ("KAFKA", "k1:65536"),
        ("KAFKA", "k1:"),
        ("KAFKA", ":9092"),
        ("KAFKA", "::1:9092"),
        ("KAFKA", "me:secret@k1:9092"),
        ("KAFKA_PORT", "0"),
        ("GATEWAY_PORT", "http"),
        ("RETENTION_DAYS", "0"),
        ("REDIS", "localhost"),
        ("REDIS", "redis://host:port/0"),
        ("REDIS", "redis+cluster://a:1,b"),
        ("REDIS", "redis+cluster://a:1,b:2/3"),
        ("REDIS", "http+cluster://a:1"),
        ("REDIS", "clickhouse://default@host:9000/default"),
        ("REDIS", "clickhouse+cluster://a:1"),
        ("CLICKHOUSE", "http://host:8123/"),
        ("CLICKHOUSE", "redis://host:6379/0"),
        ("CLICKHOUSE", "redis+cluster://a:1,b:2"),
        ("CLICKHOUSE", "clickhouse+cluster://a:1,b:2"),
        ("IDENTITY_KEY", "secret"),
        ("IDENTITY_KEY", "ab" * 31),
        ("REDIS_SHARDS", "many"),
        ("PUBLIC_HOST", "https://truyvet.example/"),
        ("PUBLIC_HOST", ""),
        ("GATEWAY_KEYS", "nojson"),
        ("GATEWAY_KEYS", "[1]"),
        ("GATEWAY_KEYS", '{"gate": 5}'),
        ("PARTITIONS", '{"scans": "many"}'),
        ("PARTITIONS", '{"scans": 0}'),
        ("PARTITIONS", '{"scnas": 8}'),
        ("ROLE", "boss"),
    ],
)
def test_errors_name_the_variable(monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    monkeypatch.setenv(f"TRUYVET_{name}", value)
    with pytest.raises(SettingsError, match=f"TRUYVET_{name}: ") as error:
        load_settings()
    assert "Value error" not in str(error.value)


def test_what_is_wanted_instead_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    def said(name: str, value: str) -> str:
        with monkeypatch.context() as one, pytest.raises(SettingsError) as error:
            one.setenv(f"TRUYVET_{name}", value)
            load_settings()
        return str(error.value)

    keys = said("GATEWAY_KEYS", "hunter2")
    assert 'write JSON, device → API key, such as {"gate-1": "its secret"}' in keys and "hunter2" not in keys
    assert 'such as {"scans": 12}' in said("PARTITIONS", '{"scans":')
    partitions = said("PARTITIONS", '{"scnas": 8, "scans": 4}')
    assert partitions.startswith("TRUYVET_PARTITIONS: 'scnas' is no topic (there are scans, ")
    kafka = "TRUYVET_KAFKA: must be like host:port[,host:port], without kafka://, user or path"
    assert said("KAFKA", "kafka://me:secret@k1:1") == kafka
    redis = "TRUYVET_REDIS: must be like redis://host:port/0, or redis+cluster://host:port,host:port"
    assert said("REDIS", "http://me:secret@k1:1/0") == redis
    clickhouse = "TRUYVET_CLICKHOUSE: must be like clickhouse://user:password@host:port/database"
    assert said("CLICKHOUSE", "clickhouse://me:secret@k1:x/db") == clickhouse
    assert said("ROLE", "boss") == (
        "TRUYVET_ROLE: 'boss' is no role: there are tracer, department, analyst, auditor"
    )
    assert said("ROLE", "department").startswith("TRUYVET_DEPARTMENT: the role department needs it")


def test_json_that_is_left_empty_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRUYVET_GATEWAY_KEYS", "")
    monkeypatch.setenv("TRUYVET_PARTITIONS", '{"scans": 12, "visits": "6"}')
    settings = load_settings()
    assert (settings.gateway_keys, settings.partitions) == ({}, {"scans": 12, "visits": 6})


def test_every_wrong_setting_is_named_and_no_secret_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRUYVET_KAFKA_PORT", "x")
    monkeypatch.setenv("TRUYVET_IDENTITY_KEY", "hunter2")
    with pytest.raises(SettingsError) as error:
        load_settings()
    lines = str(error.value).splitlines()
    assert len(lines) == 2 and "hunter2" not in str(error.value)


def test_a_good_key_is_taken_and_never_printed() -> None:
    settings = load_settings(identity_key="ab" * 32)
    assert settings.identity_key is not None
    assert "abab" not in repr(settings)


def test_a_device_whose_name_fits_no_scan_is_refused_at_start() -> None:
    with pytest.raises(SettingsError, match="TRUYVET_GATEWAY_KEYS"):
        load_settings(gateway_keys={"d" * 65: "key"})
    assert load_settings(gateway_keys={"d" * 64: "key"}).gateway_keys


@pytest.mark.parametrize(
    ("variable", "near"),
    [
        ("TRUYVET_GATEWAY_KEY", "did you mean TRUYVET_GATEWAY_KEYS?"),
        ("TRUYVET_ROEL", "did you mean TRUYVET_ROLE?"),
        ("TRUYVET_PORPOSE", "did you mean TRUYVET_PURPOSE?"),
        ("truyvet_kafak", "did you mean TRUYVET_KAFKA?"),
        ("TRUYVET_COLOUR", "docs/OPERATING.md has all settings"),
        ("TRUYVET_", "docs/OPERATING.md has all settings"),
    ],
)
def test_a_variable_that_no_setting_has_is_named_with_the_nearest(variable: str, near: str) -> None:
    assert unknown_variables(["PATH", variable]) == [f"{variable} is no setting and does nothing: {near}"]


def test_every_variable_that_code_and_documents_name_is_known() -> None:
    root = Path(__file__).parents[2]
    folders = ("deploy", "producers", "stream_processors", "sinks", "lookups", "schemas", "docs")
    files = [file for folder in folders for kind in ("*.py", "*.md") for file in (root / folder).rglob(kind)]
    named = {name for file in files for name in re.findall(r"TRUYVET_[A-Z_]*[A-Z]", file.read_text())}
    settings = {f"TRUYVET_{name.upper()}" for name in Settings.model_fields}
    assert named - settings == {"TRUYVET_PURPOSE", "TRUYVET_STACK_DATA", "TRUYVET_CLICKHOUSE_PASSWORD"}
    assert unknown_variables([*named, *settings, "truyvet_kafka", "TRUYVETTING", "HOME"]) == []
