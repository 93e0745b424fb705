"""What changed between two JSON Schemas, told by whom it would break. Pure.

- **narrowed**: what the previous version wrote may be refused by today's reader.
- **widened**: what today's version writes may be refused by a reader of the previous version.
- **removed**: a field that the previous version's readers may need, or its writers send in vain.

Words for people (title, description) may change; so may a field be added that nobody has to send.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final, Literal

Schema = dict[str, Any]
Harm = Literal["narrowed", "widened", "removed"]

_WORDS_ONLY: Final = {"title", "description", "default", "$schema", "$id", "$defs", "examples"}
_LOWER_BOUNDS: Final = ("minimum", "exclusiveMinimum", "minLength", "minItems")
_UPPER_BOUNDS: Final = ("maximum", "exclusiveMaximum", "maxLength", "maxItems")
_COMPARED: Final = {
    *("type", "anyOf", "properties", "required", "enum", "const", "items"),
    *_LOWER_BOUNDS,
    *_UPPER_BOUNDS,
}


@dataclass(frozen=True, slots=True)
class Difference:
    """One change of one field; `field` like `Touched.case.linger`."""

    field: str
    harm: Harm
    words: str

    def __str__(self) -> str:
        return f"{self.field} {self.harm}: {self.words}"


def differences(name: str, old: Schema, new: Schema) -> list[Difference]:
    """Every difference that can break somebody between two documents of the shape `name`."""
    return list(_compare(name, old, new, old.get("$defs", {}), new.get("$defs", {})))


def _compare(at: str, old: Schema, new: Schema, olds: Schema, news: Schema) -> Iterator[Difference]:
    before, after = _alternatives(old, olds), _alternatives(new, news)
    for kind in before.keys() - after.keys():
        yield Difference(at, "narrowed", f"{kind} is no longer taken")
    for kind in after.keys() - before.keys():
        yield Difference(at, "widened", f"{kind} may stand there now")
    for kind in before.keys() & after.keys():
        yield from _same_type(at, before[kind], after[kind], olds, news)


def _alternatives(schema: Schema, definitions: Schema) -> dict[str, Schema]:
    """The forms that a value may have, by their JSON type."""
    schema = _resolved(schema, definitions)
    forms = [_resolved(form, definitions) for form in schema.get("anyOf", [schema])]
    found = {str(form.get("type", "any")): form for form in forms}
    assert len(found) == len(forms), f"two forms of one type cannot be told apart: {schema}"
    return found


def _resolved(schema: Schema, definitions: Schema) -> Schema:
    if "$ref" not in schema:
        return schema
    found: Schema = definitions[schema["$ref"].removeprefix("#/$defs/")]
    return found


def _same_type(at: str, old: Schema, new: Schema, olds: Schema, news: Schema) -> Iterator[Difference]:
    yield from _choices(at, old, new)
    for keyword in _LOWER_BOUNDS:
        yield from _bound(at, keyword, old.get(keyword), new.get(keyword), sign=1)
    for keyword in _UPPER_BOUNDS:
        yield from _bound(at, keyword, old.get(keyword), new.get(keyword), sign=-1)
    if "items" in old and "items" in new:
        yield from _compare(f"{at}[]", old["items"], new["items"], olds, news)
    if "properties" in old or "properties" in new:
        yield from _fields(at, old, new, olds, news)
    # what a keyword that is not looked into does cannot be told: it must be the same
    for keyword in sorted((old.keys() | new.keys()) - _COMPARED - _WORDS_ONLY):
        if old.get(keyword) != new.get(keyword):
            words = f"{keyword} was {old.get(keyword)!r}, is {new.get(keyword)!r}"
            yield Difference(at, "narrowed", words)
            yield Difference(at, "widened", words)


def _choices(at: str, old: Schema, new: Schema) -> Iterator[Difference]:
    before, after = _choice(old), _choice(new)
    if before is None and after is None:
        return
    if after is not None and (gone := "anything else" if before is None else _listed(before - after)):
        yield Difference(at, "narrowed", f"{gone} is no longer taken")
    if before is not None and (come := "anything else" if after is None else _listed(after - before)):
        yield Difference(at, "widened", f"{come} may stand there now")


def _choice(schema: Schema) -> set[str] | None:
    values = schema.get("enum", [schema["const"]] if "const" in schema else None)
    return None if values is None else {repr(value) for value in values}


def _listed(values: set[str]) -> str:
    return ", ".join(sorted(values))


def _bound(at: str, keyword: str, old: Any, new: Any, sign: int) -> Iterator[Difference]:
    if old == new:
        return
    narrower = new is not None and (old is None or (new - old) * sign > 0)
    words = f"{keyword} was {old}, is {new}"
    yield Difference(at, "narrowed" if narrower else "widened", words)


def _fields(at: str, old: Schema, new: Schema, olds: Schema, news: Schema) -> Iterator[Difference]:
    before, after = old.get("properties", {}), new.get("properties", {})
    needed, needs = set(old.get("required", ())), set(new.get("required", ()))
    for field in before:
        if field not in after:
            yield Difference(f"{at}.{field}", "removed", "renamed or gone; keep it beside the new one")
            continue
        if field in needs - needed:
            yield Difference(f"{at}.{field}", "narrowed", "required now; the previous version may omit it")
        if field in needed - needs:
            yield Difference(f"{at}.{field}", "widened", "may be left out now; older readers require it")
        yield from _compare(f"{at}.{field}", before[field], after[field], olds, news)
    for field in after.keys() - before.keys():
        if field in needs:
            yield Difference(f"{at}.{field}", "narrowed", "new and required; give it a default")
