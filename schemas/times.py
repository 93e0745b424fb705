"""Time in the project's units: milliseconds, minutes, hours since the Unix epoch, and local dates.

Minute m = floor(ms / 60,000), hour h = floor(m / 60); intervals are half-open, in minutes.
Local is Asia/Ho_Chi_Minh, which has had one offset (UTC+7, no daylight saving) since 1975, long
before any scan: so local dates are plain arithmetic, and the hot path needs no time-zone look-up.
"""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from zoneinfo import ZoneInfo

LOCAL = ZoneInfo("Asia/Ho_Chi_Minh")
OFFSET_MINUTES = 7 * 60
MS_PER_MINUTE = 60_000
MINUTES_PER_DAY = 1_440
MAX_MS = 253_402_300_799_999  # the last millisecond of the year 9999, the end of ISO 8601 dates

_EPOCH = date(1970, 1, 1)


def minute_of(ms: int) -> int:
    """The minute that holds a time in milliseconds."""
    return ms // MS_PER_MINUTE


def local_day(minute: int) -> int:
    """Days since 1970-01-01 of the local date that holds `minute`."""
    return (minute + OFFSET_MINUTES) // MINUTES_PER_DAY


def day_start(day: int) -> int:
    """The first minute of a local day given as days since 1970-01-01."""
    return day * MINUTES_PER_DAY - OFFSET_MINUTES


def day_name(day: int) -> str:
    """YYYY-MM-DD of a day given as days since 1970-01-01."""
    return (_EPOCH + timedelta(days=day)).isoformat()


def day_number(name: str) -> int:
    """Days since 1970-01-01 of YYYY-MM-DD. Raises ValueError that shows that form for anything else."""
    try:
        return (date.fromisoformat(name.strip()) - _EPOCH).days
    except ValueError:
        raise ValueError(f"{name!r} is not a date: write 2021-02-08 (local, Asia/Ho_Chi_Minh)") from None


def parse_time(text: str) -> int:
    """Milliseconds of an ISO 8601 date or date-time; without an offset it is local time.

    Raises ValueError with a message that shows the accepted form.
    """
    try:
        moment = datetime.fromisoformat(text.strip())
    except ValueError:
        raise ValueError(
            f"{text!r} is not a time: write 2021-02-08T14:30, 2021-02-08 or 2021-02-08T07:30:00Z"
            " (without an offset it is local time, Asia/Ho_Chi_Minh)"
        ) from None
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=LOCAL)
    ms = round((moment - datetime(1970, 1, 1, tzinfo=UTC)) / timedelta(milliseconds=1))
    if not 0 <= ms <= MAX_MS:
        raise ValueError(f"{text!r} is not between 1970 and 9999")
    return ms


def format_time(ms: int) -> str:
    """Local time to the minute with its offset, as people read it: 2021-02-08 14:30+07:00."""
    return datetime.fromtimestamp(ms / 1000, LOCAL).isoformat(sep=" ", timespec="minutes")
