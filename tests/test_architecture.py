"""Holds the dependency direction and the imports that must stay light, by reading every import in the package.

The lower a module stands, the less it may know. What carries cells out (`adapt`, `quantize`, `engine`, `measure`)
and what reads records (`ledger`, `decide`, `report`) know the nouns and the plain services below, and never one
another, but for the few edges in `EXCEPTIONS`, each with its reason.
"""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from itertools import chain
from pathlib import Path

import pytest

from tests.grids import ROOT

PACKAGE = ROOT / "harness"
HEAVY = {
    "torch", "transformers", "peft", "gptqmodel", "bitsandbytes", "torchao", "lm_eval", "datasets", "accelerate",
    "optimum", "sentence_transformers", "gguf",
}  # fmt: skip
FOUNDATION = {
    "types",
    "files",
    "errors",
    "rows",
    "resources",
    "environment",
    "power",
    "pricing",
    "statistics",
    "store",
    "retrieval",
    "prompt",
    "anatomy",
    "directory",
    "escaping",
    "loading",
    "packing",
    "unpacking",
    "leakage",
    "lengths",
    "licences",
    "wording",
    "terminal",
}
WORKERS = {"adapt", "quantize", "engine", "measure"}
READERS = {"ledger", "decide", "report", "compare", "index", "check", "runs"}
UPPER = {
    "configured",
    "grid",
    "workers",
    "standing",
    "reproduce",
    "launch",
    "execute",
    "export",
    "progress",
    "records",
    "plan",
    "components",
    "overrides",
    "suite",
    "suites",
    "__main__",
}
EXCEPTIONS = {
    ("adapt.prompt_rag", "models.hub"): "an adaptation that keeps the weights links them as a base model is linked",
    ("adapt.as_is", "models.hub"): "likewise",
    ("quantize.fp16", "models.hub"): "so does a checkpoint that came quantized",
    ("report", "ledger"): "a report drawn again reads its records",
    ("check.subject", "ledger"): "the gate reads run folders",
    ("check.outputs", "ledger"): "and writes as run folders are written",
    ("check.__main__", "ledger"): "a fresh checkpoint's runs go to a folder of their own",
    ("check.fresh", "suite"): "whose rows are looked at before a grid trains for them",
    ("runs", "ledger"): "a run is read from its folder",
    ("runs", "decide"): "and decided from its records",
    ("report", "runs"): "a report shows a run",
    ("report", "decide"): "and the decision that follows from its records",
    ("compare", "runs"): "runs are compared",
    ("compare", "decide"): "by the scores that decide",
    ("index", "ledger"): "an index stands among run folders",
    ("index", "runs"): "reads them all",
    ("index", "compare"): "which runs compare",
    ("index", "decide"): "and says what each recommends",
    ("index", "decide.recipes"): "of cells that are judged as one",
    ("index", "report.numbers"): "in the numbers that a report shows",
    ("report", "decide.recipes"): "of cells that are judged as one",
    ("report.against", "compare"): "a comparison in words",
    ("report.__main__", "compare"): "one command draws one run, several or all of them",
    ("report.__main__", "index"): "likewise",
    ("loading", "quantize.int4_kernels"): "a GPU loads 4-bit weights for the fastest kernel there is",
    ("loading", "quantize.int8_kernels"): "a CPU loads int8 weights with the kernel that makes them usable",
}


def module_of(file: Path) -> str:
    """`harness/adapt/lora.py` -> `adapt.lora`; a package's `__init__` is the package."""
    parts = file.relative_to(PACKAGE).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_of(file): file for file in sorted(PACKAGE.rglob("*.py")) if "_resources" not in file.parts}


def names(statement: ast.Import | ast.ImportFrom) -> Iterator[str]:
    """The modules that an import statement names."""
    if isinstance(statement, ast.Import):
        yield from (alias.name for alias in statement.names)
        return
    assert statement.level == 0, "imports are absolute, so that this test can read them"
    for alias in statement.names:
        inner = f"{statement.module}.{alias.name}"
        yield inner if inner.removeprefix("harness.") in MODULES else str(statement.module)


