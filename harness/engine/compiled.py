"""C of this folder, compiled by gcc for this CPU when it is first needed, and kept for this user."""

from __future__ import annotations

import ctypes
import hashlib
import os
import shlex
import subprocess
import tempfile
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from harness.environment import cache_folder
from harness.files import write_whole

FOLDER = Path(__file__).parent
HEADER = "element.h"
OPTIONS = ("-O3", "-march=native", "-fopenmp", "-shared", "-fPIC", "-fno-math-errno", "-fno-trapping-math",
    "-fno-signed-zeros", "-fassociative-math", "-fno-tree-loop-distribute-patterns")  # fmt: skip
WIDEST = "-mprefer-vector-width=512"  # where there is AVX-512, of which gcc takes half by itself
SECONDS = 60  # for a compilation
TOLD = 200  # characters of why there is nothing compiled


def library(source: str, dtype: Any, options: Sequence[str] = ()) -> tuple[Any, str]:
    """A C file of this folder for elements of `dtype`, compiled with `options` beside the usual; or None, and why."""
    import torch

    if dtype not in (torch.bfloat16, torch.float32):
        return None, f"nothing is compiled for {dtype}"
    try:
        command = shlex.split(os.environ.get("CC") or "gcc")
        defines = _run([*command, "-march=native", "-dM", "-E", "-x", "c", os.devnull])  # its own version among them
        if "__clang__" in defines:  # whose OpenMP would stand beside PyTorch's
            return None, f"{command[0]} is clang, not gcc"
        if "__FAST_MATH__" in defines:  # which would change rounding in all of this process
            return None, "CC asks for -ffast-math"
        command += [*OPTIONS, *([WIDEST] if "__AVX512F__" in defines else []), *options]
        command += ["-DBFLOAT16"] if dtype == torch.bfloat16 else []
        texts = [(FOLDER / name).read_text() for name in (HEADER, source)]
        name = hashlib.sha256("\n".join([*command, defines, *texts]).encode()).hexdigest()
        return _loaded([*command, str(FOLDER / source)], name), ""
    except (OSError, ValueError, subprocess.SubprocessError) as error:
        return None, " ".join(str(getattr(error, "stderr", "") or error).split())[:TOLD]


def _loaded(command: list[str], name: str) -> Any:
    """What is kept for this user under a name, of all that makes it as a home may be seen by several CPUs; made anew
    by `command` where there is none, or none that loads and is this user's."""
    kept = (cache_folder() or Path(os.devnull)) / "compiled" / f"{name}.so"
    with suppress(OSError):
        if kept.stat().st_uid == os.getuid():
            return ctypes.CDLL(str(kept))
    with tempfile.TemporaryDirectory(prefix="harness-") as scratch:
        made = Path(scratch) / kept.name
        _run([*command, "-o", str(made), "-lm"])
        found = ctypes.CDLL(str(made))
        with suppress(OSError):  # it is compiled again next time
            kept.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            write_whole(kept, made.read_bytes())
    return found


def _run(command: list[str]) -> str:
    return subprocess.run(
        command, check=True, capture_output=True, text=True, timeout=SECONDS, stdin=subprocess.DEVNULL
    ).stdout
