"""Every file that we read, cut, flipped and filled with nonsense: only clear errors, never a traceback.

A few hundred inputs a file; HARNESS_FUZZ=100000 sets how many.
"""

from __future__ import annotations

import ast
import json
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from omegaconf import OmegaConf

from harness import ledger, rows
from harness.check import rules, subject
from harness.check.judge import judge
from harness.environment import Environment
from harness.errors import UserError
from harness.files import yaml_keys
from harness.overrides import unreadable
from harness.pricing import priced
from harness.store import MANIFEST, Store, faults, sealed
from harness.suite import load
from harness.suites.table import read_table, shaped
from harness.types import Component, SuiteData
from tests import gates, records
from tests.building import step, work
from tests.cells import MACHINE
from tests.grids import ROOT
from tests.test_suite import params, row, write

EXAMPLES = int(os.environ.get("HARNESS_FUZZ", "150"))
fuzzed = settings(
    max_examples=EXAMPLES, deadline=None, derandomize="HARNESS_FUZZ" not in os.environ, database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow, HealthCheck.data_too_large],
)  # fmt: skip
# YAML is slow to read: fewer of it where all tests run
fuzzed_yaml = settings(fuzzed, max_examples=EXAMPLES if "HARNESS_FUZZ" in os.environ else 25)

anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8) | st.sampled_from([10**400, 2**63]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)
anywhere = st.integers(0, 2**16).map(lambda n: n / 2**16)  # drawn evenly, which floats are not
spoilt = st.tuples(
    st.sampled_from(["cut", "flip", "insert", "double", "replace"]), anywhere, st.binary(min_size=1, max_size=6)
) | st.sampled_from([("deep", 0.0, b""), ("digits", 0.0, b""), ("empty", 0.0, b""), ("bom", 0.0, b"")])


def spoil(whole: bytes, how: tuple[str, float, bytes]) -> bytes:
    """A file's bytes with something wrong."""
    kind, place, more = how
    at = int(place * max(0, len(whole) - 1))
    whole = whole or b"\n"
    return {
        "cut": whole[:at], "flip": whole[:at] + bytes([whole[at] ^ (more or b"1")[0]]) + whole[at + 1 :],
        "insert": whole[:at] + more + whole[at:], "double": whole + whole[at:], "empty": b"",
        "replace": whole[:at] + more + whole[at + len(more) :], "deep": b"[" * 100_000 + b"]" * 100_000,
        "digits": b'{"id": ' + b"9" * 5000 + b"}", "bom": b"\xef\xbb\xbf" + whole,
    }[kind]  # fmt: skip


def grafted(data: Any, place: float, value: Any) -> Any:
    """A JSON value with one of its parts, anywhere in it, changed for another."""
    paths: list[tuple[Any, ...]] = [()]

    def walk(at: Any, path: tuple[Any, ...]) -> None:
        items = at.items() if isinstance(at, dict) else enumerate(at) if isinstance(at, list) else ()
        for key, inner in items:
            paths.append((*path, key))
            walk(inner, paths[-1])

    walk(data, ())
    made = json.loads(json.dumps(data))
    path = paths[int(place * (len(paths) - 1))]
    if not path:
        return value
    inner = made
    for key in path[:-1]:
        inner = inner[key]
    inner[path[-1]] = value
    return made


def only_told(work: Callable[[], Any]) -> None:
    """Runs something that may refuse in clear lines, and in no other way."""
    told: tuple[str, ...] = ("nothing",)
    try:
        work()
    except UserError as error:
        told = error.mistakes
    assert told
    assert all(isinstance(m, str) and m for m in told)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run")
    made = records.rows("lora", "int8", 2)
    ledger.write_cells(folder, ["a", "b"])
    ledger.write_leakage(folder, {"s": {"rows": {"evaluation": 2}, "overlaps": [], "mode": "fail"}})
    ledger.write_rows(folder, records.record("lora", "int8", made), made)
    ledger.write_record(folder, records.record("lora", "int8", made))
    return folder


