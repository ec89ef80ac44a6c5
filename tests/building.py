"""Builds a few small things in a store, as a process of its own that may be killed at any moment:

    python -m tests.building STORE RUN [STEP ...]

Each step is built of the one before it, its record is written, and its key is printed once it stands. A step named
`wait` begins, says so, and never ends.
"""

from __future__ import annotations

import random
import sys
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from harness import ledger
from harness.store import Store
from harness.types import Component, Step, StepKind, digest
from tests import records

KINDS = (StepKind.BASE, StepKind.ADAPT, StepKind.QUANTIZE, StepKind.QUALITY, StepKind.LATENCY)


def step(number: int, kind: StepKind | None = None, parents: tuple[str, ...] = ()) -> Step:
    """A step that is what its number says."""
    kind = kind or KINDS[number % len(KINDS)]
    return Step(kind, digest(number), f"{kind} {number}", Component("x", "", {}), parents, {"number": number}, 0)


def contents(number: int) -> dict[str, bytes]:
    """What a step builds: always the same files, one of them in a folder."""
    drawn = random.Random(number)
    return {name: drawn.randbytes(drawn.randrange(1, 200_000)) for name in ("a.safetensors", "b.json", "adapter/c.bin")}


def work(number: int, out: Path) -> Mapping[str, Any]:
    for name, held in contents(number).items():
        (out / name).parent.mkdir(exist_ok=True)
        (out / name).write_bytes(held)
    return {"number": number}


def hang(out: Path) -> Mapping[str, Any]:
    work(0, out)
    print("begun", flush=True)
    threading.Event().wait()
    return {}


def main(root: str, run: str, *numbers: str) -> None:
    store = Store(Path(root))
    store.prepare()
    store.clean()
    with store.hold([step(int(n)).key for n in numbers if n != "wait"]):
        for number in numbers:
            if number == "wait":
                store.build(step(0), hang, {})
                continue
            made = step(int(number))
            store.build(made, lambda out, n=number: work(int(n), out), {})  # type: ignore[misc]
            rows = records.rows("lora", "int8", 3 + int(number))
            ledger.write_rows(Path(run), records.record("lora", "int8", rows, id=f"cell/{number}"), rows)
            ledger.write_record(Path(run), records.record("lora", "int8", rows, id=f"cell/{number}"))
            print(made.key, flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
