"""With the stack down every command says so soon, where it looked, and what to do."""

from __future__ import annotations

import os
import socket
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest
from typer.testing import CliRunner

from deploy.audit import copied_rows
from deploy.cli import audit, cases, erase, exposures, figures, rejected, report, topics, trace, venues
from deploy.local.engines import free_ports
from lookups.audit import AuditAwayError
from lookups.connection import connect
from schemas.kafka import nobody_listens
from schemas.settings import Settings

PERSON = "0123456789abcdef"
CALLS: list[tuple[Any, tuple[str, ...]]] = [
    (trace, ("person", PERSON, "--purpose", "k-1")),
    (report, ("--case", "k-1", "--out", "k-1.pdf", "--purpose", "k-1")),
    (erase, ("person", PERSON, "--order", "1", "--yes")),
    (erase, ("list",)),
    (figures, ("visits",)),
    (audit, ("verify",)),
    (topics, ("apply",)),
    (venues, ("list",)),
    (cases, ("list",)),
    (rejected, ("list",)),
    (exposures, ("follow",)),
]
SOON_S = 6.0


@pytest.fixture
def nothing_up(monkeypatch: pytest.MonkeyPatch) -> int:
    """The default stack's addresses, on ports where nobody is; Kafka's."""
    for name in [name for name in os.environ if name.startswith("TRUYVET_")]:
        monkeypatch.delenv(name)
    kafka, clickhouse = free_ports(2)
    monkeypatch.setenv("TRUYVET_KAFKA_PORT", str(kafka))
    monkeypatch.setenv("TRUYVET_CLICKHOUSE_PORT", str(clickhouse))
    return kafka


@pytest.mark.parametrize(("module", "words"), CALLS, ids=lambda each: getattr(each, "__name__", None))
def test_every_command_says_it_soon(nothing_up: int, module: Any, words: tuple[str, ...]) -> None:
    began = time.monotonic()
    result = CliRunner().invoke(module.commands, words)
    assert time.monotonic() - began < SOON_S
    assert result.exit_code == 3, result.output
    assert f"Kafka does not answer at 127.0.0.1:{nothing_up}" in result.stderr
    assert "`truyvet up`" in result.stderr and "TRUYVET_KAFKA" in result.stderr
    assert len(result.stderr.splitlines()) == 1 and result.stdout == ""


def test_up_is_no_advice_where_it_would_not_help(nothing_up: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRUYVET_KAFKA", f"127.0.0.1:{nothing_up}")
    for module, words in (CALLS[0], CALLS[8]):
        result = CliRunner().invoke(module.commands, words)
        assert result.exit_code == 3
        assert "check that address, it is what TRUYVET_KAFKA says" in result.stderr
        assert "truyvet up" not in result.stderr


@pytest.fixture
def silent() -> Iterator[int]:
    """A port whose owner takes connections and says nothing: a broker that is merely slow."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        yield int(listening.getsockname()[1])


def test_who_is_slow_is_not_taken_for_away(silent: int) -> None:
    (free,) = free_ports(1)
    assert nobody_listens(f"127.0.0.1:{free}, localhost:{free}")
    began = time.monotonic()
    assert not nobody_listens(f"127.0.0.1:{silent}")
    assert not nobody_listens(f"127.0.0.1:{free},127.0.0.1:{silent}")
    assert time.monotonic() - began < 1


def test_who_was_there_before_is_waited_for() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        address = f"127.0.0.1:{listening.getsockname()[1]}"
        assert not nobody_listens(address)
    assert not nobody_listens(address), "a broker that restarts in the middle of a command"


def test_a_broker_that_comes_back_at_that_moment_is_asked() -> None:
    (port,) = free_ports(1)

    def come_back() -> None:
        time.sleep(0.4)
        with socket.create_server(("127.0.0.1", port)):
            time.sleep(2)

    broker = threading.Thread(target=come_back)
    broker.start()
    try:
        assert not nobody_listens(f"127.0.0.1:{port}")
    finally:
        broker.join()


def test_a_copy_that_cannot_be_read_says_where_and_what_to_do() -> None:
    (port,) = free_ports(1)
    for settings, advice in (
        (Settings(clickhouse_port=port), "truyvet up"),
        (Settings(clickhouse=f"clickhouse://u:secret@127.0.0.1:{port}/d"), "what TRUYVET_CLICKHOUSE says"),
    ):
        client = connect(settings.clickhouse_url)
        with pytest.raises(AuditAwayError, match=rf"127.0.0.1:{port}/d.*: .*{advice}") as refusal:
            copied_rows(settings, client)
        assert "secret" not in str(refusal.value)
