"""Late and changing facts: whatever comes, the latest exposures in the topic and in the archive are those
that an oracle counts from the same facts in peace.

The stories share an installation and are told side by side: a step of each, then all is compared.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from lookups.connection import connect
from schemas.settings import Settings
from tests.late.stories import STORIES
from tests.late.told import Told, exposed
from tests.stream.harness import installed

pytestmark = pytest.mark.engines


def compare(told: Told, step: int, settings: Settings) -> None:
    """Topic and archive against the oracle; a difference names its story by the case."""
    expected, topic = told.expected(), told.on_topic()
    found = exposed(topic)
    wrong = {
        key: (expected.get(key), found.get(key))
        for key in expected.keys() | found.keys()
        if expected.get(key) != found.get(key)
    }
    assert not wrong, f"step {step}, (expected, on the topic): {wrong}"
    client = connect(settings.clickhouse_url)
    try:
        # withdrawn ones and versions as well: the archive is what an analyst sees of the topic
        told.here.wait(lambda: told.in_archive(client) == topic, f"step {step}: the archive differs", 20)
    finally:
        client.disconnect()


def test_late_and_changing_facts_end_with_the_right_exposures(settings: Settings, tmp_path: Path) -> None:
    with installed(settings, tmp_path, "archive", "ingest", "cases", "matcher") as here:
        told = Told(here, tmp_path)
        open_stories = [tell(told) for tell in STORIES.values()]
        most, step = 0, 0
        while open_stories:
            if step == 1:  # what the register says while nobody follows it is made up for
                here.kill("cases")
            open_stories = [story for story in open_stories if next(story, "end") != "end"]
            if step == 1:
                here.start("cases")
            here.settle()
            compare(told, step, settings)
            most, step = max(most, len(told.expected())), step + 1
        told.repeat()
        here.settle()
        compare(told, step, settings)
        assert step > 5 and most > 20
        assert sorted(told.rejected()) == ["too_old", "unknown_venue"]
