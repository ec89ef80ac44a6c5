"""The wheel carries the plain files that the harness reads, and works from where they then stand."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from tests.grids import ROOT

PLUGIN = "hydra_plugins/harness_grid.py"


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built offline with the installed hatchling and unpacked as an install would."""
    pytest.importorskip("hatchling", reason="hatchling builds the wheel; pip install hatchling")
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    (wheel,) = folder.glob("*.whl")
    unpacked = folder / "site"
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(unpacked)
    return unpacked


@pytest.mark.parametrize("name", ["conf", "suites", "reports"])
def test_every_plain_file_is_inside_the_package(installed: Path, name: str) -> None:
    def files(folder: Path) -> set[str]:
        found = (f for f in folder.rglob("*") if f.is_file() and "__pycache__" not in f.parts)
        return {str(f.relative_to(folder)) for f in found}

    assert files(ROOT / name)
    assert files(installed / "harness/_resources" / name) == files(ROOT / name)


def test_every_module_is_there(installed: Path) -> None:
    modules = {str(f.relative_to(ROOT)) for f in (ROOT / "harness").rglob("*.py")}
    assert modules <= {str(f.relative_to(installed)) for f in installed.rglob("*.py")}


def test_the_plugin_stands_where_hydra_looks(installed: Path) -> None:
    """At the root, in a folder without `__init__.py`, which other plugins share."""
    assert (installed / PLUGIN).read_bytes() == (ROOT / "runners" / PLUGIN).read_bytes()
    assert not (installed / "hydra_plugins/__init__.py").exists()


def test_no_generic_name_stands_at_the_root(installed: Path) -> None:
    tops = {p.name for p in installed.iterdir() if not p.name.endswith(".dist-info")}
    assert tops == {"harness", "hydra_plugins"}


def test_the_command_is_declared(installed: Path) -> None:
    (declared,) = installed.glob("*.dist-info/entry_points.txt")
    assert "harness = harness.__main__:main" in declared.read_text(encoding="utf-8")


def test_an_install_reads_its_own_files(installed: Path, tmp_path: Path) -> None:
    """A refused command shows it all: its configuration, its plugin and its suites were found in the install."""
    command = [sys.executable, "-m", "harness", "price.use=h900", "suite.folder=nowhere"]
    environment = {**os.environ, "PYTHONPATH": str(installed)}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 2, done.stdout + done.stderr
    suite, price = done.stderr.splitlines()
    assert suite == f"harness: suite support_tone: no folder 'nowhere' here or in {installed}/harness/_resources/suites"
    assert "price.use='h900': not in the price table" in price
