"""Times: one offset, half-open minutes, local dates by arithmetic."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.times import (
    LOCAL,
    MAX_MS,
    MINUTES_PER_DAY,
    day_name,
    day_number,
    day_start,
    format_time,
    local_day,
    minute_of,
    parse_time,
)

# the zone has had one offset since 13 June 1975
since_1976 = st.integers(
    int(datetime(1976, 1, 1, tzinfo=UTC).timestamp() * 1000),
    int(datetime(2100, 1, 1, tzinfo=UTC).timestamp() * 1000),
)


def test_local_midnight_is_a_date_boundary() -> None:
    midnight = parse_time("2021-02-08")
    assert midnight == parse_time("2021-02-07T17:00:00Z")
    day = local_day(minute_of(midnight))
    assert (day_name(day), day_name(local_day(minute_of(midnight - 1)))) == ("2021-02-08", "2021-02-07")
    assert day_start(day) == minute_of(midnight)
    assert day_start(day + 1) - day_start(day) == MINUTES_PER_DAY


@given(since_1976)
def test_local_days_agree_with_the_time_zone_database(ms: int) -> None:
    moment = datetime.fromtimestamp(ms / 1000, LOCAL)
    day = local_day(minute_of(ms))
    assert day_name(day) == moment.date().isoformat()
    assert day_number(day_name(day)) == day
    assert day_start(day) <= minute_of(ms) < day_start(day + 1)


@given(since_1976)
def test_what_is_shown_can_be_typed(ms: int) -> None:
    assert parse_time(format_time(ms)) == ms // 60_000 * 60_000


@pytest.mark.parametrize(
    "text",
    [
        "2021-02-08T14:30",
        "2021-02-08 14:30",
        "2021-02-08T07:30Z",
        "2021-02-08T14:30:00.000+07:00",
        " 2021-02-08T14:30 ",
    ],
)
def test_forms_of_one_moment(text: str) -> None:
    assert parse_time(text) == 1_612_769_400_000


def test_milliseconds_are_kept() -> None:
    assert parse_time("2021-02-08T14:30:00.123") == 1_612_769_400_123


@pytest.mark.parametrize(
    "text", ["", "yesterday", "08/02/2021", "2021-02-30", "2021-02-08T25:00", "1612769400000"]
)
def test_errors_show_the_accepted_form(text: str) -> None:
    with pytest.raises(ValueError, match="2021-02-08T14:30"):
        parse_time(text)


def test_out_of_range() -> None:
    with pytest.raises(ValueError, match="between 1970 and 9999"):
        parse_time("1969-12-31")
    with pytest.raises(ValueError, match="between 1970 and 9999"):
        parse_time("9999-12-31T23:59:59.9999-07:00")
    assert parse_time("9999-12-31T23:59:59.999Z") == MAX_MS


def test_day_number_refuses_other_text() -> None:
    with pytest.raises(ValueError, match=r"'2021-2-8' is not a date: write 2021-02-08"):
        day_number("2021-2-8")
