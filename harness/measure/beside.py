"""What a suite's own code may import: what stands beside it, and libraries."""

from __future__ import annotations

import os
import sys
import sysconfig
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType

from harness.errors import UserError
from harness.resources import PACKAGE

INSTALLED = {"site-packages", "dist-packages"}


def _file(module: ModuleType) -> Path | None:
    """Where a module, or a package of files, was read from; None for what is built in."""
    found = getattr(module, "__file__", None) or next(iter(getattr(module, "__path__", ())), "")
    return Path(found).resolve() if os.path.isabs(found) else None


def _is_library(file: Path) -> bool:
    """Whether a module is one of Python's, the harness's, an installed one, or one that Hugging Face downloads."""
    from datasets import config

    known = [sysconfig.get_path("stdlib"), sysconfig.get_path("platstdlib"), PACKAGE, config.HF_MODULES_CACHE]
    return bool(INSTALLED & {*file.parts}) or any(file.is_relative_to(Path(k).resolve()) for k in known)


@contextmanager
def beside(folder: Path) -> Iterator[None]:
    """Where a suite's code is loaded or run: it finds the modules in its folder, and they are forgotten after, so that
    each suite finds its own. Raises `UserError` where it imported one from elsewhere, which no digest covers."""
    before, folder = {*sys.modules}, folder.resolve()
    elsewhere: list[Path] = []
    sys.path.insert(0, str(folder))
    try:
        yield
    finally:
        sys.path.remove(str(folder))
        for name, file in ((n, _file(sys.modules[n])) for n in {*sys.modules} - before):
            if file and (file.is_relative_to(folder) or not _is_library(file)):
                del sys.modules[name]
                elsewhere += [] if file.is_relative_to(folder) else [file]
    if elsewhere:
        raise UserError([
            f"{file}: code of the suite in {folder} imports it, and its changes would not be seen; move it into that "
            "folder" for file in sorted(elsewhere)
        ])  # fmt: skip
