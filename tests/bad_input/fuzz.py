"""python -m tests.bad_input.fuzz TARGET --seconds 60: fuzzing that is led by coverage, over one parser.

It needs atheris (`pip install atheris`), which is not among the pinned packages: where there is no wheel for
a system, it wants clang. `make test` replays the saved inputs without it.
"""

from __future__ import annotations

import importlib
import sys
import tempfile
from pathlib import Path
from typing import Annotated, Any

import typer

CORPUS = Path(__file__).parent / "corpus"
# whose branches lead: what we wrote, and the part of json that is Python
_INSTRUMENTED = ["schemas", "stream_processors", "sinks", "tests.bad_input", "json"]


def _targets(atheris: Any) -> Any:
    with atheris.instrument_imports(include=_INSTRUMENTED, enable_loader_override=False):
        return importlib.import_module("tests.bad_input.targets").TARGETS


def main(
    target: Annotated[str, typer.Argument(help="scans, cases, venues, qr or archived")],
    seconds: Annotated[int, typer.Option(min=1)] = 60,
    largest: Annotated[int, typer.Option(min=16, help="Bytes of an input.")] = 2_048,
) -> None:
    """Ends with the exit code of the fuzzer: 0, or 77 with the input that failed in the present folder."""
    try:
        atheris: Any = importlib.import_module("atheris")
    except ImportError:
        print("atheris is not installed: pip install atheris (Python 3.11 to 3.13 on Linux have a wheel)")
        raise typer.Exit(2) from None
    targets = _targets(atheris)
    if target not in targets:
        print(f"no such target: {target}; there are {', '.join(targets)}")
        raise typer.Exit(2)
    found = tempfile.mkdtemp(prefix=f"truyvet-fuzz-{target}-")
    print(f"new inputs that reach further: {found}")
    options = [f"-max_total_time={seconds}", f"-max_len={largest}", "-timeout=10", "-print_final_stats=1"]
    atheris.Setup([sys.argv[0], *options, found, str(CORPUS / target)], targets[target])
    atheris.Fuzz()


if __name__ == "__main__":
    typer.run(main)
