"""What is noted of a death, and when a process that supervisor has given up is tried again."""

from __future__ import annotations

from pathlib import Path

import pytest

from deploy.local import watch
from deploy.local.supervision import Folder
from deploy.local.watch import Watch, deaths


class Scene:
    """A listener on a folder, a clock in the test's hand, and the starts that it asked for."""

    def __init__(self, folder: Folder) -> None:
        self.now = 1_000_000.0
        self.started: list[str] = []
        self.folder = folder
        self.watch = Watch(folder, self.started.append, lambda: self.now)

    def log(self, line: str) -> None:
        with self.folder.supervisor_log.open("a") as file:
            file.write(line + "\n")

    def tried_after(self) -> float:
        """Seconds until the next start, in steps of a tick."""
        began, before = self.now, len(self.started)
        while len(self.started) == before:
            self.now += 5
            self.watch.tick()
            assert self.now - began < 1000, "given up"
        return self.now - began


@pytest.fixture
def scene(tmp_path: Path) -> Scene:
    folder = Folder(tmp_path)
    folder.run.mkdir()
    folder.logs.mkdir()
    return Scene(folder)


def test_a_death_is_noted_with_its_reason(scene: Scene) -> None:
    scene.log("2026-01-01 00:00:00,000 WARN exited: ingest-0 (exit status 3; not expected)")
    scene.log("2026-01-01 00:00:01,000 WARN exited: ingest-01 (terminated by SIGSEGV; not expected)")
    scene.watch.process_event("PROCESS_STATE_EXITED", "ingest-0")
    scene.now += 60
    scene.watch.process_event("PROCESS_STATE_BACKOFF", "ingest-01")
    first, second = deaths(scene.folder)
    assert first == {"at": 1_000_000_000, "process": "ingest-0", "reason": "exit status 3"}
    assert second["reason"] == "killed by SIGSEGV"
    assert deaths(scene.folder, since=1_000_060_000) == [second]
    assert "ingest-0 died (exit status 3): started again" in scene.folder.log("ingest-0").read_text()


def test_a_command_that_is_not_there_is_a_reason(scene: Scene) -> None:
    scene.log("2026-01-01 00:00:00,000 INFO spawnerr: can't find command '/nowhere/redis-server'")
    scene.watch.process_event("PROCESS_STATE_BACKOFF", "redis")
    assert deaths(scene.folder)[0]["reason"] == "can't find command '/nowhere/redis-server'"


def test_what_keeps_dying_is_tried_ever_more_slowly_but_for_ever(scene: Scene) -> None:
    pauses = []
    for _ in range(8):
        scene.watch.process_event("PROCESS_STATE_FATAL", "matcher")
        pauses.append(scene.tried_after())
    assert pauses == [10, 20, 40, 80, 160, 300, 300, 300]
    assert set(scene.started) == {"matcher"}
    # it has come up since: the next trouble begins with the short pause
    scene.watch.process_event("PROCESS_STATE_EXITED", "matcher")
    scene.watch.process_event("PROCESS_STATE_FATAL", "matcher")
    assert scene.tried_after() == 10


def test_the_notes_stay_small_and_a_torn_line_is_left_out(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watch, "_KEPT", 10)
    for _ in range(35):
        scene.now += 1
        scene.watch.process_event("PROCESS_STATE_EXITED", "cases")
    kept = deaths(scene.folder)
    assert 5 <= len(kept) <= 10
    assert kept[-1]["at"] == round(scene.now * 1000)
    with scene.folder.restarts.open("ab") as file:
        file.write(b'{"at": 12, "proc')
    assert deaths(scene.folder) == kept


def test_what_the_watchdog_ended_is_noted_with_its_reason_once(scene: Scene) -> None:
    scene.log("2026-01-01 00:00:00,000 WARN exited: matcher (terminated by SIGKILL; not expected)")
    watch.leave_reason(scene.folder, "matcher", 77, "no progress for 61 s with lag 5")
    scene.watch.process_event("PROCESS_STATE_EXITED", "matcher", 77)
    scene.watch.process_event("PROCESS_STATE_EXITED", "matcher", 78)
    # left for a process that was gone before it could be ended
    watch.leave_reason(scene.folder, "matcher", 78, "no progress for 99 s with lag 5")
    scene.watch.process_event("PROCESS_STATE_EXITED", "matcher", 79)
    reasons = [death["reason"] for death in deaths(scene.folder)]
    assert reasons == ["no progress for 61 s with lag 5", "killed by SIGKILL", "killed by SIGKILL"]
