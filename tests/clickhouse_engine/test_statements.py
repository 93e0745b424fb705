"""What the server must read out of a query text."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deploy.local.clickhouse.errors import NOT_IMPLEMENTED, SYNTAX_ERROR, ServerError, from_engine
from deploy.local.clickhouse.packets import unquoted
from deploy.local.clickhouse.statements import statement_of


@pytest.mark.parametrize(
    ("query", "target", "listed"),
    [
        ("INSERT INTO t VALUES", "t", None),
        ("insert into t (a, b) values", "t (a, b)", ("a", "b")),
        ("INSERT INTO TABLE d.t(`a b`, n.x) VALUES ;", "d.t(`a b`, n.x)", ("a b", "n.x")),
        ("/* c */ INSERT INTO `d`.`t` -- SELECT\n (a) FORMAT Native", "`d`.`t` -- SELECT\n (a)", ("a",)),
        ("INSERT INTO t", "t", None),
        ("INSERT INTO FUNCTION null('a UInt8') (a) VALUES", "FUNCTION null('a UInt8') (a)", ("a",)),
    ],
)
def test_inserts_whose_rows_come_from_the_client(
    query: str, target: str, listed: tuple[str, ...] | None
) -> None:
    insert = statement_of(query).insert
    assert insert is not None
    assert (insert.target, insert.listed) == (target, listed)


def test_the_parts_of_an_insert() -> None:
    insert = statement_of("INSERT INTO d.t (* EXCEPT(a)) SETTINGS async_insert = 0 VALUES").insert
    assert insert is not None
    assert (insert.described, insert.excluded) == ("d.t", frozenset({"a"}))
    assert insert.settings == "SETTINGS async_insert = 0"


@pytest.mark.parametrize(
    "query",
    [
        "INSERT INTO t SELECT 1",
        "INSERT INTO t (a) WITH 1 AS x SELECT x",
        "INSERT INTO t (a) VALUES (1), (2)",
        "INSERT INTO t FORMAT CSV 1,2",
        "INSERT INTO t (SELECT 1)",
    ],
)
def test_inserts_that_are_complete(query: str) -> None:
    assert statement_of(query).insert is None


@pytest.mark.parametrize(
    ("query", "runs"),
    [
        ("SELECT 1 FORMAT CSV", "SELECT 1 "),
        ("SELECT 1 FORMAT CSV SETTINGS a = 1", "SELECT 1  SETTINGS a = 1"),
        ("SELECT 1;", "SELECT 1"),
        ("SELECT ' FORMAT CSV;'", "SELECT ' FORMAT CSV;'"),
        ("SELECT format('{}', 1)", "SELECT format('{}', 1)"),
        ("CREATE VIEW v AS SELECT 1 AS format", "CREATE VIEW v AS SELECT 1 AS format"),
    ],
)
def test_the_clients_clauses_are_taken_off(query: str, runs: str) -> None:
    assert statement_of(query).text == runs


@pytest.mark.parametrize(
    ("query", "code"),
    [
        ("SELECT 1; SELECT 2", SYNTAX_ERROR),
        ("", SYNTAX_ERROR),
        ("-- nothing", SYNTAX_ERROR),
        ("SELECT 1 INTO OUTFILE '/tmp/x'", NOT_IMPLEMENTED),
        ("INSERT INTO t FROM INFILE '/etc/passwd' FORMAT CSV", NOT_IMPLEMENTED),
    ],
)
def test_refused(query: str, code: int) -> None:
    with pytest.raises(ServerError) as caught:
        statement_of(query)
    assert caught.value.code == code


@given(st.text())
def test_any_text_is_read_or_refused(query: str) -> None:
    try:
        assert query.find(statement_of(query).keyword.lower()) >= -1
    except ServerError as error:
        assert error.code in {SYNTAX_ERROR, NOT_IMPLEMENTED}


def test_totals_only_outside() -> None:
    assert statement_of("SELECT k FROM t GROUP BY k WITH TOTALS").totals
    assert not statement_of("SELECT 'WITH TOTALS'").totals


@given(st.text())
def test_a_quoted_parameter_comes_back(value: str) -> None:
    escaped = value.replace("\\", "\\\\").replace("'", "\\'").replace("\n", "\\n").replace("\0", "\\0")
    assert unquoted(f"'{escaped}'") == value


def test_errors_keep_their_number() -> None:
    error = from_engine(
        RuntimeError("Streaming query failed: Code: 60. DB::Exception: No t. (X) (version 1.2)")
    )
    assert (error.code, error.message) == (60, "DB::Exception: No t. (X)")
    twice = from_engine(
        RuntimeError(
            "Code: 115. DB::Exception: Code: 115. DB::Exception: Unknown setting 'x'. (U) (version 1). (U)"
        )
    )
    assert (twice.code, twice.message) == (115, "DB::Exception: Unknown setting 'x'. (U)")
    assert from_engine(RuntimeError("odd")).code == 1002
