"""What a query text asks for, as far as the protocol must know it before the engine runs it.

A native client sends the rows of an INSERT after the text; and some clauses (FORMAT, INTO OUTFILE) are the
client's business, which chDB would carry out itself.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

from deploy.local.clickhouse.errors import NOT_IMPLEMENTED, SYNTAX_ERROR, ServerError

_TOKEN = re.compile(
    r"""(?P<blank>\s+|--[^\n]*|\#[!\ ][^\n]*|/\*.*?\*/)
    |(?P<string>'(?:[^'\\]|\\.|'')*')
    |(?P<name>`(?:[^`\\]|\\.|``)*`|"(?:[^"\\]|\\.|"")*")
    |(?P<heredoc>\$(?P<tag>\w*)\$.*?\$(?P=tag)\$)
    |(?P<word>[^\W\d]\w*)
    |(?P<number>\d[\w.]*)
    |(?P<sign>.)""",
    re.DOTALL | re.VERBOSE,
)
# Only a text with one of these needs to be read to its end; most queries do not, and some are long.
_WORTH_READING = re.compile(r";|\bformat\b|\boutfile\b|\btotals\b", re.IGNORECASE)
_READS = {"SELECT", "WITH", "FROM", "("}
_ESCAPED = re.compile(r"\\(.)|([`\"])\2", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Token:
    """A word or sign of a query: `kind` is the group of `_TOKEN`, `depth` counts the open parentheses."""

    kind: str
    text: str
    start: int
    end: int
    depth: int

    def is_word(self, *words: str) -> bool:
        """Whether it is one of these keywords (upper case) outside of parentheses."""
        return self.kind == "word" and not self.depth and self.text.upper() in words


@dataclass(frozen=True, slots=True)
class Insert:
    """An INSERT whose rows the client sends: `INSERT INTO target … VALUES` with nothing after it.

    `target` is the table or `FUNCTION f(…)` with its columns, `described` what DESCRIBE is asked, `listed`
    the column names (None: all), `excluded` those after EXCEPT, `settings` the SETTINGS clause or "".
    """

    target: str
    described: str
    listed: tuple[str, ...] | None
    excluded: frozenset[str]
    settings: str


@dataclass(frozen=True, slots=True)
class Statement:
    """A query: `text` is what the engine runs, `keyword` its first word."""

    text: str
    keyword: str
    insert: Insert | None = None
    totals: bool = False

    @property
    def reads(self) -> bool:
        """Whether it is a SELECT in one of its forms."""
        return self.keyword in _READS


def statement_of(query: str) -> Statement:
    """Read a query text.

    Raises ServerError for more than one statement, and for clauses that a client carries out itself.
    """
    tokens = _tokens(query)
    first = next(tokens, None)
    if first is None:
        raise ServerError(SYNTAX_ERROR, "Syntax error: Empty query")
    keyword = first.text.upper()
    if keyword == "INSERT":
        insert = _insert_of(query, first)
        if insert is not None:
            return Statement(query, keyword, insert)
        return Statement(query, keyword)
    if not _WORTH_READING.search(query):
        return Statement(query, keyword)
    return _whole(query, keyword)


def _whole(query: str, keyword: str) -> Statement:
    kept: list[Token] = []
    ended = False
    for token in _tokens(query):
        if token.text == ";" and token.kind == "sign":
            ended = True
            continue
        if ended:
            raise ServerError(SYNTAX_ERROR, "Syntax error (Multi-statements are not allowed)")
        kept.append(token)
    totals = any(a.is_word("WITH") and b.is_word("TOTALS") for a, b in pairwise(kept))
    if any(a.is_word("INTO") and b.is_word("OUTFILE") for a, b in pairwise(kept)):
        raise ServerError(NOT_IMPLEMENTED, "INTO OUTFILE is carried out by clients, this client did not")
    text = query[: kept[-1].end] if kept else query
    if keyword in {*_READS, "SHOW", "DESCRIBE", "DESC", "EXPLAIN", "EXISTS"}:
        for at, (a, b) in enumerate(pairwise(kept)):
            after = kept[at + 2 : at + 3]
            if a.is_word("FORMAT") and b.kind == "word" and (not after or after[0].is_word("SETTINGS")):
                text = text[: a.start] + text[b.end :]
                break
    return Statement(text, keyword, totals=totals and keyword in _READS)


def _insert_of(query: str, first: Token) -> Insert | None:
    """The parts of an INSERT, or None when its rows are in its own text or come from a SELECT."""
    target_end = settings_start = None
    head: list[Token] = []
    end = len(query)
    tokens = _tokens(query)
    for token in tokens:
        if token.start <= first.start or (
            token.is_word("INTO", "TABLE") and len(head) < 2 and not target_end
        ):
            continue
        if token.is_word("SELECT", "WITH", "EXPLAIN", "WATCH", "EXECUTE"):
            return None
        if token.kind == "word" and token.depth == 1 and token.text.upper() in {"SELECT", "WITH"}:
            return None
        if token.is_word("FROM"):
            raise ServerError(NOT_IMPLEMENTED, "INSERT … FROM INFILE is carried out by clients")
        if token.is_word("SETTINGS"):
            target_end = settings_start = token.start
        if token.is_word("VALUES", "FORMAT") or (token.text == ";" and token.kind == "sign"):
            end = token.start
            rest = [later for later in (next(tokens, None), next(tokens, None)) if later is not None]
            if token.is_word("FORMAT"):
                rest = rest[1:]
            if any(later.text != ";" for later in rest):
                return None
            break
        if settings_start is None:
            head.append(token)
    if not head:
        return None
    target = query[head[0].start : end if target_end is None else target_end].strip()
    settings = "" if settings_start is None else query[settings_start:end].strip()
    return Insert(target, *_described(query, head), settings)


def _described(query: str, head: list[Token]) -> tuple[str, tuple[str, ...] | None, frozenset[str]]:
    function = head[0].is_word("FUNCTION")
    opens = [
        i for i, token in enumerate(head) if token.text == "(" and token.kind == "sign" and token.depth == 1
    ]
    at = opens[1] if function and len(opens) > 1 else opens[0] if opens and not function else None
    described = query[head[1 if function else 0].start : head[-1 if at is None else at - 1].end]
    if at is None:
        return described, None, frozenset()
    inside = [token for token in head[at:] if token.kind in {"word", "name"}]
    if any(token.text == "*" for token in head[at:]):
        return described, None, frozenset(_plain(t) for t in inside if t.text.upper() != "EXCEPT")
    names: list[str] = []
    joined = False
    for token in head[at + 1 :]:
        if token.kind in {"word", "name"}:
            names.append(f"{names.pop()}.{_plain(token)}" if joined else _plain(token))
            joined = False
        elif token.text == ".":  # a column of a Nested: n.a
            joined = True
    return described, tuple(names), frozenset()


def _plain(token: Token) -> str:
    if token.kind == "word":
        return token.text
    return _ESCAPED.sub(lambda found: found[1] or found[2], token.text[1:-1])


def _tokens(query: str) -> Iterator[Token]:
    depth = 0
    for found in _TOKEN.finditer(query):
        kind = found.lastgroup or "sign"
        if kind == "tag":
            kind = "heredoc"
        if kind == "blank":
            continue
        value = found[0]
        if kind == "sign" and value in "([{":
            depth += 1
        yield Token(kind, value, found.start(), found.end(), depth)
        if kind == "sign" and value in ")]}":
            depth -= 1
