"""Kafka's topics: what is declared, what is there, and making the two equal."""

from __future__ import annotations

from contextlib import AbstractContextManager

import typer

from deploy.cli.output import SERVER_AWAY, CsvFlag, JsonFlag, chosen_format, emit, plain_errors
from deploy.local import topics
from schemas.settings import SettingsError, load_settings

commands = typer.Typer(no_args_is_help=True)

_DONE = {"create": "created", "grow": "grown", "configure": "corrected", "keep": "as declared"}
_TO_DO = {"create": "missing", "grow": "too few partitions", "configure": "drifted", "keep": "as declared"}


@commands.command()
def apply(json: JsonFlag = False) -> None:
    """Create missing topics, add partitions, set drifted settings back; never shrink, never delete.

    May be run at any time, on any cluster; says what it did.
    """
    output = chosen_format(json, False)
    with plain_errors(SettingsError, topics.TopicsError), _away():
        steps = topics.apply(load_settings())
    rows = [{"topic": step.wanted.name, "did": _DONE[step.action], "detail": step.detail} for step in steps]
    emit(rows, {"topic": "Topic", "did": "Did", "detail": "Detail"}, output)


@commands.command("list")
def list_topics(json: JsonFlag = False, as_csv: CsvFlag = False) -> None:
    """Every declared topic and how it stands on the cluster; changes nothing."""
    output = chosen_format(json, as_csv)
    with plain_errors(SettingsError, topics.TopicsError), _away():
        steps = topics.TopicAdmin(load_settings()).plan()
    rows: dict[str, dict[str, object]] = {}
    for step in steps:
        topic = step.wanted.topic
        row = rows.setdefault(
            step.wanted.name,
            {
                "topic": step.wanted.name,
                "partitions": step.wanted.partitions,
                "key": topic.key,
                "keeps": "the last of a key" if topic.compacted else f"{topic.retention_days} days",
                "state": "",
                "about": topic.about,
            },
        )
        words = _TO_DO.get(step.action, "cannot be changed")
        said = f"{words}: {step.detail}" if step.detail and step.action != "create" else words
        row["state"] = f"{row['state']}; {said}".removeprefix("; ")
    columns = {
        "topic": "Topic",
        "partitions": "Partitions",
        "key": "Key",
        "keeps": "Keeps",
        "state": "State",
        "about": "About",
    }
    emit(list(rows.values()), columns, output)


def _away() -> AbstractContextManager[None]:
    return plain_errors(topics.KafkaAwayError, code=SERVER_AWAY)
