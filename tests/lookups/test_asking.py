"""The first row of an answer before its end, on the real engine."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from clickhouse_driver.errors import Error

from lookups.answers import ArchiveAwayError, QuestionError
from lookups.archive import Lookups
from tests.lookups.conftest import World

pytestmark = pytest.mark.engines

# The row leaves in the first block of one; the engine fails two blocks later.
_FAILS_LATER = "SELECT intDiv(4, 2 - number) FROM numbers(3) SETTINGS max_block_size = 1"

_THREE = "SELECT number FROM numbers(3) SETTINGS max_block_size = 1"


def still_answers(lookups: Lookups) -> bool:
    return list(lookups._rows("SELECT 7", {})) == [(7,)]


def test_the_row_is_there_before_the_end_and_the_connection_is_free_after_it(world: World) -> None:
    with world.lookups._first("SELECT 1, 'a'", {}) as row:
        assert row == (1, "a")
    assert still_answers(world.lookups)


def test_what_fails_after_the_row_is_raised_before_the_answer_is_given(world: World) -> None:
    seen = []

    def answer() -> int:
        with world.lookups._first(_FAILS_LATER, {}) as row:
            seen.append(row)
            return 1

    with pytest.raises((Error, QuestionError), match="zero"):
        answer()
    assert seen == [(2,)]
    assert still_answers(world.lookups)


def test_a_fault_within_the_block_leaves_nothing_of_the_answer_to_the_next_question(world: World) -> None:
    with (
        pytest.raises(ZeroDivisionError),
        world.lookups._first(_THREE, {}),
    ):
        raise ZeroDivisionError
    assert still_answers(world.lookups)


@pytest.mark.parametrize("after", [0, 1, 2])
def test_so_does_an_interrupt_wherever_it_comes(
    world: World, monkeypatch: pytest.MonkeyPatch, after: int
) -> None:
    client = world.lookups._client
    whole = client.execute_iter

    def interrupted(*asked: Any, **how: Any) -> Iterator[tuple[Any, ...]]:
        for number, row in enumerate(whole(*asked, **how)):
            if number == after:
                raise KeyboardInterrupt
            yield row

    with monkeypatch.context() as patched:
        patched.setattr(client, "execute_iter", interrupted)
        with pytest.raises(KeyboardInterrupt), world.lookups._first(_THREE, {}):
            pass
    assert still_answers(world.lookups)


def test_no_row_is_told_in_words(world: World) -> None:
    with pytest.raises(ArchiveAwayError, match="no answer"), world.lookups._first("SELECT 1 WHERE 0", {}):
        pass
    assert still_answers(world.lookups)
