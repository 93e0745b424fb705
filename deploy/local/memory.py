"""What a data folder remembers of its stack: with which settings and roles it was brought up.

So that `truyvet status`, `down` and `logs` need no more than the folder. Secrets are not written down: a
salted fingerprint tells whether they are still the same.
"""

from __future__ import annotations

import hashlib
import secrets
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final, TypedDict

import orjson
from pydantic import SecretStr

from deploy.local.supervision import Folder
from schemas.settings import Settings, SettingsError, load_settings

_SECRETS: Final = ("TRUYVET_IDENTITY_KEY", "TRUYVET_GATEWAY_KEYS")


class MemoryDamagedError(RuntimeError):
    """run/stack.json cannot be read, or holds what no longer is a setting."""


class Remembered(TypedDict):
    """run/stack.json: with what the stack of a data folder was brought up."""

    environment: dict[str, str]  # TRUYVET_…, without secrets
    fingerprint: str
    salt: str
    roles: list[str]  # names of workers
    started_at: int  # ms


def environment_of(settings: Settings) -> dict[str, str]:
    """The settings as environment variables: what differs from the defaults, secrets included."""
    values: dict[str, str] = {}
    for name in type(settings).model_fields:
        value = getattr(settings, name)
        if value == type(settings).model_fields[name].get_default(call_default_factory=True):
            continue
        values[f"TRUYVET_{name.upper()}"] = _text(value)
    return values


def _text(value: object) -> str:
    if isinstance(value, SecretStr):
        return value.get_secret_value()
    if isinstance(value, dict):
        return orjson.dumps({key: _plain(each) for key, each in value.items()}).decode()
    return str(value)


def _plain(value: object) -> object:
    return value.get_secret_value() if isinstance(value, SecretStr) else value


def read(folder: Folder) -> Remembered | None:
    """What is known of the data folder's last `up`; None when there was none."""
    try:
        found: Remembered = orjson.loads((folder.run / "stack.json").read_bytes())
    except FileNotFoundError:
        return None
    except orjson.JSONDecodeError:
        raise MemoryDamagedError(
            f"{folder.run / 'stack.json'} is damaged: run `truyvet down`, then `up`"
        ) from None
    return found


def settings_of(data: Path) -> Settings | None:
    """The settings with which a data folder's stack was brought up last, without its secrets.

    Raises MemoryDamagedError when they cannot be read, or are refused by now.
    """
    folder = Folder(data.absolute())
    known = read(folder)
    if known is None:
        return None
    values = {name.removeprefix("TRUYVET_").lower(): text for name, text in known["environment"].items()}
    if "partitions" in values:
        values["partitions"] = orjson.loads(values["partitions"])
    defaults = {
        name: field.get_default(call_default_factory=True)
        for name, field in Settings.model_fields.items()
        if name not in values
    }
    try:
        return load_settings(**defaults, **values)
    except SettingsError as error:  # an earlier version took it: its stack must still come down
        raise MemoryDamagedError(
            f"{folder.run / 'stack.json'}: {error}: run `truyvet down`, then `up`"
        ) from None


def write(folder: Folder, own: Mapping[str, str], roles: Sequence[str]) -> None:
    """Remember an `up`: its environment (without secrets) and the names of its workers."""
    salt = secrets.token_hex(16)
    note: Remembered = {
        "environment": {name: value for name, value in own.items() if name not in _SECRETS},
        "fingerprint": _fingerprint(own, salt),
        "salt": salt,
        "roles": list(roles),
        "started_at": round(time.time() * 1000),
    }
    path = folder.run / "stack.json"
    fresh = path.with_suffix(".new")
    fresh.write_bytes(orjson.dumps(note, option=orjson.OPT_INDENT_2))
    fresh.chmod(0o600)  # addresses may hold passwords
    fresh.replace(path)


def differences(known: Remembered, own: Mapping[str, str]) -> str:
    """In words, what differs between the settings of an `up` and these; empty: nothing."""
    if known["fingerprint"] == _fingerprint(own, known["salt"]):
        return ""
    was, now = known["environment"], {name: text for name, text in own.items() if name not in _SECRETS}
    names = sorted(name for name in was.keys() | now.keys() if was.get(name) != now.get(name))
    words = [f"{name} {was.get(name, '(default)')} → {now.get(name, '(default)')}" for name in names]
    return ", ".join(words) or "other keys"


def _fingerprint(own: Mapping[str, str], salt: str) -> str:
    return hashlib.sha256(salt.encode() + orjson.dumps(own, option=orjson.OPT_SORT_KEYS)).hexdigest()