READERS: dict[str, Callable[[Path], Any]] = {
    "cells.json": ledger.read_cells,
    "leakage.json": ledger.read_leakage,
    "records/*.json": ledger.read_records,
    "rows/*.jsonl": lambda run: ledger.read_rows(run, records.record("lora", "int8", records.rows("lora", "int8", 2))),
}


@pytest.mark.parametrize("pattern", ["cells.json", "leakage.json", "records/*.json", "rows/*.jsonl"])
@given(how=spoilt)
@fuzzed
def test_spoilt_run_folders(run: Path, pattern: str, how: tuple[str, float, bytes]) -> None:
    (path,) = run.glob(pattern)
    whole = path.read_bytes()
    try:
        path.write_bytes(spoil(whole, how))
        only_told(lambda: READERS[pattern](run))
    finally:
        path.write_bytes(whole)


@given(how=spoilt)
@fuzzed
def test_spoilt_manifests(tmp_path: Path, how: tuple[str, float, bytes]) -> None:
    store, one = Store(tmp_path), step(0)
    if not store.folder(one).exists():
        store.build(one, lambda out: work(0, out), {})
        (tmp_path / "kept").write_bytes((store.folder(one) / MANIFEST).read_bytes())
    (store.folder(one) / MANIFEST).write_bytes(spoil((tmp_path / "kept").read_bytes(), how))
    assert faults(store.folder(one)) or store.manifest(one)


@given(place=anywhere, value=anything)
@fuzzed
def test_manifests_of_another_make(tmp_path: Path, place: float, value: Any) -> None:
    """With a digest of their own, as another version may write them."""
    store, one = Store(tmp_path), step(0)
    if not store.folder(one).exists():
        store.build(one, lambda out: work(0, out), {})
        (tmp_path / "kept").write_bytes((store.folder(one) / MANIFEST).read_bytes())
    bare = {k: v for k, v in json.loads((tmp_path / "kept").read_bytes()).items() if k != "digest"}
    made = grafted(bare, place, value)
    (store.folder(one) / MANIFEST).write_text(json.dumps(sealed(made) if isinstance(made, dict) else made))
    assert faults(store.folder(one), thorough=True) or store.manifest(one)


@pytest.fixture(scope="module")
def release(tmp_path_factory: pytest.TempPathFactory) -> tuple[subject.Side, Path]:
    """What is judged, and a baseline of the same."""
    folder, made = tmp_path_factory.mktemp("release"), gates.rows(n=6)
    side = subject.read(gates.run(folder / "run", (gates.cell(made), made)))
    subject.save(side, folder / "baseline.json")
    return side, folder / "baseline.json"


def judged(side: subject.Side, path: Path) -> None:
    """Every verdict on a baseline that reads is one of those that there are, and its exit code says the same."""
    found = judge(side, subject.read(path), DEFAULT)
    assert found.findings
    assert found.exit_code in (0, 1, 3)


DEFAULT = rules.load("default")


@given(how=spoilt)
@fuzzed
def test_spoilt_baselines(release: tuple[subject.Side, Path], how: tuple[str, float, bytes]) -> None:
    side, path = release
    spoiled = path.with_name("spoilt.json")
    spoiled.write_bytes(spoil(path.read_bytes(), how))
    only_told(lambda: judged(side, spoiled))


@given(place=anywhere, value=anything)
@fuzzed
def test_baselines_of_another_make(release: tuple[subject.Side, Path], place: float, value: Any) -> None:
    side, path = release
    spoiled = path.with_name("grafted.json")
    made = grafted(json.loads(path.read_bytes()), place, value)
    if isinstance(made, dict):  # as one who edits it on purpose would
        made["digest"] = ledger.sealed(made)
    spoiled.write_text(json.dumps(made))
    only_told(lambda: judged(side, spoiled))


