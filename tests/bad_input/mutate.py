"""Records that go wrong in every way that we could think of; seed and number give the same record again."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

import orjson

from schemas.codes import new_code
from schemas.departments import department_of

MINUTE: Final = 60_000
Headers = list[tuple[str, bytes | None]]


@dataclass(slots=True)
class Made:
    """One record. `how`: what was done to it; `timestamp` ms."""

    value: bytes | None
    how: str
    timestamp: int
    key: bytes | None = None
    headers: tuple[tuple[str, bytes | None], ...] = ()
    large: bool = False  # to be sent by a client that compresses, or to be refused


_WRONG: Final[tuple[Any, ...]] = (
    *(None, True, False, 0, -1, 1, 5, 2**31, 2**53, 2**63, 2**64, 10**30, 0.5, 5.0, 1e308, -0.0),
    *("", " ", "5", "in", "null", "é" * 70, "\u0000", "0123456789abcdef", "0123456789ABCDEF", "\U0001f600"),
    *([], {}, [[]], [1], {"a": 1}, ["in"]),
)
_TOKENS: Final = (
    *(
        b"NaN",
        b"Infinity",
        b"-Infinity",
        b"1e999",
        b"-1e999",
        b"1e5",
        b"5.0",
        b"-0",
        b"01",
        b"1.",
        b"+1",
        b".5",
    ),
    *(
        b"9" * 300,
        b"9" * 5_000,
        b"-" + b"9" * 5_000,
        b"0." + b"1" * 5_000,
        b"nul",
        b"'x'",
        b"\\",
        b'"\\ud800"',
    ),
    *(
        b'"\\udc00x"',
        b'"\\u0000"',
        b'"\xff"',
        b'"\xc0\x80"',
        b'"\xed\xa0\x80"',
        b'"\x01"',
        b'"\\x"',
        b"//",
        b"",
    ),
)
_DEEP: Final = (20, 150, 400, 5_000, 60_000)


def _flip(made: random.Random, value: bytes) -> bytes:
    found = bytearray(value)
    for _ in range(made.choice((1, 1, 1, 2, 8))):
        found[made.randrange(len(found))] ^= 1 << made.randrange(8)
    return bytes(found)


def _truncate(made: random.Random, value: bytes) -> bytes:
    return value[: made.randrange(len(value))]


def _cut_out(made: random.Random, value: bytes) -> bytes:
    start = made.randrange(len(value))
    return value[:start] + value[start + made.randrange(1, 20) :]


def _insert(made: random.Random, value: bytes) -> bytes:
    at = made.randrange(len(value) + 1)
    extra = made.choice(
        (b" ", b"\n", b"\x0b", b"\xff", b"\x00", b",", b"]", b"}", b"[", b"{", b'"', made.randbytes(4))
    )
    return value[:at] + extra + value[at:]


def _field(made: random.Random, value: bytes) -> tuple[int, int]:
    """Where the value of some field stands in a text that orjson wrote."""
    starts = [at + 2 for at in range(len(value) - 1) if value[at : at + 2] == b'":']
    start = made.choice(starts)
    ends = [end for mark in (b",", b"}") if (end := value.find(mark, start)) > 0]
    return start, min(ends)


def _wrong_type(made: random.Random, value: bytes) -> bytes:
    start, end = _field(made, value)
    wrong = made.choice(_WRONG)
    text = str(wrong).encode() if type(wrong) is int else orjson.dumps(wrong)
    return value[:start] + text + value[end:]


def _token(made: random.Random, value: bytes) -> bytes:
    start, end = _field(made, value)
    return value[:start] + made.choice(_TOKENS) + value[end:]


def _news(made: random.Random, value: bytes, text: bytes) -> bytes:
    """A field that nobody reads."""
    at = value.find(b"{") + 1
    if made.random() < 0.5:
        at = value.rfind(b"}")
        return value[:at] + b',"news":' + text + value[at:]
    return value[:at] + b'"news":' + text + b"," + value[at:]


def _ignored_token(made: random.Random, value: bytes) -> bytes:
    return _news(made, value, made.choice(_TOKENS))


def _deep(made: random.Random, value: bytes) -> bytes:
    depth = made.choice(_DEEP)
    opening, closing = made.choice(((b"[", b"]"), (b'{"a":', b"}")))
    return _news(made, value, opening * depth + b"1" + closing * made.choice((depth, depth, depth - 1)))


def _duplicate(made: random.Random, value: bytes) -> bytes:
    start, end = _field(made, value)
    name = value[value.rfind(b'"', 0, start - 2) : start]
    again = made.choice((value[start:end], b"null", b'"x"', b"5"))
    pair = name + again + b","
    at = value.find(b"{") + 1
    if made.random() < 0.5:
        return value[:at] + pair + value[at:]
    at = value.rfind(b"}")
    return value[:at] + b"," + pair[:-1] + value[at:]


def _rename(made: random.Random, value: bytes) -> bytes:
    start, _ = _field(made, value)
    return value[: start - 3] + made.choice((b"_", b"\\u005f", b"\xff")) + value[start - 2 :]


def _swallow(made: random.Random, value: bytes) -> bytes:
    """Alone no JSON; joined with its neighbours it might be."""
    return made.choice(
        (value[:-1] + b',"x":[1', b"1]}", value + b",", b"]" + value, value + value, b'"' + value, value[:-1])
    )


def _around(made: random.Random, value: bytes) -> bytes:
    blank = made.choice((b" ", b"\n", b"\t\r\n", b"\x0c", b"\xef\xbb\xbf", b"\x00", b"\xc2\xa0"))
    return made.choice((blank + value, value + blank))


def _other(made: random.Random, value: bytes) -> bytes:
    return made.choice(
        (
            *(
                b"",
                b" ",
                b"null",
                b"true",
                b"5",
                b'"x"',
                b"[]",
                b"{}",
                b"[[]]",
                b"[{}]",
                b"[null]",
                b"\x00",
                b"{",
            ),
            *(
                b"[",
                b"]",
                made.randbytes(made.randrange(1, 300)),
                value.decode("utf-8", "replace").encode("utf-16"),
            ),
            *(
                b"[" * 100_000,
                b"[1," * 40_000,
                b"[" + value + b"]",
                b"[[" + value + b"]]",
                b"<xml/>",
                b"\xff\xfe",
            ),
        )
    )


MUTATIONS: Final[tuple[Callable[[random.Random, bytes], bytes], ...]] = (
    *(
        _flip,
        _truncate,
        _cut_out,
        _insert,
        _wrong_type,
        _wrong_type,
        _token,
        _ignored_token,
        _deep,
        _duplicate,
    ),
    *(_rename, _swallow, _around, _other),
)

_ODD_HEADERS: Final[tuple[tuple[tuple[str, bytes | None], ...], ...]] = (
    (("arrival", None),),
    (("arrival", b""), ("attempts", b"")),
    (("arrival", b"-5"), ("attempts", b"-1")),
    (("arrival", b"9" * 15), ("attempts", b"9" * 15)),
    (("arrival", b"9" * 16), ("attempts", b"x")),
    (("arrival", b"0"),),
    (("arrival", b"\xff\xfe"), ("attempts", b"3")),
    (("arrival", "٣".encode()),),
    (("arrival", b"x"), ("arrival", b"1"), ("arrival", b"2")),
    (("reason", b"suspect"), ("source-offset", b"0"), ("source-topic", b"scans"), ("attempts", b"7")),
    (("", b""), ("\u0000", b"\x00" * 1_000), ("x" * 5_000, None)),
    tuple((f"h{number}", b"v") for number in range(200)),
)


class Maker:
    """Makes records. `now` ms, the time of all of them; `venues` are registered, `closed` is one of them,
    `unknown` are codes that nobody registered."""

    def __init__(self, seed: int, now: int) -> None:
        self._seed = seed
        self._now = now
        taken: set[str] = set()
        made = random.Random(seed)
        codes = []
        for _ in range(460):
            codes.append(new_code(taken, choose=made.choice))
            taken.add(codes[-1])
        self.venues, self.unknown, self._decoys = codes[:400], codes[400:420], codes[420:]
        self.closed, self.closed_at = self.venues[0], now - 20 * MINUTE

    def registered(self) -> list[bytes]:
        """The venues that scans name."""
        return [self._venue(code, self.closed_at if code == self.closed else None) for code in self.venues]

    def _venue(self, code: str, closed_at: int | None = None) -> bytes:
        department = department_of("trade", "hue")
        body = {"code": code, "name": f"Nơi {code}", "sector": "trade", "district": "hue"}
        rest = {"department": department, "dwell": 60, "capacity": 5, "lat": 16.4, "closed_at": closed_at}
        return orjson.dumps(body | rest)

    def _random(self, kind: int, number: int) -> random.Random:
        return random.Random((self._seed << 40 | number) << 2 | kind)

    def _scan(self, made: random.Random, number: int, index: int) -> dict[str, Any]:
        scan: dict[str, Any] = {
            "scan_id": f"{made.getrandbits(32):08x}-{number & 0xFFFF:04x}-4000-8000-{number:08x}{index:04x}",
            "person": f"{made.getrandbits(64):016x}",
            "venue": made.choice(self.venues if made.random() < 0.97 else self.unknown),
            "scanned_at": self._now - made.randrange(60) * MINUTE,
        }
        if made.random() < 0.2:
            scan["kind"] = made.choice(("in", "out", "void"))
        if made.random() < 0.2:
            scan |= {"source": "venue", "party": made.randrange(1, 51), "gateway": "cổng-1"}
        if made.random() < 0.1:
            scan["received_at"] = self._now - made.choice((0, 0, 0, 2 * 60 * MINUTE, -40 * 24 * 60 * MINUTE))
        return scan

    def scans(self, number: int) -> Made:
        """A record for `scans`: about half are good."""
        made = self._random(0, number)
        many = made.random() < 0.1
        scans = [self._scan(made, number, index) for index in range(made.randrange(2, 12) if many else 1)]
        value = orjson.dumps(scans if many else scans[0])
        if made.random() < 0.5:
            return Made(value, "good", self._now)
        if number % 3_001 == 7:
            return self._large(made, value)
        if made.random() < 0.02:
            return Made(None, "tombstone", self._now)
        if made.random() < 0.06:
            return Made(value, "headers", self._now, headers=made.choice(_ODD_HEADERS))
        if made.random() < 0.03:
            return Made(
                value, "timestamp", made.choice((1, self._now - 40 * 24 * 60 * MINUTE, self._now - 1))
            )
        if made.random() < 0.002:
            size = made.choice((999, 1_000, 1_001, 5_000))
            return Made(
                orjson.dumps([self._scan(made, number, index) for index in range(size)]), "array", self._now
            )
        mutation = made.choice(MUTATIONS)
        return Made(mutation(made, value), mutation.__name__.strip("_"), self._now)

    def _large(self, made: random.Random, value: bytes) -> Made:
        """Around the bounds of topic and client; the last is refused to its sender."""
        value = value.strip(b"[]") if value[:1] == b"[" else value
        value = value[: value.find(b"}") + 1]
        text = made.choice(
            (
                _news(made, value, b'"' + b"x" * 10_000_000 + b'"'),
                _news(made, value, b'"' + bytes(made.choices(b"01", k=1_500_000)) + b'"'),
                b"[" + b",".join([value] * 1_000) + b"]",
                b"[" + b"5," * 99_999 + b"5]",
                made.randbytes(10_000_000),
            )
        )
        return Made(text, "large", self._now, large=True)

    def case(self, number: int) -> Made:
        """A record for `cases`, each of a case of its own."""
        made = self._random(1, number)
        case_id = f"c{number}-{made.getrandbits(32):x}"
        body: dict[str, Any] = {"case_id": case_id, "version": made.randrange(1, 9), "status": "confirmed"}
        start = self._now - 20 * 24 * 60 * MINUTE  # nobody was scanned then: matching is not what is tested
        if made.random() < 0.2:
            body |= {"venue": made.choice(self.venues), "from": start, "to": start + 5 * MINUTE}
        else:
            body |= {
                "person": f"{made.getrandbits(64):016x}",
                "infectious_from": start,
                "infectious_to": start + MINUTE,
            }
        if made.random() < 0.3:
            body |= {"min_overlap": made.randrange(1, 241), "linger": made.randrange(721)}
        value, key = orjson.dumps(body), case_id.encode()
        if made.random() < 0.4:
            return Made(value, "good", self._now, key)
        if made.random() < 0.05:
            return Made(None, "tombstone", self._now, key)
        if made.random() < 0.1:
            odd = made.choice((b"", b"\xff", b"x" * 50_000, key + b"\x00", b"{}", key.upper()))
            return Made(value, "key", self._now, odd)
        if made.random() < 0.05:
            return Made(value, "headers", self._now, key, made.choice(_ODD_HEADERS))
        mutation = made.choice(MUTATIONS)
        return Made(mutation(made, value), mutation.__name__.strip("_"), self._now, key)

    def venue(self, number: int) -> Made:
        """A record for `venues` that is wrong, or about a venue that no scan names."""
        made = self._random(2, number)
        code = made.choice(self._decoys)
        value, key = self._venue(code), code.encode()
        if made.random() < 0.1:
            return Made(None, "tombstone", self._now, made.choice((key, self.venues[1].encode())))
        mutation = made.choice(MUTATIONS)
        return Made(mutation(made, value), mutation.__name__.strip("_"), self._now, key)
