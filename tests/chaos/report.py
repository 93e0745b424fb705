"""A run in words and in JSON."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict
from pathlib import Path
from typing import Any

import orjson
from rich.console import Console
from rich.table import Table

from tests.chaos.plan import KINDS
from tests.chaos.run import TARGETS, Outcome


def show(outcome: Outcome, console: Console) -> None:
    """The tables."""
    console.print(_faults(outcome))
    console.print(_promises(outcome))
    for line in outcome.lines:
        for example in [] if line.ok else line.examples:
            console.print(f"{line.what}: {example}", markup=False, highlight=False)
    for end in outcome.own_ends:
        reason = next((word for word in end.words if "the worker ends" in word), (end.words or [""])[0])
        console.print(
            f"{end.at:6.1f} s  {end.name} ended by itself ({end.code}): {reason}",
            markup=False,
            highlight=False,
        )
    for words in outcome.stuck + outcome.sent.errors:
        console.print(words, markup=False)
    console.print(_summary(outcome), markup=False, highlight=False)


def _faults(outcome: Outcome) -> Table:
    table = Table(title="faults carried out, ends by themselves, longest recovery")
    for name in ("target", "killed", "stopped", "asked to end", "ended by itself", "recovery, s"):
        table.add_column(name, justify="left" if name == "target" else "right")
    hits = Counter((hit.fault.target, hit.fault.kind) for hit in outcome.hits)
    own = Counter(end.name for end in outcome.own_ends)
    for target in TARGETS:
        took = [
            seconds
            for hit, seconds in zip(outcome.hits, outcome.recoveries, strict=True)
            if hit.fault.target == target and seconds is not None
        ]
        numbers = [str(hits[target, kind]) for kind in KINDS]
        table.add_row(target, *numbers, str(own[target]), f"{max(took):.1f}" if took else "–")
    return table


def _promises(outcome: Outcome) -> Table:
    table = Table(title="what must be there, and what is")
    for name in ("promise", "expected", "found", "missing", "unexpected", "wrong", ""):
        table.add_column(name, justify="left" if name in {"promise", ""} else "right")
    for line in outcome.lines:
        numbers = (line.expected, line.found, line.missing, line.unexpected, line.wrong)
        table.add_row(line.what, *(f"{number:,}" for number in numbers), "ok" if line.ok else "WRONG")
    return table


def _summary(outcome: Outcome) -> str:
    sent, options, cases = outcome.sent, outcome.options, outcome.scenario.authority
    took = [seconds for seconds in outcome.recoveries if seconds is not None]
    return "\n".join(
        (
            f"seed {options.seed}: {outcome.scenario.scans:,} scans sent in {sent.posts:,} acknowledged posts"
            f" ({sent.failures:,} posts had to be repeated),"
            f" {len(sent.acknowledged):,} different ones acknowledged; {len(cases.standing)} cases in"
            f" {len(cases.records)} records",
            f"{len(outcome.hits)} of {len(outcome.planned)} faults carried out,"
            f" {len(outcome.own_ends)} ends by themselves, {sum(hit.slow for hit in outcome.hits)}"
            f" did not end at SIGTERM; longest recovery {max(took, default=0):.1f} s; nothing waiting"
            f" {outcome.settled:.1f} s after the last scan and fault",
            "every promise kept" if outcome.ok else "NOT every promise kept",
        )
    )


def as_json(outcome: Outcome) -> dict[str, Any]:
    """Everything that the tables say, and each fault."""
    return {
        "ok": outcome.ok,
        "options": asdict(outcome.options),
        "scans_sent": outcome.scenario.scans,
        "scans_acknowledged": len(outcome.sent.acknowledged),
        "posts": outcome.sent.posts,
        "posts_repeated": outcome.sent.failures,
        "cases": len(outcome.scenario.authority.standing),
        "settled_s": round(outcome.settled, 1),
        "stuck": outcome.stuck,
        "errors": outcome.sent.errors,
        "promises": [asdict(line) | {"ok": line.ok} for line in outcome.lines],
        "faults": [
            {
                "at": round(hit.at, 2),
                "target": hit.fault.target,
                "kind": hit.fault.kind,
                "seconds": hit.fault.seconds,
                "back": None if hit.back is None else round(hit.back, 2),
                "exit_code": hit.code,
                "did_not_end": hit.slow,
                "recovery_s": None if seconds is None else round(seconds, 2),
            }
            for hit, seconds in zip(outcome.hits, outcome.recoveries, strict=True)
        ],
        "ended_by_themselves": [asdict(end) | {"at": round(end.at, 2)} for end in outcome.own_ends],
    }


def write(outcome: Outcome, path: Path) -> None:
    """The JSON into a file."""
    path.write_bytes(orjson.dumps(as_json(outcome), option=orjson.OPT_INDENT_2))
