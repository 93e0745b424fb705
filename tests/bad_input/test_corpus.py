"""The saved inputs of the fuzzing, replayed; new ones come with `python -m tests.bad_input.fuzz`."""

from __future__ import annotations

import pytest

from tests.bad_input.fuzz import CORPUS
from tests.bad_input.targets import TARGETS


@pytest.mark.parametrize("target", TARGETS)
def test_saved_inputs(target: str) -> None:
    paths = sorted((CORPUS / target).iterdir())
    assert paths, "a target without inputs tests nothing"
    for path in paths:
        try:
            TARGETS[target](path.read_bytes())
        except Exception as error:
            pytest.fail(f"{path.name}: {error!r}")
