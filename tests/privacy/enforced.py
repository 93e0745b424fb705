"""Run statements on a chDB of its own, as a user whose rights are those of a role of deploy/access/roles.sql.

The server that we embed knows no users. The engine in it does, when it is told of them by a file: so that the
grants and row policies are the engine's own to enforce. `python -m tests.privacy.enforced FOLDER ROLE USER`
reads a JSON list of statements and answers with a JSON list: rows, or the error's code as a number.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterable
from pathlib import Path
from xml.sax.saxutils import escape

from deploy.cli.access import statements

# the engine's session is always of this user; the owner made the tables
USER = "default"
_GRANT = re.compile(r"GRANT (?P<what>\w+(\([^)]*\))?) ON (?P<table>\w+) TO truyvet_(?P<role>\w+)")
_POLICY = re.compile(
    r"CREATE ROW POLICY IF NOT EXISTS \w+ ON (?P<table>\w+)\s+USING (?P<rule>.*) TO truyvet_(?P<role>\w+)",
    re.S,
)
_LOGIN = "<no_password/><networks><ip>::/0</ip></networks><profile>default</profile><quota>default</quota>"
_ALL = "<access_management>1</access_management>"


def _rights(role: str) -> str:
    """The grants and row policies of a role as the engine's file of users wants them."""
    grants, policies = [], []
    for statement in statements():
        if (found := _GRANT.fullmatch(statement)) and found["role"] == role:
            grants.append(f"<query>GRANT {found['what']} ON default.{found['table']}</query>")
        elif (found := _POLICY.fullmatch(statement)) and found["role"] == role:
            # its currentUser() is that of the file; the mapping table is found in the database
            rule = escape(found["rule"].replace("FROM department_users", "FROM default.department_users"))
            policies.append(f"<{found['table']}><filter>{rule}</filter></{found['table']}>")
    rules = f"<databases><default>{''.join(policies)}</default></databases>" if policies else ""
    return f"<grants>{''.join(grants)}</grants>{rules}"


def configured(folder: Path, role: str) -> Path:
    """The engine's configuration for a role; `owner`: somebody who may do everything."""
    rights = _ALL if role == "owner" else _rights(role)
    users = folder / f"{role}-users.xml"
    users.write_text(
        "<clickhouse><profiles><default/></profiles><quotas><default/></quotas>"
        f"<users><owner>{_LOGIN}{_ALL}</owner><{USER}>{_LOGIN}{rights}</{USER}></users></clickhouse>"
    )
    config = folder / f"{role}.xml"
    config.write_text(f"<clickhouse><users_config>{users}</users_config></clickhouse>")
    return config


def execute(folder: Path, role: str, asked: Iterable[str]) -> list[object]:
    """Rows as lists, or the code of the error, for each statement."""
    from chdb import session  # noqa: PLC0415 (one engine a process: never in that of the tests)

    here = session.Session(f"{folder / 'db'}?config-file={configured(folder, role)}")
    found: list[object] = []
    for statement in asked:
        try:
            text = str(here.query(statement, "JSONCompactEachRow"))
            found.append([json.loads(line) for line in text.splitlines()])
        except Exception as error:
            code = re.search(r"Code: (\d+)", str(error))
            found.append(int(code[1]) if code else str(error))
    return found


if __name__ == "__main__":
    print(json.dumps(execute(Path(sys.argv[1]), sys.argv[2], json.load(sys.stdin))))
