"""The OpenAPI document as a page for people: plain HTML, as it is needed where there is no internet too."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from html import escape
from typing import Any, Final

Json = Mapping[str, Any]

_HEAD: Final = (
    '<!doctype html><html lang="en"><head><meta charset="utf-8">'
    '<meta name="viewport" content="width=device-width"><title>{title}</title><style>'
    "body{{font:16px/1.5 system-ui,sans-serif;max-width:64rem;margin:2rem auto;padding:0 1rem}}"
    "pre{{background:#f3f3f3;padding:.6rem;overflow:auto}}table{{border-collapse:collapse}}"
    "td,th{{text-align:left;vertical-align:top;padding:.3rem 1rem .3rem 0;border-bottom:1px solid #ddd}}"
    "</style></head><body>"
)


def page(document: Json) -> str:
    """Every operation of an OpenAPI document: what it takes, what it answers, with the examples."""
    return "\n".join(_parts(document))


def _parts(document: Json) -> Iterator[str]:
    about = document["info"]
    yield _HEAD.format(title=escape(about["title"]))
    yield f"<h1>{escape(about['title'])}</h1><p>{escape(about.get('description', ''))}</p>"
    yield '<p>For machines: <a href="openapi.json">openapi.json</a></p>'
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            yield f"<h2>{method.upper()} {escape(path)}</h2>"
            yield f"<p><b>{escape(operation['summary'])}</b> {escape(operation.get('description', ''))}</p>"
            for scheme in (name for each in operation.get("security", ()) for name in each):
                known = document["components"]["securitySchemes"][scheme]
                yield f"<p>Header {escape(known['name'])}: {escape(known['description'])}</p>"
            if "requestBody" in operation:
                yield from _body(operation["requestBody"]["content"]["application/json"])
            yield from _answers(operation["responses"])
    yield "</body></html>"


def _body(content: Json) -> Iterator[str]:
    one = content["schema"]["anyOf"][0]  # the other is an array of it
    yield "<h3>Fields</h3><table>"
    for name, field in one["properties"].items():
        needed = "required" if name in one["required"] else ""
        yield _row(name, needed, field.get("description", ""))
    yield "</table>"
    for example in content["examples"].values():
        yield f"<h3>{escape(example['summary'])}</h3>{_pre(example['value'])}"


def _answers(answers: Json) -> Iterator[str]:
    yield "<h3>Answers</h3><table>"
    for code, answer in answers.items():
        example = answer["content"]["application/json"]["example"]
        yield f"<tr><td>{code}<td>{escape(answer['description'])}{_pre(example)}</tr>"
    yield "</table>"


def _row(*cells: str) -> str:
    return f"<tr>{''.join(f'<td>{escape(cell)}' for cell in cells)}</tr>"


def _pre(value: Any) -> str:
    return f"<pre>{escape(json.dumps(value, ensure_ascii=False, indent=1))}</pre>"