def at_import_time(tree: ast.AST) -> Iterator[ast.Import | ast.ImportFrom]:
    """The imports that run when a module is imported: outside functions and `if TYPE_CHECKING`."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.Import | ast.ImportFrom):
            yield node
        elif isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            continue
        elif not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            yield from at_import_time(node)


@cache
def edges(module: str) -> frozenset[str]:
    """The modules of the harness that a module imports anywhere, in functions too."""
    tree = ast.parse(MODULES[module].read_text(encoding="utf-8"))
    statements = [node for node in ast.walk(tree) if isinstance(node, ast.Import | ast.ImportFrom)]
    found = {name for statement in statements for name in names(statement)}
    return frozenset(name.removeprefix("harness.") for name in found if name.partition(".")[0] == "harness")


def inside(module: str) -> list[str]:
    """A module, and those in it where it is a package."""
    return [m for m in MODULES if m == module or m.startswith(f"{module}.")]


def strangers(module: str, allowed: set[str]) -> set[str]:
    """What a module imports beside its own package, what it is allowed, and its exceptions."""
    own = module.partition(".")[0]
    return {
        name
        for name in edges(module)
        if name.partition(".")[0] not in {own, *allowed} and not {(module, name), (own, name)} & set(EXCEPTIONS)
    }


@pytest.mark.parametrize("module", [m for m in MODULES if m.partition(".")[0] in WORKERS | READERS])
def test_workers_and_readers_know_the_foundation_alone(module: str) -> None:
    assert not strangers(module, FOUNDATION)


@pytest.mark.parametrize("module", sorted(FOUNDATION))
def test_the_foundation_knows_nothing_above_it(module: str) -> None:
    assert not strangers(module, FOUNDATION)


@pytest.mark.parametrize("module", [m for m in MODULES if m.startswith("models.")])
def test_models_know_the_foundation_alone(module: str) -> None:
    assert not strangers(module, FOUNDATION)


def test_the_nouns_know_nothing() -> None:
    assert edges("types") == edges("errors") == edges("resources") == edges("environment") == frozenset()


def test_the_plan_knows_no_launcher() -> None:
    """Planning assumes neither one machine nor one process."""
    assert not edges("plan") & {"launch", "execute", "configured", "grid", "progress"}
    assert not edges("launch") & {"configured", "grid", "progress"}


def test_every_module_has_its_place() -> None:
    """A new top-level module must be put into one of these sets, which is where its direction is thought about."""
    tops = {m.partition(".")[0] for m in MODULES} - {""}
    assert tops == FOUNDATION | WORKERS | READERS | UPPER | {"models", "preload"}


def test_no_exception_outlives_its_reason() -> None:
    assert {(m, name) for m, name in EXCEPTIONS if not any(name in edges(part) for part in inside(m))} == set()


@pytest.mark.parametrize("module", [m for m in MODULES if m not in ("preload", "engine.kernels")])
def test_heavy_libraries_are_imported_where_they_are_used(module: str) -> None:
    tree = ast.parse(MODULES[module].read_text(encoding="utf-8"))
    found = {name.partition(".")[0] for statement in at_import_time(tree) for name in names(statement)}
    assert not found & HEAVY


def test_what_rich_prints_goes_through_one_escape() -> None:
    """`terminal_text`, which leaves no control characters either."""
    trees = {m: ast.parse(file.read_text(encoding="utf-8")) for m, file in MODULES.items()}
    statements = {
        m: [node for node in ast.walk(tree) if isinstance(node, ast.Import | ast.ImportFrom)]
        for m, tree in trees.items()
    }
    assert [m for m, found in statements.items() if "rich.markup" in chain.from_iterable(map(names, found))] == [
        "escaping"
    ]


def test_the_preload_imports_what_steps_import() -> None:
    """A formatter that takes these imports for unused makes every step wait for them again."""
    tree = ast.parse(MODULES["preload"].read_text(encoding="utf-8"))
    named = {str(node.value) for node in ast.walk(tree) if isinstance(node, ast.Constant)}
    named |= {name for statement in at_import_time(tree) for name in names(statement)}
    assert {"torch", "transformers"} <= {name.partition(".")[0] for name in named}


def test_planning_and_reading_import_no_heavy_library() -> None:
    """Components' classes are resolved too: a plan asks them for their versions before anything runs."""
    code = """
import sys
from pathlib import Path
import harness.check.__main__, harness.decide, harness.ledger, harness.plan, harness.report
from harness.components import resolve
from harness.resources import resource
for file in resource("conf").glob("*/*.yaml"):
    targets = [line.split()[1] for line in file.read_text(encoding="utf-8").splitlines() if line.startswith("_target_")]
    for target in targets:
        resolve(target)
print(" ".join(sorted({name.partition(".")[0] for name in sys.modules})))
"""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    loaded = set(done.stdout.split())
    assert "harness" in loaded
    assert not loaded & HEAVY
