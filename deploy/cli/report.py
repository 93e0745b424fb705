"""The report of a case for the epidemic board."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from deploy.cli.desk import Questions, asking, clock_ms, open_desk, question_errors
from deploy.cli.output import CALL_WRONG, fail, out, plain_errors, writing_errors
from lookups.archive import Lookups
from lookups.groups import GroupLookups
from schemas.settings import SettingsError, load_settings

commands = Questions()


@commands.command("report")
def write(
    case: Annotated[str, typer.Option(help="The case, of a person, that stands.")],
    path: Annotated[Path, typer.Option("--out", help="The PDF file to write.")],
) -> None:
    """A PDF of a case: its places and times, venues by department, F1 and F2 by day and district.

    Contacts are counted, none is named.
    """
    if path.suffix.lower() != ".pdf":
        fail(f"--out {path.name}: the name must end in .pdf", CALL_WRONG)
    from deploy.report import Report, write_report  # noqa: PLC0415 (its fonts take a third of a second)

    with plain_errors(SettingsError):
        settings = load_settings()
    with question_errors(), open_desk(settings) as (desk, client):
        lookups, groups = Lookups(client, clock_ms, desk), GroupLookups(client, clock_ms, desk)
        subject = groups.person_of_case(case)
        trace = desk.answered(lookups.person(subject.person, subject.window))
        contacts = desk.answered(lookups.contacts_of_case(case))
        links = desk.answered(groups.chain(subject.person, subject.window, {}, subject.min_overlap))
        report = Report(
            case_id=case,
            person=subject.person,
            window=subject.window,
            purpose=asking(settings).purpose,
            made_at=clock_ms(),
            presences=trace.presences,
            contacts=contacts,
            links=links,
        )
    with writing_errors():
        write_report(report, path)
    out.print(f"{path} is written", markup=False)
