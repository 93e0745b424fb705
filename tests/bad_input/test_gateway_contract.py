"""The running gateway against its own OpenAPI document: schemathesis makes requests, good and bad ones."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import orjson
import pytest
import schemathesis
from hypothesis import HealthCheck, given
from hypothesis import settings as settings_of
from hypothesis.errors import Unsatisfiable
from pydantic import SecretStr
from schemathesis import GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.config import SchemathesisConfig
from schemathesis.core.result import Err
from schemathesis.specs.openapi import checks as openapi

from schemas import topics
from schemas.events import SCAN
from schemas.settings import Settings
from tests.stream.harness import Installation, installed, now_ms

pytestmark = pytest.mark.engines

KEY = "a-device-key"
CODE = "CDEFHJKV"
# Not positive_data_acceptance: the document cannot say that a code's check character must fit.
CHECKS = [
    not_a_server_error,
    openapi.status_code_conformance,
    openapi.content_type_conformance,
    openapi.response_headers_conformance,
    openapi.response_schema_conformance,
    openapi.negative_data_rejection,
    openapi.ignored_auth,
    openapi.unsupported_method,
]
# An array of more than 1,000 is refused with 413, which schemathesis would not take for a refusal.
CONFIG = SchemathesisConfig.from_dict(
    {"checks": {"negative_data_rejection": {"expected-statuses": [400, 401, 404, 405, 413, 422]}}}
)


@pytest.fixture
def gateway(settings: Settings, tmp_path: Path) -> Iterator[Installation]:
    keys = {"gate-1": SecretStr(KEY)}
    own = settings.model_copy(update={"gateway_keys": keys, "identity_key": SecretStr("ab" * 32)})
    with installed(own, tmp_path, "gateway") as here:

        def ready() -> bool:
            try:
                return httpx.get(f"{address(here)}/readyz").status_code == 200
            except httpx.TransportError:
                return False

        here.wait(ready, "the gateway does not get ready")
        yield here


def address(here: Installation) -> str:
    return f"http://127.0.0.1:{here.settings.gateway_port}"


def effort(examples: int) -> settings_of:
    """As many requests, the same ones every time."""
    return settings_of(
        max_examples=examples,
        deadline=None,
        derandomize=True,
        database=None,
        suppress_health_check=list(HealthCheck),
    )


def operations(here: Installation) -> Iterator[Any]:
    """Every operation of the document that the gateway gives."""
    document = schemathesis.openapi.from_url(f"{address(here)}/openapi.json", config=CONFIG)
    for found in document.get_all_operations():
        if isinstance(found, Err):
            raise found.err()
        yield found.ok()


def _mend(body: Any) -> None:
    """Codes that a check character fits and times that can be true: a generator does not hit one.

    One time in seven stays as it is: what the document lets through is refused with its reason.
    """
    for scan in body if isinstance(body, list) else [body]:
        if isinstance(scan, dict):
            scan["venue"] = CODE
            if scan["scanned_at"] % 7:
                scan["scanned_at"] = now_ms() - scan["scanned_at"] % 86_400_000


def ask_all(operation: Any, mode: GenerationMode, told: set[str], answers: Counter[tuple[str, int]]) -> None:
    """Many requests of one operation; `told`, which scans the gateway said to be in."""
    posts = operation.method == "post"

    @effort(100 if posts else 10)
    @given(case=operation.as_strategy(generation_mode=mode))
    def ask(case: Any) -> None:
        if posts and mode is GenerationMode.POSITIVE:
            _mend(case.body)
        answer = case.call_and_validate(headers={"X-Api-Key": KEY}, checks=CHECKS)
        answers[case.path, answer.status_code] += 1
        if answer.status_code in {202, 207}:
            told.update(each["scan_id"] for each in answer.json()["results"] if each["accepted"])

    try:
        ask()
    except Unsatisfiable:
        assert not posts, "only a probe has nothing that could be wrong"


def test_every_answer_is_as_described(gateway: Installation) -> None:
    """And all that was told to be in is on the topic, each a scan; nothing else is."""
    told: set[str] = set()
    answers: Counter[tuple[str, int]] = Counter()
    for operation in operations(gateway):
        for mode in GenerationMode:
            ask_all(operation, mode, told, answers)
    posts = {("/v1/scans", code) for code in (202, 400, 422)}
    assert posts | {("/healthz", 200), ("/readyz", 200)} <= answers.keys(), answers
    found: set[str] = set()
    for message in gateway.read(topics.SCANS):
        value = orjson.loads(message.value() or b"")
        scans = value if isinstance(value, list) else [value]
        found |= {SCAN.validate_python(scan)["scan_id"] for scan in scans}
    assert found == told


def test_without_a_key_nothing_is_taken(gateway: Installation) -> None:
    for operation in operations(gateway):
        if operation.method == "post":

            @effort(20)
            @given(case=operation.as_strategy())
            def ask(case: Any) -> None:
                for headers in ({"X-Api-Key": "another"}, {}):
                    assert case.call(headers=headers).status_code == 401

            ask()
    assert gateway.read(topics.SCANS) == []
