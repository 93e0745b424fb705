"""The rules of presence and contact once more, minute by minute: slow, literal, sharing no code.

A world is a set of marks (person, venue, minute, kind); the dwell of a venue is in minutes.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

AMark = tuple[str, str, int, str]
VIETNAM = 7 * 60  # minutes ahead of UTC
DAY = 24 * 60


def present(marks: Iterable[tuple[int, str]], dwell: int) -> set[int]:
    """Every minute at which somebody with these marks (minute, kind) at a venue is there."""
    told = set(marks)
    voided = {minute for minute, kind in told if kind == "void"}
    ins = {minute for minute, kind in told if kind == "in"} - voided
    outs = {minute for minute, kind in told if kind == "out"} - voided - ins
    there: set[int] = set()
    for minute in ins:
        later = [other for other in ins | outs if other > minute]
        following = min(later, default=None)
        leaves = minute + dwell
        if following is not None and following in ins and following - minute <= dwell:
            leaves = following
        if following is not None and following in outs and following - minute <= 720:
            leaves = following
        there |= set(range(minute, leaves))
    for minute in outs:
        if not any(minute - 720 <= other < minute for other in ins | outs):
            there |= set(range(minute - dwell, minute))
    return there


def runs(minutes: set[int]) -> list[tuple[int, int]]:
    """The maximal runs of a set of minutes, as half-open spans in order."""
    starts = sorted(minute for minute in minutes if minute - 1 not in minutes)
    ends = sorted(minute + 1 for minute in minutes if minute + 1 not in minutes)
    return list(zip(starts, ends, strict=True))


def days(shared: set[int], min_overlap: int) -> dict[int, tuple[int, int, int]]:
    """day → (minutes, first, last) of the local dates on which shared minutes make a contact."""
    by_day: dict[int, set[int]] = {}
    for minute in shared:
        by_day.setdefault((minute + VIETNAM) // DAY, set()).add(minute)
    long_ones = [set(range(*run)) for run in runs(shared) if run[1] - run[0] >= min_overlap]
    return {
        day: (len(minutes), min(minutes), max(minutes) + 1)
        for day, minutes in by_day.items()
        if len(minutes) >= min_overlap or any(minutes & run for run in long_ones)
    }


def there(world: Iterable[AMark], dwells: Mapping[str, int]) -> dict[tuple[str, str], set[int]]:
    """(person, venue) → the minutes of presence."""
    marks: dict[tuple[str, str], set[tuple[int, str]]] = {}
    for person, venue, minute, kind in world:
        marks.setdefault((person, venue), set()).add((minute, kind))
    return {key: present(own, dwells[key[1]]) for key, own in marks.items()}


def contacts(
    world: Iterable[AMark], dwells: Mapping[str, int], subject: str, window: range, min_overlap: int
) -> set[tuple[str, str, int, int, int, int]]:
    """(person, venue, day, minutes, first, last) of everybody who met `subject` in a window of minutes."""
    presence = there(world, dwells)
    found = set()
    for (person, venue), minutes in presence.items():
        if person == subject:
            continue
        shared = {minute for minute in minutes & presence.get((subject, venue), set()) if minute in window}
        found |= {(person, venue, day, *times) for day, times in days(shared, min_overlap).items()}
    return found


def chain(
    world: Sequence[AMark],
    dwells: Mapping[str, int],
    subject: str,
    window: range,
    isolated: Mapping[str, int],
    now: int,
    min_overlap: int,
) -> set[tuple[int, str, str, str, int, int, int, int]]:
    """(degree, source, person, venue, day, minutes, first, last) up to degree 3; every walk."""
    walkers = {subject: range(window.start, min(window.stop, isolated.get(subject, window.stop)))}
    links: set[tuple[int, str, str, str, int, int, int, int]] = set()
    for degree in (1, 2, 3):
        step = {
            (degree, source, *contact)
            for source, hours in walkers.items()
            for contact in contacts(world, dwells, source, hours, min_overlap)
            if contact[0] != subject
        }
        exposed: dict[str, int] = {}
        for link in step:
            exposed[link[2]] = min(link[6], exposed.get(link[2], link[6]))
        walkers = {who: range(first, min(now, isolated.get(who, now))) for who, first in exposed.items()}
        links |= step
    smallest: dict[str, int] = {}
    for link in links:
        smallest[link[2]] = min(link[0], smallest.get(link[2], link[0]))
    return {link for link in links if link[0] == smallest[link[2]]}


def common(
    world: Iterable[AMark], dwells: Mapping[str, int], persons: set[str], window: range
) -> set[tuple[str, int, int, int]]:
    """(venue, persons who were there, persons who met another of them, minutes of all pairs)."""
    presence = there(world, dwells)
    found = set()
    for venue in dwells:
        inside = {
            who: {minute for minute in own if minute in window}
            for (who, where), own in presence.items()
            if where == venue and who in persons
        }
        inside = {who: own for who, own in inside.items() if own}
        pairs = {(a, b): len(inside[a] & inside[b]) for a in inside for b in inside if a != b}
        met = {who for pair, minutes in pairs.items() if minutes for who in pair}
        if len(inside) > 1:
            found.add((venue, len(inside), len(met), sum(pairs.values()) // 2))
    return found
