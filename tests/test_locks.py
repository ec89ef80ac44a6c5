"""What `make` installs is pinned with hashes: the locks cover what pyproject.toml asks for, and agree. What is known
against it is told, and under which licences it stands."""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from importlib import metadata
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

from locks import audit, licences
from tests.grids import ROOT

LOCKS = ROOT / "locks"
PINNED = re.compile(r"([A-Za-z0-9._-]+)==(\S+)((?: --hash=sha256:[0-9a-f]{64})+)")
GENERATED, BY_HAND = "constraints.txt", "by_hand.txt"


def pins(name: str) -> dict[str, Version]:
    """Name and version of each line of a lock, each of which must have a hash and say nothing else."""
    text = re.sub(r"\s*\\\n\s*", " ", (LOCKS / name).read_text(encoding="utf-8"))
    found: dict[str, Version] = {}
    for line in (raw.strip() for raw in text.splitlines()):
        if line and not line.startswith("#"):
            parts = PINNED.fullmatch(line)
            assert parts, f"{name}: {line[:80]}: not NAME==VERSION with its hashes"
            assert canonicalize_name(parts[1]) not in found, f"{name}: {parts[1]} stands there twice"
            found[canonicalize_name(parts[1])] = Version(parts[2])
    return found


@pytest.fixture(scope="module")
def locked() -> dict[str, Version]:
    generated, by_hand = pins(GENERATED), pins(BY_HAND)
    assert not {*generated} & {*by_hand}, "pinned in both"
    return generated | by_hand


def asked() -> list[Requirement]:
    told = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    return [
        Requirement(r)
        for r in (
            *told["project"]["dependencies"],
            *told["project"]["optional-dependencies"]["dev"],
            *told["build-system"]["requires"],
        )
    ]


def test_every_requirement_is_pinned_within_its_range(locked: dict[str, Version]) -> None:
    assert len(asked()) > 30
    for one in asked():
        name = canonicalize_name(one.name)
        assert name in locked, f"locks/: {one.name} is not pinned; run `make lock`"
        assert one.specifier.contains(locked[name], prereleases=True), f"{one}, but {locked[name]} is locked"


def test_the_pip_that_checks_the_locks_is_the_one_they_ask_for() -> None:
    assert pins("pip.txt") == {"pip": pins(GENERATED)["pip"]}


def needed(name: str, extras: frozenset[str] = frozenset()) -> Iterator[Requirement]:
    """What an installed distribution asks for on this machine."""
    for text in metadata.requires(name) or ():
        one = Requirement(text)
        if one.marker is None or any(one.marker.evaluate({"extra": e}) for e in ("", *extras)):
            yield one


def test_all_that_the_installed_ask_for_has_a_hash(locked: dict[str, Version]) -> None:
    """Told here, before an install of a fresh clone refuses it."""
    reached: set[tuple[str, frozenset[str]]] = set()
    left = [Requirement("harness[dev]")]
    while left:
        one = left.pop()
        at = (canonicalize_name(one.name), frozenset(one.extras))
        if at in reached:
            continue
        reached.add(at)
        assert at[0] in {*locked, "harness"}, f"locks/: {one.name} is not pinned; run `make lock`"
        left += needed(*at)
    assert len(reached) > 100


def test_both_builds_of_torch_may_be_installed() -> None:
    """PyPI's and the CPU build have one version and no file in common: Linux, CPython 3.11 to 3.13, two machines."""
    (torch,) = re.findall(r"^torch==(?:.*\\\n)+.*$", (LOCKS / BY_HAND).read_text(encoding="utf-8"), re.MULTILINE)
    assert len({*re.findall(r"sha256:\w+", torch)}) == 2 * 3 * 2


def test_cuda_is_locked_for_the_torch_that_is_locked(locked: dict[str, Version]) -> None:
    """Its CUDA follows its version, which `make lock` must read where it is kept by hand."""
    parts = {n: v for n, v in locked.items() if n.startswith(("nvidia-", "cuda-", "triton")) and n != "nvidia-ml-py"}
    assert {"triton", "nvidia-cublas"} <= {*parts}
    assert "-c locks/by_hand.txt" in (ROOT / "Makefile").read_text(encoding="utf-8").partition("\nlock:")[2]


def test_no_lock_names_a_host() -> None:
    """The locks hold wherever packages come from."""
    for lock in LOCKS.glob("*.txt"):
        said = [line for line in lock.read_text(encoding="utf-8").splitlines() if not line.startswith("#")]
        assert not re.search(r"://|--(extra-)?index-url|--find-links", "\n".join(said)), lock


SOUND: Mapping[str, Any] = {"name": "pip", "version": "26.3", "vulns": []}
BROKEN = {"name": "torch", "version": "2.13.0", "vulns": [{"id": "CVE-1", "fix_versions": ["2.13.1"]}]}
UNHEARD = {"name": "mine", "skip_reason": "Dependency not found on PyPI and could not be audited"}


@pytest.mark.parametrize(
    ("reached", "found", "code", "told"),
    [
        ((), [], 0, "could not be audited: no vulnerability service reached"),
        (("pypi",), [SOUND, UNHEARD], 0, "1 packages asked about at pypi, 0 with known vulnerabilities"),
        (("osv",), [SOUND, BROKEN], 1, "torch 2.13.0: CVE-1, mended in 2.13.1"),
        (("pypi",), [UNHEARD], 0, "could not be audited"),
    ],
)
def test_an_audit_says_what_is_known_and_that_it_could_not_ask(
    reached: Sequence[str], found: list[Any], code: int, told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """A service that knows nothing of pip is none: behind a mirror, pip-audit finds nothing about anything."""

    def ask(service: str, locks: Sequence[str]) -> str:
        if service not in reached:
            return json.dumps({"dependencies": [UNHEARD]}) if service == "pypi" else ""
        return json.dumps({"dependencies": [SOUND] if locks == ["pip.txt"] else found})

    assert audit.audited(ask) == code
    assert told in capsys.readouterr().out


@pytest.mark.skipif(
    not metadata.version("torch").endswith("+cpu"), reason="the page is written where PyTorch's CPU build is installed"
)
def test_the_page_of_licences_is_current() -> None:
    assert licences.PAGE.read_text(encoding="utf-8") == licences.page(), "docs/licences.md is old; run `make licences`"


@pytest.mark.parametrize(
    ("text", "permissive"),
    [
        ("MIT", True), ("MIT OR GPL-3.0", True), ("Apache-2.0 AND BSD-3-Clause", True), ("MPL-2.0 AND MIT", False),
        ("LGPL-2.1-or-later", False), ("none named", False), ("BSD or Apache-2.0", True),
    ],
)  # fmt: skip
def test_licences_that_ask_for_more_are_named(text: str, permissive: bool) -> None:
    assert licences.is_permissive(text) == permissive