@given(how=spoilt)
@example(how=("deep", 0.0, b""))
@fuzzed_yaml
def test_spoilt_rules_of_the_gate(tmp_path: Path, how: tuple[str, float, bytes]) -> None:
    (tmp_path / "mine.yaml").write_bytes(spoil((ROOT / "conf/check/default.yaml").read_bytes(), how))
    only_told(lambda: rules.load(str(tmp_path / "mine.yaml")))


TABLES = {
    "rows.csv": 'id,group,message,reply\n1,a,"Where, please?",Here.\n2,b,Why?,"So ""it"" is."\n3,b,Who?,Me.\n',
    "rows.jsonl": '{"message": "Where?", "reply": {"at": 1}}\n{"message": "Why?", "reply": {"at": [2]}}\n',
}


@pytest.mark.parametrize("name", sorted(TABLES))
@given(how=spoilt)
@fuzzed
def test_spoilt_tables_for_a_new_suite(tmp_path: Path, name: str, how: tuple[str, float, bytes]) -> None:
    path = tmp_path / name
    path.write_bytes(spoil(TABLES[name].encode(), how))
    names = {k: k for k in ("id", "group", "case", "message", "reply")}
    only_told(lambda: shaped(read_table(path), path, names))


@given(place=anywhere, value=anything, how=spoilt)
@fuzzed
def test_kept_rows_say_what_rows_read_whole_say(
    tmp_path: Path, place: float, value: Any, how: tuple[str, float, bytes]
) -> None:
    """Or both tell the same fault."""
    one = records.record("lora", "int8", records.rows("lora", "int8", 3))
    made = grafted(records.rows("lora", "int8", 3), place, value)
    text = "".join(json.dumps(r) + "\n" for r in (made if isinstance(made, list) else [made])).encode()
    path = tmp_path / "rows" / f"{ledger.slug(one.id)}.jsonl"
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(spoil(text, how))
    try:
        whole = ledger.read_rows(tmp_path, one)
    except UserError as error:
        with pytest.raises(UserError, match=re.escape(str(error))):
            ledger.open_rows(tmp_path, one)
        return
    read = ledger.open_rows(tmp_path, one)
    assert list(rows.ids(read)) == [r["id"] for r in whole]
    assert str(rows.groups(read)) == str(rows.groups(whole))
    for score in ("style", "good"):
        assert str(rows.column(read, score)) == str(rows.column(whole, score))


PRICE = {
    "name": "list", "use": "auto", "volume_requests": 1000, "utilization": 0.5,
    "hardware": {"a": {"match": "A100", "usd_per_hour": 2.5}, "cpu": {"match": "cpu", "usd_per_hour": 1}},
}  # fmt: skip


@given(how=spoilt)
@example(how=("deep", 0.0, b""))
@fuzzed_yaml
def test_spoilt_price_tables(tmp_path: Path, how: tuple[str, float, bytes]) -> None:
    """As a team's own choices: told before Hydra reads them, or read and judged."""
    path, shipped = tmp_path / "conf/price/mine.yaml", tmp_path / "shipped"  # with no more groups than are read
    path.parent.mkdir(parents=True, exist_ok=True)
    (shipped / "price").mkdir(parents=True, exist_ok=True)
    (shipped / "config.yaml").write_bytes((ROOT / "conf/config.yaml").read_bytes())
    path.write_bytes(spoil((ROOT / "conf/price/list_2026.yaml").read_bytes(), how))
    lines = unreadable(["--config-dir", str(tmp_path / "conf")], shipped)
    if lines:
        assert all(line.startswith(f"{path}: ") and "\n" not in line for line in lines)
        return
    found, told = priced(OmegaConf.to_container(yaml_keys(path)), MACHINE)  # type: ignore[arg-type]
    assert bool(told) != bool(found)


@given(place=anywhere, value=anything)
@fuzzed
def test_price_tables(place: float, value: Any) -> None:
    made = grafted(PRICE, place, value)
    for machine in (MACHINE, Environment("cuda", "NVIDIA A100", "float16", 8, 64.0, "Linux", "3.11", {})):
        found, told = priced(made if isinstance(made, dict) else {}, machine)
        assert bool(told) != bool(found)
        assert told or found["usd_per_hour"] > 0


