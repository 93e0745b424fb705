"""Who hangs, and who only waits: the decision, with the clock in the test's hand."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from deploy.local.lag import Key, Place
from deploy.local.stalls import Candidate, Report, Stall, Stalls

BOUND, TICK = 60.0, 5.0
WELL = Report(well=True, progress=1.0)
SILENT = Report(well=False)


def place(done: int, end: int) -> Place:
    return Place(done, end, committed=True, begin=0)


@dataclass
class Scene:
    """One role: where its group stands, what its workers say, who has which partition."""

    now: float = 1000.0
    places: dict[int, Place] = field(default_factory=dict)
    said: dict[str, Report] = field(default_factory=lambda: {"matcher": WELL})
    pids: dict[str, int] = field(default_factory=dict)
    owners: dict[int, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.stalls = Stalls(BOUND, lambda: self.now)

    def look(self) -> Stall | None:
        pids = {name: self.pids.get(name, 1) for name in self.said}
        stands = self.stalls.look({("t", number): each for number, each in self.places.items()}, pids)
        if not stands:
            return None
        found = [Candidate(name, pids[name], report) for name, report in self.said.items()]
        owners: Mapping[Key, str] = {("t", number): name for number, name in self.owners.items()}
        return self.stalls.judge(found, owners)

    def ended_within(self, seconds: float) -> tuple[float, Stall] | None:
        """The first verdict within so many seconds of looks, and after how many it came."""
        began = self.now
        while self.now - began < seconds:
            self.now += TICK
            if stall := self.look():
                self.pids[stall.worker] = stall.pid + 1  # it is started again
                return self.now - began, stall
        return None


def test_lag_that_does_not_move_is_a_hang_after_the_bound() -> None:
    scene = Scene(places={0: place(5, 17), 1: place(3, 3)})
    scene.look()
    found = scene.ended_within(200)
    assert found is not None
    after, stall = found
    assert BOUND <= after <= BOUND + 2 * TICK
    assert (stall.worker, stall.pid, stall.lag) == ("matcher", 1, 12)
    assert str(stall).startswith("no progress for 6") and str(stall).endswith(" with lag 12")


def test_whatever_moves_or_has_no_lag_does_not_hang() -> None:
    scene = Scene(places={0: place(0, 1000), 1: place(3, 3)})
    for step in range(60):
        scene.now += TICK
        scene.places[0] = place(step // 10, 1000)  # slow: something every 50 s
        assert scene.look() is None
    # a record that comes after a long silence: its time begins with it
    scene.places = {0: place(1000, 1000)}
    assert scene.ended_within(3600) is None
    scene.places = {0: place(1000, 1001)}
    scene.now += TICK
    assert scene.look() is None
    found = scene.ended_within(200)
    assert found and found[0] >= BOUND


def test_one_partition_that_stands_among_others_that_move_is_enough() -> None:
    scene = Scene(places={0: place(0, 10), 1: place(0, 1_000_000)})
    for step in range(1, 16):
        scene.now += TICK
        scene.places[1] = place(step * 100, 1_000_000)
        if stall := scene.look():
            assert stall.lag == 10
            return
    raise AssertionError("not noticed")


def test_who_waits_for_something_outside_is_left_alone_and_has_its_time_afterwards() -> None:
    scene = Scene(places={0: place(0, 10)}, said={"matcher": Report(well=True, waiting=True)})
    assert scene.ended_within(3600) is None
    scene.said["matcher"] = WELL
    found = scene.ended_within(200)
    assert found and found[0] >= BOUND


def test_a_worker_that_hangs_while_it_says_that_it_waits_is_found_by_its_health() -> None:
    scene = Scene(places={0: place(0, 10)}, said={"matcher": Report(well=False, waiting=True)})
    assert scene.ended_within(200)


def test_what_hangs_again_and_again_is_given_more_time_each_time() -> None:
    scene = Scene(places={0: place(0, 10)})
    scene.look()
    pauses = []
    for _ in range(9):
        found = scene.ended_within(10_000)
        assert found
        pauses.append(found[0])
    expected = [60, 120, 240, 480, 960, 1920, 3600, 3600, 3600]
    for pause, bound in zip(pauses, expected, strict=True):
        assert bound <= pause <= bound + 2 * TICK
    # slow work that a restart only repeats: it was done in the time that it was given
    scene.places = {0: place(10, 10)}
    assert scene.ended_within(40_000) is None
    scene.places = {0: place(10, 11)}
    scene.look()
    found = scene.ended_within(1000)
    assert found and found[0] <= BOUND + 2 * TICK


def test_a_worker_that_has_just_started_has_its_whole_time() -> None:
    scene = Scene(places={0: place(0, 10)})
    scene.look()
    scene.now += 50
    assert scene.look() is None
    scene.pids["matcher"] = 2  # died and came up by itself
    found = scene.ended_within(200)
    assert found and found[0] >= BOUND


def test_of_several_it_is_the_owner_of_what_stands() -> None:
    said = {"ingest-0": Report(True, progress=50), "ingest-1": Report(True, progress=900)}
    scene = Scene(places={0: place(0, 10), 1: place(0, 0)}, said=said, owners={0: "ingest-1", 1: "ingest-0"})
    scene.look()
    found = scene.ended_within(200)
    assert found and found[1].worker == "ingest-1", "ingest-0 has nothing to do: its silence is no sign"
    # and while it gets its second, longer time, nobody else is blamed for it
    found = scene.ended_within(110)
    assert found is None


def test_without_an_owner_it_is_who_does_not_answer_then_who_did_nothing_for_longest() -> None:
    said = {"a": Report(True, progress=50), "b": SILENT, "c": Report(True, progress=20)}
    scene = Scene(places={0: place(0, 10)}, said=said)
    scene.look()
    blamed = []
    for _ in range(3):
        found = scene.ended_within(200)
        assert found
        blamed.append(found[1].worker)
        scene.said[found[1].worker] = Report(True, progress=2000)
    assert blamed == ["b", "c", "a"]


def test_nothing_is_blamed_on_a_time_in_which_nobody_looked() -> None:
    scene = Scene(places={0: place(0, 10)})
    scene.look()
    scene.now += 5000
    scene.stalls.forget()  # as the watchdog does when Kafka was away or the machine slept
    assert scene.look() is None
    found = scene.ended_within(200)
    assert found and found[0] >= BOUND - TICK


def test_lag_of_markers_alone_is_put_off() -> None:
    scene = Scene(places={0: place(0, 1), 1: place(0, 4)})
    scene.look()
    scene.now += BOUND
    scene.stalls.look({("t", 0): place(0, 1), ("t", 1): place(0, 4)}, {"matcher": 1})
    assert set(scene.stalls.overdue()) == {("t", 0), ("t", 1)}
    scene.stalls.forget([("t", 0)])
    assert set(scene.stalls.overdue()) == {("t", 1)}
