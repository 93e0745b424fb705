"""Settings, from the environment (`TRUYVET_…`), validated at start."""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any, Final, Literal, Self, cast, get_args
from urllib.parse import urlsplit

from pydantic import Field, SecretStr, ValidationError, ValidationInfo, field_validator, model_validator
from pydantic_core import ErrorDetails
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from schemas.topics import TOPICS, Topic

Port = Annotated[int, Field(ge=1, le=65535)]
Count = Annotated[int, Field(ge=1)]
Role = Literal["tracer", "department", "analyst", "auditor"]  # of whoever asks
ROLES: Final[tuple[Role, ...]] = get_args(Role)

# of the environment, and no settings: an option of lookups, the mark of a stack's processes, the embedded
# ClickHouse engine's
_NO_SETTINGS: Final = frozenset({"PURPOSE", "STACK_DATA", "CLICKHOUSE_PASSWORD"})

# librdkafka's and Faust's port is 9092 where none is given
_KAFKA_SERVER: Final = re.compile(
    r"(?:[A-Za-z0-9_][A-Za-z0-9._-]*|\[[0-9A-Fa-f:.]+\])(?::(?P<port>[0-9]{1,5}))?", re.ASCII
)

# what a setting in JSON has to look like
_JSON_FORMS: Final = {
    "gateway_keys": 'JSON, device → API key, such as {"gate-1": "its secret"}',
    "partitions": 'JSON, topic → number, such as {"scans": 12}',
}


# schemes, and what a setting with a URL has to look like
_URLS: Final = {
    "redis": ({"redis", "rediss"}, "redis://host:port/0, or redis+cluster://host:port,host:port"),
    "clickhouse": ({"clickhouse", "clickhouses"}, "clickhouse://user:password@host:port/database"),
}


class SettingsError(ValueError):
    """A setting is missing or wrong; the message names each one, a line a setting."""


def redis_cluster(url: str) -> list[str] | None:
    """The URL of each node that the URL of a Redis Cluster names; None when it is not one's."""
    scheme, _, rest = url.partition("://")
    kind, plus, cluster = scheme.partition("+")
    if (plus, cluster) != ("+", "cluster"):
        return None
    credentials, at, nodes = rest.rpartition("@")
    return [f"{kind}://{credentials}{at}{node}" for node in nodes.rstrip("/").split(",")]