@pytest.fixture(scope="module")
def suite(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("suite")
    write(folder / "train.jsonl", [row(n) for n in range(40)])
    write(folder / "eval.jsonl", [row(n, "e") for n in range(4)])
    write(folder / "kb.jsonl", [{"id": "a1", "title": "Returns", "text": "45 days."}])
    (folder / "guide.md").write_text("Greet first.")
    (folder / "task.yaml").write_text("task: small")
    return folder


def read(folder: Path, **changes: Any) -> SuiteData:
    return load(Component("small", "", params(folder, **changes)))


@pytest.mark.parametrize("name", ["train.jsonl", "eval.jsonl", "kb.jsonl", "guide.md", "task.yaml"])
@given(how=spoilt)
@fuzzed
def test_spoilt_suites(suite: Path, name: str, how: tuple[str, float, bytes]) -> None:
    whole = (suite / name).read_bytes()
    try:
        (suite / name).write_bytes(spoil(whole, how))
        only_told(lambda: read(suite))
    finally:
        (suite / name).write_bytes(whole)


@given(place=anywhere, value=anything)
@fuzzed
def test_suite_rows_of_another_make(suite: Path, place: float, value: Any) -> None:
    whole = (suite / "train.jsonl").read_bytes()
    try:
        rows = grafted([row(n) for n in range(6)], place, value)
        lines = rows if isinstance(rows, list) else [rows]
        (suite / "train.jsonl").write_bytes(whole + "".join(json.dumps(r) + "\n" for r in lines).encode())
        only_told(lambda: read(suite))
    finally:
        (suite / "train.jsonl").write_bytes(whole)


@pytest.mark.parametrize("key", ["train_file", "eval_file", "knowledge_file", "instructions_file", "task_file"])
@pytest.mark.parametrize("name", ["../secret", "/etc/passwd", "a/../../secret", "link", 3, "x\0y", ["a"]])
def test_no_path_of_a_suite_leaves_its_folder(tmp_path: Path, suite: Path, key: str, name: Any) -> None:
    made = tmp_path / "suite"
    made.mkdir()
    for file in suite.iterdir():
        (made / file.name).write_bytes(file.read_bytes())
    (tmp_path / "secret").write_text('{"id": "1", "message": "m", "reply": "r", "title": "t", "text": "t"}')
    (made / "link").symlink_to(tmp_path / "secret")
    with pytest.raises(UserError, match=r"outside the suite's folder|must be the name of a file"):
        read(made, **{key: name})


def test_a_suites_code_is_its_own(tmp_path: Path, suite: Path) -> None:
    made = tmp_path / "suite"
    made.mkdir()
    for file in suite.iterdir():
        (made / file.name).write_bytes(file.read_bytes())
    (tmp_path / "elsewhere.py").write_text("")
    (made / "scorers.py").symlink_to(tmp_path / "elsewhere.py")
    with pytest.raises(UserError, match=r"scorers\.py: stands outside"):
        read(made)


def test_nothing_is_unpickled_and_no_strangers_code_is_run() -> None:
    """What could run code out of a file that is read: by name, in every module of the package."""
    for file in sorted((ROOT / "harness").rglob("*.py")):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            names = [a.name for a in node.names] if isinstance(node, ast.Import | ast.ImportFrom) else []
            assert not {"pickle", "cloudpickle", "dill", "joblib", "shelve", "marshal"} & {*names}, file
            if isinstance(node, ast.Call):
                called = ast.unparse(node.func)
                assert called not in ("torch.load", "eval", "exec", "yaml.load", "yaml.unsafe_load"), (file, called)
                trusted = [k for k in node.keywords if k.arg == "trust_remote_code"]
                assert all(ast.unparse(k.value) == "False" for k in trusted), file
