"""What a QR code says: a short URL, so that any phone camera opens something sensible."""

from __future__ import annotations

import re
from urllib.parse import urlsplit

from schemas.codes import is_code

_PERSON = re.compile(r"[0-9a-f]{16}")
_GROUPING = re.compile(r"[ -]")


def venue_url(host: str, code: str) -> str:
    """The payload of a venue's poster."""
    return f"https://{host}/v/{code}"


def person_url(host: str, person: str) -> str:
    """The payload of a person's card."""
    return f"https://{host}/p/{person}"


def _last_part(text: str, marker: str) -> str:
    text = text.strip()
    if "/" not in text:
        return text
    try:
        parts = urlsplit(text if "//" in text else f"//{text}").path.strip("/").split("/")
    except ValueError:  # such as an unclosed bracket in the host
        return ""
    return parts[1] if len(parts) == 2 and parts[0].lower() == marker else ""


def parse_venue(text: str) -> str:
    """The venue code in a scanned payload: the URL or the bare code, upper or lower case; a code typed
    from a poster may keep the blanks or hyphens between its groups.

    Raises ValueError when it holds none, or one whose check character does not fit.
    """
    code = _GROUPING.sub("", _last_part(text, "v")).upper()
    if not is_code(code):
        raise ValueError(f"{text.strip()[:80]!r} holds no valid venue code")
    return code


def parse_person(text: str) -> str:
    """The pseudonym in a scanned card, or typed from it in groups. Raises ValueError when it holds none."""
    person = _GROUPING.sub("", _last_part(text, "p")).lower()
    if not _PERSON.fullmatch(person):
        raise ValueError(
            f"{text.strip()[:80]!r} holds no person's card, and no pseudonym: that has 16 hexadecimal digits"
        )
    return person
