"""What happens late or changes its mind: each story says something, lets it settle (yield), and goes on.

Case ids begin with the story's name, so that a difference says whose it is. Times are of days gone by.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from tests.late.told import DAY, Story, Told, noon
from tests.stream.harness import HOUR, MINUTE

STORIES: Final[dict[str, Story]] = {}


def story(tell: Story) -> Story:
    """Known by its name."""
    STORIES[tell.__name__] = tell
    return tell


@story
def window(told: Told) -> Iterator[None]:
    """Widened, narrowed, moved, moved far away, back, withdrawn, confirmed again."""
    at, index, venues = noon(2), told.somebody(), [told.venue(dwell=dwell) for dwell in (30, 60, 45)]
    for hours, venue in zip((0, 3, 8), venues, strict=True):
        told.scan(index, venue, at + hours * HOUR)
        told.scan(told.somebody(), venue, at + hours * HOUR + 10 * MINUTE)
        told.scan(told.somebody(), venue, at + hours * HOUR - 20 * MINUTE)
    told.case("window", person=index, window=(at - HOUR, at + 2 * HOUR))
    yield
    told.case("window", window=(at - HOUR, at + 9 * HOUR))
    yield
    told.case("window", window=(at + 2 * HOUR, at + 3 * HOUR + 15 * MINUTE))
    yield
    told.case("window", window=(at + 7 * HOUR, at + 9 * HOUR), min_overlap=20, linger=15)
    yield
    told.case("window", window=(at - 6 * DAY, at - 5 * DAY))
    yield
    told.case("window", window=(at - HOUR, at + 9 * HOUR), min_overlap=1, linger=0)
    told.outdated("window", window=(at, at + MINUTE))
    yield
    told.case("window", status="withdrawn")
    told.outdated("window", status="confirmed")
    yield
    told.case("window", window=(at, at + 4 * HOUR))


@story
def leaving(told: Told) -> Iterator[None]:
    """Check-outs that arrive days later shorten the contact's presence, then the case's, then end both."""
    at, index, venue = noon(5), told.somebody(), told.venue(dwell=240)
    early, late = told.somebody(), told.somebody()
    told.scan(index, venue, at)
    told.scan(early, venue, at - 30 * MINUTE)
    told.scan(late, venue, at + 100 * MINUTE)
    told.case("leaving", person=index, window=(at - DAY, at + DAY))
    yield
    told.scan(early, venue, at + 20 * MINUTE, "out")  # 20 minutes instead of 210
    yield
    told.scan(index, venue, at + 110 * MINUTE, "out")  # the late one keeps 10 of 140
    yield
    told.scan(index, venue, at + 90 * MINUTE, "out")  # an earlier one: nothing is left of the late one
    told.scan(early, venue, at - 10 * MINUTE, "out")  # gone before the case came
    yield
    told.scan(index, venue, at + 95 * MINUTE)  # seen again: the late one has met them after all


@story
def a_month(told: Told) -> Iterator[None]:
    """Scans of 29 days ago, of the case and of contacts, on both sides of a midnight; one is too old."""
    at, index, venue = noon(29), told.somebody(), told.venue(dwell=720)
    told.case("a_month", person=index, window=(at - DAY, at + 20 * DAY))
    yield
    told.scan(told.somebody(), venue, at + 11 * HOUR)
    yield
    told.scan(index, venue, at + 11 * HOUR + 30 * MINUTE)
    yield
    told.scan(told.somebody(), venue, at + 14 * HOUR)
    told.scan(told.somebody(), venue, at - 2 * DAY, refused=True)
    yield
    told.scan(index, venue, at + 12 * HOUR + 10 * MINUTE, "out")


@story
def two_cases(told: Told) -> Iterator[None]:
    """Two cases at one venue at overlapping times, with rules of their own; one is withdrawn."""
    at, venue = noon(3), told.venue(dwell=90)
    first, second, contact = told.somebody(), told.somebody(), told.somebody()
    told.case("two_cases-a", person=first, window=(at - DAY, at + DAY))
    told.scan(first, venue, at)
    told.scan(contact, venue, at + 60 * MINUTE)
    yield
    told.scan(second, venue, at + 40 * MINUTE)
    told.case("two_cases-b", person=second, window=(at - DAY, at + DAY), min_overlap=60, linger=30)
    yield
    told.scan(told.somebody(), venue, at + 135 * MINUTE)
    yield
    told.case("two_cases-a", status="withdrawn")
    yield
    told.case("two_cases-b", min_overlap=120)


@story
def both(told: Told) -> Iterator[None]:
    """A case who is a contact of another one, and the other way round."""
    at, venue, elsewhere = noon(4), told.venue(), told.venue()
    first, second = told.somebody(), told.somebody()
    told.scan(first, venue, at)
    told.scan(second, venue, at + 30 * MINUTE)
    told.case("both-a", person=first, window=(at - DAY, at + DAY))
    yield
    told.case("both-b", person=second, window=(at - DAY, at + DAY))
    told.scan(first, elsewhere, at + 5 * HOUR)
    yield
    told.scan(second, elsewhere, at + 5 * HOUR)
    told.scan(second, venue, at + 40 * MINUTE, "out")
    yield
    told.case("both-a", status="withdrawn")


@story
def place(told: Told) -> Iterator[None]:
    """A place-time at a market: with its stalls, also those registered later; moved, lingering, withdrawn."""
    at, market = noon(2), told.venue(dwell=30)
    stall = told.venue(dwell=20, parent=market)
    told.scan(told.somebody(), market, at)
    told.scan(told.somebody(), stall, at + 50 * MINUTE)
    told.case("place", venue=market, window=(at, at + HOUR))
    yield
    new = told.venue(dwell=20, parent=stall)
    told.scan(told.somebody(), new, at + 10 * MINUTE)
    told.scan(told.somebody(), new, at + 70 * MINUTE)
    yield
    told.case("place", linger=20)
    yield
    told.case("place", window=(at + HOUR, at + 2 * HOUR), linger=0)
    yield
    told.case("place", status="withdrawn")


@story
def moved(told: Told) -> Iterator[None]:
    """A stall that gets another parent, with what is in it: between two declared markets, and to none."""
    at, first, second = noon(2), told.venue(dwell=30), told.venue(dwell=30)
    stall = told.venue(dwell=20, parent=first)
    shelf = told.venue(dwell=20, parent=stall)
    stays = told.venue(dwell=20, parent=first)
    for place in (first, stall, shelf, stays):
        told.scan(told.somebody(), place, at + 10 * MINUTE)
    told.case("moved-a", venue=first, window=(at, at + HOUR))
    told.case("moved-b", venue=second, window=(at + 20 * MINUTE, at + HOUR))
    yield
    told.change(stall, parent=second)
    yield
    told.scan(told.somebody(), shelf, at + 15 * MINUTE)
    yield
    told.change(shelf, parent=None)
    told.case("moved-b", linger=5)
    yield
    told.change(stall, parent=first)
    yield
    told.change(shelf, parent=stall)
    told.case("moved-a", window=(at + 25 * MINUTE, at + HOUR))


@story
def closed(told: Told) -> Iterator[None]:
    """A venue that is closed: scans of before still come late and count, those of after are refused."""
    at, index, venue = noon(2), told.somebody(), told.venue(dwell=45)
    told.scan(index, venue, at)
    told.case("closed", person=index, window=(at - DAY, at + DAY))
    yield
    told.change(venue, closed_at=at + HOUR)
    yield
    told.scan(told.somebody(), venue, at + 30 * MINUTE)
    told.scan(told.somebody(), venue, at + HOUR, refused=True)
    yield
    told.change(venue, closed_at=None)
    yield
    told.scan(index, venue, at + 2 * HOUR)
    told.scan(told.somebody(), venue, at + 2 * HOUR + MINUTE)


@story
def void(told: Told) -> Iterator[None]:
    """Corrections: of a contact, of the case, and one that comes before what it corrects."""
    at, index, venue = noon(2), told.somebody(), told.venue()
    wrong, right, never = told.somebody(), told.somebody(), told.somebody()
    told.case("void", person=index, window=(at - DAY, at + DAY))
    told.scan(index, venue, at)
    told.scan(wrong, venue, at + 10 * MINUTE)
    told.scan(right, venue, at + 20 * MINUTE)
    told.scan(never, venue, at + 30 * MINUTE, "void")
    yield
    told.scan(wrong, venue, at + 10 * MINUTE, "void")
    told.scan(never, venue, at + 30 * MINUTE)
    yield
    told.scan(index, venue, at, "void")
    yield
    told.scan(index, venue, at + 45 * MINUTE)
    yield
    told.scan(right, venue, at + 50 * MINUTE, "out")
    told.scan(right, venue, at + 50 * MINUTE, "void")