class Settings(BaseSettings):
    """Everything that differs between a laptop, a province and a country.

    An address left empty means: the embedded server that `truyvet up` starts, on its port. An address
    given means: use that server, start none.
    """

    model_config = SettingsConfigDict(env_prefix="TRUYVET_", extra="ignore", frozen=True)

    data: Path = Path("data")

    kafka: str = ""  # host:port[,host:port]; empty: embedded
    kafka_port: Port = 19092
    redis: str = ""  # redis://host:port/db or redis+cluster://host:port[,host:port]; empty: embedded
    redis_port: Port = 16379
    redis_shards: Annotated[int, Field(ge=1, le=1024)] = 16
    redis_maxmemory: Annotated[str, Field(pattern=r"^[0-9]+(b|kb?|mb?|gb?)?$")] = "2gb"  # embedded; 0: none
    rebuild: Literal["auto", "manual"] = "auto"  # what to do when Redis lost what it held
    clickhouse: str = ""  # clickhouse://user:password@host:port/database; empty: embedded
    clickhouse_port: Port = 19000
    gateway_host: str = "127.0.0.1"
    gateway_port: Port = 18080
    metrics_port: Port = 19100  # ingest; the other roles count up from it

    ingest_workers: Annotated[int, Field(ge=1, le=64)] = 1
    # a worker with lag that commits nothing for so long hangs; longer than any pause that tells nobody
    stalled_seconds: Annotated[int, Field(ge=3, le=86_400)] = 60
    # of the scans of a minute: more of them rejected than this is an alarm; 1: never
    poison_share: Annotated[float, Field(gt=0, le=1)] = 0.2
    replication: Annotated[int, Field(ge=1, le=7)] = 1
    partitions: Annotated[dict[str, Count], NoDecode] = {}  # by topic, where it differs from the declaration
    topic_prefix: str = ""  # before every topic and group name, where several installations share a cluster

    role: Role = "tracer"  # of whoever asks: docs/PRIVACY.md
    department: str = ""  # the slug of the department whose venues the role `department` may see

    retention_days: Annotated[int, Field(ge=1, le=365)] = 30
    archive_retention_days: Annotated[int, Field(ge=1, le=3650)] = 365

    identity_key: SecretStr | None = None  # hex, at least 32 bytes: turns an identity into a pseudonym
    gateway_keys: Annotated[
        dict[str, SecretStr], NoDecode
    ] = {}  # device → API key; empty: the gateway refuses every post
    gateway_max_body: Annotated[int, Field(ge=1024, le=64 * 1024 * 1024)] = 1024 * 1024
    public_host: str = "truyvet.example"  # of the URLs in QR codes

    @field_validator("gateway_keys", "partitions", mode="before")
    @classmethod
    def _from_json(cls, value: Any) -> Any:
        # read here, not by pydantic-settings: its error names neither the variable nor the form
        if not isinstance(value, str):
            return value
        try:
            found = json.loads(value) if value.strip() else {}
        except ValueError:
            found = None
        if not isinstance(found, dict):
            raise ValueError("not in the right form")  # load_settings says which that is
        return found

    @field_validator("gateway_keys")
    @classmethod
    def _names_fit_a_scan(cls, keys: dict[str, SecretStr]) -> dict[str, SecretStr]:
        # the device's name becomes the scan's `gateway`: a longer one would refuse all its scans later
        if wrong := [name for name in keys if not 1 <= len(name) <= 64]:
            raise ValueError(f"a device's name has 1 to 64 characters, not {len(wrong[0])}")
        return keys

    @field_validator("partitions")
    @classmethod
    def _topics_there_are(cls, partitions: dict[str, int]) -> dict[str, int]:
        # here and not where topics are made: by then the servers of a stack are up with this setting
        if wrong := [repr(name) for name in partitions if name not in TOPICS]:
            raise ValueError(f"{', '.join(wrong)} is no topic (there are {', '.join(TOPICS)})")
        return partitions

    @field_validator("identity_key")
    @classmethod
    def _long_enough(cls, key: SecretStr | None) -> SecretStr | None:
        if key is not None:
            try:
                size = len(bytes.fromhex(key.get_secret_value()))
            except ValueError:
                raise ValueError("must be hexadecimal digits (make one: openssl rand -hex 32)") from None
            if size < 32:
                raise ValueError("must be at least 32 bytes, 64 hexadecimal digits")
        return key

    @field_validator("public_host")
    @classmethod
    def _bare_host(cls, host: str) -> str:
        # printed on thousands of posters: a scheme or a path here would be found out too late
        if not re.fullmatch(r"[A-Za-z0-9]([A-Za-z0-9.-]*[A-Za-z0-9])?(:[0-9]{1,5})?", host):
            raise ValueError(f"{host!r} is not a host name such as truyvet.example (no https://, no path)")
        return host

    @model_validator(mode="after")
    def _a_department_is_named(self) -> Self:
        if self.role == "department" and not re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*", self.department):
            raise ValueError("TRUYVET_DEPARTMENT: the role department needs it, a slug such as so-y-te")
        return self

    @field_validator("kafka")
    @classmethod
    def _servers(cls, address: str) -> str:
        # else found out only by a client that tries for seconds, and then says that no broker answers
        servers = [server.strip() for server in address.split(",")] if address.strip() else []
        for server in servers:
            fits = _KAFKA_SERVER.fullmatch(server)
            if not fits or not 1 <= int(fits["port"] or 9092) <= 65535:
                raise ValueError("must be like host:port[,host:port], without kafka://, user or path")
        return ",".join(servers)

    @field_validator("redis", "clickhouse")
    @classmethod
    def _url(cls, url: str, of: ValidationInfo) -> str:
        schemes, form = _URLS[cast(str, of.field_name)]
        nodes = redis_cluster(url) if of.field_name == "redis" else None
        for node in nodes or ([url] if url else ()):
            parts = urlsplit(node)
            try:
                port = parts.port
            except ValueError:
                port = None
            if (
                (nodes is not None and parts.path not in {"", "/0"})  # a cluster has no other database
                or parts.scheme not in schemes
                or not parts.hostname
                or not port
            ):
                raise ValueError(f"must be like {form}")  # what was given may have a password in it
        return url

    def topic(self, topic: Topic) -> str:
        """The name of a topic on this installation's cluster."""
        return self.topic_prefix + topic.name

    def group(self, role: str) -> str:
        """The consumer group of a role."""
        return f"{self.topic_prefix}truyvet-{role}"

    @property
    def kafka_address(self) -> str:
        """Bootstrap servers."""
        return self.kafka or f"127.0.0.1:{self.kafka_port}"

    @property
    def redis_url(self) -> str:
        """URL of Redis."""
        return self.redis or f"redis://127.0.0.1:{self.redis_port}/0"

    @property
    def clickhouse_url(self) -> str:
        """URL of ClickHouse (native protocol)."""
        return self.clickhouse or f"clickhouse://default@127.0.0.1:{self.clickhouse_port}/default"


def where_to_look(setting: str, given: str) -> str:
    """What to do about a server that does not answer. `given`: the setting's value; empty: the embedded one.

    Where an address is given, `truyvet up` starts nothing for it.
    """
    if given:
        return f"check that address, it is what {setting} says"
    return f"start the stack with `truyvet up`, or set {setting} to where it is"


def load_settings(**overrides: object) -> Settings:
    """The settings of this process. Raises SettingsError that names every wrong setting and why."""
    try:
        return Settings(**overrides)  # type: ignore[arg-type]
    except ValidationError as error:
        lines = [_problem(problem) for problem in error.errors(include_url=False)]
        raise SettingsError("\n".join(dict.fromkeys(lines))) from None


def unknown_variables(names: Iterable[str]) -> list[str]:
    """A line for each variable of the environment that looks like a setting and is none."""
    known = {name.upper() for name in Settings.model_fields} | _NO_SETTINGS
    lines = []
    for variable in sorted(names):
        prefix, _, name = variable.upper().partition("_")
        if prefix != "TRUYVET" or name in known:
            continue
        near = difflib.get_close_matches(name, sorted(known), n=1, cutoff=0.7)
        advice = f"did you mean TRUYVET_{near[0]}?" if near else "docs/OPERATING.md has all settings"
        lines.append(f"{variable} is no setting and does nothing: {advice}")
    return lines


def _problem(problem: ErrorDetails) -> str:
    """A line: the variable, then what is wrong; the value may be a secret and is not shown, unless a role."""
    said = problem["msg"].removeprefix("Value error, ")
    if not problem["loc"]:  # of several settings together: the message begins with the one to mend
        return said
    name, *inside = (str(part) for part in problem["loc"])
    if name == "role":
        said = f"{problem['input']!r} is no role: there are {', '.join(ROLES)}"
    elif name in _JSON_FORMS:
        what = f"{inside[0]}: {said}" if inside else said
        said = f"{what}: write {_JSON_FORMS[name]}"
    return f"TRUYVET_{name.upper()}: {said}"
