"""From an identity to the keyed pseudonym that stands for a person everywhere else."""

from __future__ import annotations

import hashlib
import hmac
import unicodedata

MAX_IDENTITY = 128


def pseudonym(identity: str, key: bytes) -> str:
    """16 hex digits: the first 8 bytes of HMAC-SHA-256 under `key` of the normalised identity.

    Normalised: surrounding blanks off, Unicode NFC, case folded; so what a person types twice is one person.
    Keyed, because phone numbers are few enough to try them all against a plain hash.
    Raises ValueError for an identity that is empty or longer than 128 characters.
    """
    normal = unicodedata.normalize("NFC", identity.strip()).casefold()
    if not 1 <= len(normal) <= MAX_IDENTITY:
        raise ValueError(f"an identity has 1 to {MAX_IDENTITY} characters")
    return hmac.new(key, normal.encode(), hashlib.sha256).hexdigest()[:16]
