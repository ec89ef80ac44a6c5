"""A cell becomes a folder that answers by itself as it was recorded to; what would not is refused."""

from __future__ import annotations

import fcntl
import json
import os
import re
import runpy
import shlex
import shutil
import subprocess
import sys
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from transformers import AutoTokenizer

import harness.export.check as module
from harness import ledger
from harness.errors import BrokenArtifact, DoesNotFit, UserError
from harness.export import card
from harness.export.__main__ import main
from harness.export.check import Checked, _parted, told
from harness.export.choice import _override, command_again
from harness.export.folder import DEPLOYMENT, SUMS, checksums, lay_out, place, prompt_as_scored, stop_texts
from harness.export.licences import Licence, hub_name, of_data, of_model
from harness.export.serving import vllm
from harness.licences import Stated
from harness.measure.quality import keys_of
from harness.models.dummy import RANDOM
from harness.overrides import misspelt
from harness.prompt import Prompter, Recipe, load_prompter, render, template_as_scored
from harness.resources import resource
from harness.retrieval import save
from harness.store import MANIFEST, Store, described, sealed, write_json
from harness.store.upkeep import collect
from harness.suite import load as load_suite
from harness.types import Cell, Completion, RunRecord, Status, digest, plain
from tests import records
from tests.cells import _config, cell
from tests.grids import ROOT, TINY, WARM, environment, harness, interpreter, linked, run_folder
from tests.pages import HOSTILE
from tests.test_engine import tokenizer
from tests.test_prompt import TEMPLATES, on, templated

Ran = tuple[Path, Path]


@pytest.fixture(scope="module")
def ran(pair: Ran, tmp_path_factory: pytest.TempPathFactory) -> Ran:
    """A folder where two adaptations and two quantizations have run, and the run folder."""
    cwd = linked(pair[0], tmp_path_factory.mktemp("export") / "cwd")
    return cwd, cwd / pair[1].relative_to(pair[0])


@pytest.fixture(scope="module")
def exported(ran: Ran, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Exports of two cells."""
    made = {name: tmp_path_factory.mktemp("out") / "deploy" for name in ("prompt_rag/fp16", "lora/gptq")}
    assert [main([str(ran[1]), "--cell", name, "--to", str(to)]) for name, to in made.items()] == [0, 0]
    return made


def record_of(run: Path, name: str) -> RunRecord:
    return next(r for r in ledger.read_records(run) if f"{r.adaptation}/{r.quantization}" == name)


def copied(ran: Ran, name: str, to: Path) -> Path:
    """A copy of the build of a cell's weights, in a store `to`."""
    key = record_of(ran[1], name).steps["quantize"]["key"]
    return Path(shutil.copytree(ran[0] / ".harness/store/quantize" / key, to / "quantize" / key))


def seal(build: Path) -> None:
    """Has the manifest of a build that was changed tell of its files as they are."""
    manifest = json.loads((build / MANIFEST).read_text())
    files = {name: told for name, told in described(build).items() if name != MANIFEST}
    write_json(build / MANIFEST, sealed({**manifest, "files": files}))


def answered(folder: Path, message: str, warm: bool = True) -> str:
    """What `example.py` prints in a process that cannot import the harness, be it one with its libraries imported."""
    code = (
        "import sys; sys.dont_write_bytecode = True;"
        "sys.modules.update({m: None for m in ['harness', *sys.modules] if m.partition('.')[0] == 'harness'});"
        f"sys.argv = ['example.py', {message!r}]; import example; sys.exit(example.main())"
    )
    surroundings = environment(folder.parent)
    if warm:
        done = WARM.run(folder, surroundings, ("-c", code), timeout_s=900)
    else:
        clean = {k: v for k, v in surroundings.items() if k != "PYTHONPATH"}
        command = [sys.executable, "-c", code]
        done = subprocess.run(command, cwd=folder, env=clean, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "MatMul8bitLt" not in done.stderr
    return done.stdout


@pytest.mark.parametrize("name", ["prompt_rag/fp16", "lora/gptq"])
def test_the_folder_answers_as_recorded_without_the_harness(ran: Ran, exported: dict[str, Path], name: str) -> None:
    first = ledger.read_rows(ran[1], record_of(ran[1], name))[0]
    assert answered(exported[name], first["message"], warm=name == "lora/gptq") == first["output"] + "\n"


def test_the_folder_holds_what_serving_needs_and_nothing_of_this_machine(
    pair: Ran, exported: dict[str, Path], tmp_path: Path
) -> None:
    folder = exported["lora/gptq"]
    files = {f.relative_to(folder).as_posix() for f in folder.rglob("*") if f.is_file()}
    assert files >= {
        "model.safetensors", "config.json", "tokenizer.json", "chat_template.jinja", "prompt.json", "README.md",
        "retrieval/bm25/data.csc.index.npy", "adapter/adapter_model.safetensors", "LICENCES.md", "record.json",
        "recipe.py", "example.py", "requirements.txt", DEPLOYMENT, SUMS,
    }  # fmt: skip
    assert not files & {"manifest.json", "reference.json", "adapter/README.md"}
    assert not [f for f in files if f.endswith(".pyc")]
    for file in files:
        assert str(pair[0]).encode() not in (folder / file).read_bytes(), file
    assert not list(folder.parent.glob(".*")), "no temporary folder is left"
    (tmp_path / "new").touch()
    assert {(folder / f).stat().st_mode for f in files} == {(tmp_path / "new").stat().st_mode}, "a server may read them"
    assert ledger.read_record(folder / "record.json") == record_of(pair[1], "lora/gptq")


def test_checksums_cover_every_file(exported: dict[str, Path]) -> None:
    folder = exported["lora/gptq"]
    done = subprocess.run(
        ["sha256sum", "-c", "--strict", SUMS], cwd=folder, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout
    assert len(done.stdout.splitlines()) == sum(f.is_file() for f in folder.rglob("*")) - 1
    assert checksums(folder) == (folder / SUMS).read_text()


def test_the_card_is_read_by_the_hubs_own_library(ran: Ran, exported: dict[str, Path]) -> None:
    from huggingface_hub import ModelCard

    record = record_of(ran[1], "lora/gptq")
    read = ModelCard.load(exported["lora/gptq"] / "README.md")
    scores = {m.metric: m.value for m in record.measurements if m.metric.startswith("quality/")}
    found = {f"quality/{r.metric_type}": r.metric_value for r in read.data.eval_results}
    assert found == pytest.approx(scores, abs=1e-6)
    assert {r.dataset_revision for r in read.data.eval_results} == {record.digest_of("quality", "rows")}
    assert read.data.license is None, "random weights have no known licence"
    for told_of in (
        record.digest_of("adapt", "data"), "18 rows", "32,768 parameters", "it gave each recorded output to the letter",
        "vllm serve .", "Apache-2.0", "`adapter/`", "bits 4", record.environment["hardware"],
    ):  # fmt: skip
        assert told_of in read.text, told_of


@pytest.mark.parametrize("stated", [{"eos_token_id": None, "pad_token_id": 5}, {"eos_token_id": [9, 7]}, None])
def test_whoever_serves_the_folder_stops_where_the_harness_did(
    ran: Ran, tmp_path: Path, stated: dict[str, Any] | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A base model's own generation config need not name what closes a turn, nor what else ends answers of a task."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    build = copied(ran, "prompt_rag/fp16", tmp_path / "store")
    (build / "generation_config.json").unlink()
    if stated is not None:
        (build / "generation_config.json").write_text(json.dumps(stated))
    config = json.loads((build / "config.json").read_text())
    (build / "config.json").write_text(json.dumps({**config, "eos_token_id": 8}))
    tokenizer = json.loads((build / "tokenizer_config.json").read_text())
    (build / "tokenizer_config.json").write_text(json.dumps({**tokenizer, "eos_token": "<|endoftext|>"}))
    seal(build)
    out = tmp_path / "out"
    asked = [str(ran[1]), "--cell", "prompt_rag/fp16", "--store", str(tmp_path / "store"), "--to", str(out)]
    monkeypatch.setattr("harness.export.__main__.stop_texts", lambda record: ["never", "<|im_start|>"])
    assert main([*asked, "--check-rows", "0"]) == 0
    ends = AutoTokenizer.from_pretrained(out).convert_tokens_to_ids(["<|endoftext|>", "<|im_end|>", "<|im_start|>"])
    served = AutoModelForCausalLM.from_pretrained(out).generation_config
    own = [8] if stated is None else stated["eos_token_id"] or []
    assert served.eos_token_id == [*own, *sorted(ends)], "its own stay first"
    assert served.pad_token_id == (stated or config).get("pad_token_id")


OF_THE_BASE = {"repetition_penalty": 1.5, "no_repeat_ngram_size": 2, "num_beams": 2, "do_sample": True, "min_p": 0.9}


def test_what_a_base_model_asks_of_decoding_is_left_out_as_it_was_when_scored(ran: Ran, tmp_path: Path) -> None:
    """The engine that is measured takes no more of a generation config than what ends an answer."""
    build, out = copied(ran, "prompt_rag/fp16", tmp_path / "store"), tmp_path / "out"
    config = json.loads((build / "generation_config.json").read_text())
    (build / "generation_config.json").write_text(json.dumps({**config, **OF_THE_BASE}))
    named = json.loads((build / "tokenizer_config.json").read_text())
    inputs = {"model_input_names": ["input_ids", "token_type_ids", "attention_mask"]}
    (build / "tokenizer_config.json").write_text(json.dumps({**named, **inputs}))
    for name in ("LICENSE.txt", "notes.txt"):  # an earlier version kept both
        (build / name).write_text("Ours.")
    seal(build)
    run = ran[1]
    assert main([str(run), "--cell", "prompt_rag/fp16", "--store", str(tmp_path / "store"), "--to", str(out)]) == 0
    first = ledger.read_rows(run, record_of(run, "prompt_rag/fp16"))[0]
    assert answered(out, first["message"]) == first["output"] + "\n"
    kept = json.loads((out / "generation_config.json").read_text())
    assert {*kept} <= {"bos_token_id", "eos_token_id", "pad_token_id"}
    assert (out / "LICENSE.txt").read_text() == "Ours."
    assert "What came with it goes along: `LICENSE.txt`.\n" in (out / "LICENCES.md").read_text()
    assert not (out / "notes.txt").exists()
    assert "of the likeliest tokens" in (out / "README.md").read_text()


def test_what_does_not_answer_as_recorded_is_not_exported(
    ran: Ran, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from safetensors.torch import load_file, save_file

    build = copied(ran, "lora/fp16", tmp_path / "store")
    weights = load_file(build / "model.safetensors")
    weights["model.norm.weight"] = -weights["model.norm.weight"]  # the likeliest token becomes the unlikeliest
    save_file(weights, build / "model.safetensors", {"format": "pt"})
    seal(build)
    asked = [str(ran[1]), "--cell", "lora/fp16", "--store", str(tmp_path / "store"), "--to", str(tmp_path / "out")]
    assert main(asked) == 1
    out = capsys.readouterr().out
    assert "6 of 6 rows gave another output than recorded" in out
    assert "Nothing that is recorded of the machine or its libraries has changed" in out
    assert "parts at character 0" in out
    assert [p.name for p in tmp_path.iterdir()] == ["store"], "nothing was written"
    assert main([*asked, "--check-rows", "0"]) == 0
    assert "Not checked: --check-rows 0." in (tmp_path / "out/README.md").read_text()


def test_another_prompt_recipe_is_noticed_on_any_row(
    ran: Ran, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    build = copied(ran, "lora/fp16", tmp_path / "store")
    recipe = json.loads((build / "prompt.json").read_text())
    (build / "prompt.json").write_text(json.dumps({**recipe, "asked": "Mail"}))
    seal(build)
    asked = [str(ran[1]), "--cell", "lora/fp16", "--store", str(tmp_path / "store"), "--to", str(tmp_path / "out")]
    assert main([*asked, "--check-rows", "1"]) == 1
    assert "6 of 6 prompts came out differently" in capsys.readouterr().out
    assert not (tmp_path / "out").exists()


def test_a_classifier_answers_by_itself_too(ran: Ran, tmp_path: Path) -> None:
    """Its one forward pass draws nothing, whatever the engine would."""
    done = harness(
        ran[0], "+sweep=ticket_routing", *TINY, "profile.train_rows=60", "adaptation=lora_head", "quantization=int8",
        "engine.temperature=0.7",
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    run = run_folder(done)
    assert main([str(run), "--cell", "lora_head/int8", "--to", str(tmp_path / "out")]) == 0
    (record,) = ledger.read_records(run)
    first = ledger.read_rows(run, record)[0]
    assert answered(tmp_path / "out", first["message"]) == first["output"] + "\n"
    text = (tmp_path / "out/README.md").read_text()
    assert "pipeline_tag: text-classification" in text
    assert not [said for said in ("vllm serve", "Answers were", "Answers ended") if said in text]
    deployment = json.loads((tmp_path / "out" / DEPLOYMENT).read_text())
    assert (deployment["sampling"], deployment["stop"], deployment["constrained"]) == (None, [], False)


def test_rows_that_part_alone_are_answered_as_they_were_measured(
    ran: Ran, exported: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rounding that follows the shape of a batch, which the tiny model does not show."""
    record = record_of(ran[1], "lora/gptq")
    rows = ledger.read_rows(ran[1], record)
    asked: list[int] = []

    def session(folder: Path, record: RunRecord, ends: list[str]) -> Any:
        def answer(some: list[dict[str, Any]]) -> list[Completion]:
            asked.append(len(some))
            names = [s["id"] for s in some]
            made = [Completion(r["output"], r["tokens"], r["finished"]) for r in rows if r["id"] in names]
            return made if len(some) == len(rows) else [replace(made[0], text="else"), *made[1:]]

        return answer

    monkeypatch.setattr(module, "_session", session)
    found = module.check(exported["lora/gptq"], record, rows, 2)
    assert asked == [2, 6]
    assert (found.passed, found.asked, found.alone) == (True, 6, 1)
    asked.clear()
    assert not module.check(exported["lora/gptq"], record, [rows[0] | {"output": "other"}, *rows[1:]], 2).passed
    assert module.check(exported["lora/gptq"], record, [], 0).why == "--check-rows 0", "whatever was recorded"
    assert asked == [2, 6]


def test_weights_that_are_gone_come_with_the_command_that_builds_them_again(
    ran: Ran, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = ["--cell", "prompt_rag/fp16", "--to", str(tmp_path / "out")]
    store = tmp_path / "empty"
    assert main([str(ran[1]), *asked, "--store", str(store)]) == 2
    err = capsys.readouterr().err
    assert f"are not in the store {store}" in err
    command = next(line.strip() for line in err.splitlines() if line.strip().startswith("python -m harness "))
    done = harness(tmp_path, *shlex.split(command)[3:])
    assert done.returncode == 0, done.stdout + done.stderr
    run = run_folder(done)
    old, new = (record_of(r, "prompt_rag/fp16").steps["quantize"]["key"] for r in (ran[1], run))
    assert new == old, "the same inputs have the same key"
    assert main([str(run), *asked]) == 0


@pytest.mark.parametrize(
    ("spoil", "told"),
    [
        (lambda build: (build / MANIFEST).write_text((build / MANIFEST).read_text()[:90]), "(manifest.json: "),
        (lambda build: (build / "prompt.json").unlink(), "(prompt.json: No such file or directory)"),
        (lambda build: (build / "config.json").write_bytes((build / "config.json").read_bytes().swapcase()),
         "(config.json: its bytes have changed since it was built)"),
        (lambda build: Store(build.parent.parent).evict(build), "were evicted from "),
    ],
)  # fmt: skip
def test_a_build_that_is_not_whole_is_told(
    ran: Ran, tmp_path: Path, capsys: pytest.CaptureFixture[str], spoil: Any, told: str
) -> None:
    store = tmp_path / "store"
    spoil(copied(ran, "prompt_rag/gptq", store))
    asked = [str(ran[1]), "--cell", "prompt_rag/gptq", "--to", str(tmp_path / "out"), "--store", str(store)]
    assert main(asked) == 2
    err = capsys.readouterr().err
    assert told in err
    *_, before, command, last = err.splitlines()
    assert command.startswith("  python -m harness ")
    assert _override("store", str(store)) in command, "all that stands there is taken over"
    assert before.startswith(f"  rm -r {store}/quantize/"), "a grid whose measurements stand looks at it no closer"
    assert last == "and export from the run that it makes"
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("writable", [True, False])
def test_weights_stay_while_they_are_copied(
    ran: Ran, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], writable: bool
) -> None:
    """As far as their store may be written; what goes from another is told."""
    store = Store(tmp_path / "store")
    build = copied(ran, "lora/fp16", store.root)
    os.utime(build / MANIFEST, (0, 0))
    used = []

    def lay_out(*_: Any) -> None:
        used.append((build / MANIFEST).stat().st_mtime > 0)
        collect(store, 0)
        raise UserError("copied") if build.is_dir() else FileNotFoundError(build)

    def refused(*_: Any) -> None:
        raise PermissionError

    monkeypatch.setattr("harness.export.__main__.lay_out", lay_out)
    if not writable:
        monkeypatch.setattr(Store, "hold", refused)
    asked = [str(ran[1]), "--cell", "lora/fp16", "--to", str(tmp_path / "out"), "--store", str(store.root)]
    assert (main(asked), used, build.is_dir()) == (2, [writable], writable)
    assert ("harness: copied\n" if writable else f"are not in the store {store.root}") in capsys.readouterr().err


def test_mistakes_are_told_with_their_mends(ran: Ran, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def says(*arguments: str, run: Path = ran[1]) -> str:
        assert main([str(run), "--to", str(tmp_path / "out"), *arguments]) == 2
        return capsys.readouterr().err

    assert "no such cell in" in (err := says("--cell", "lora/fp15"))
    assert "did you mean lora/fp16?" in err
    assert "No recommendation" in (err := says())
    assert "name a cell with --cell; there is lora/fp16, lora/gptq" in err
    assert "not a run folder" in says(run=tmp_path)
    assert "--check-rows -5: must be 0 or more" in says("--check-rows", "-5")
    failed = records.ended("lora", "awq", Status.FAILED, "out of memory")
    ledger.write_record(tmp_path / "run", failed)
    assert "the cell failed (out of memory)" in says("--cell", "lora/awq", run=tmp_path / "run")
    ledger.write_cells(tmp_path / "run", records.ids())
    assert "14 cells have not ended" in says(run=tmp_path / "run")
    ledger.write_record(tmp_path / "scored", records.record("lora", "int8", records.rows("lora", "int8", 2)))
    for more, why in (((), "so nothing can be checked; keep"), (("--check-rows", "0"), "the weights of")):
        assert why in says("--cell", "lora/int8", *more, run=tmp_path / "scored")
    assert not (tmp_path / "out").exists()


def test_best_is_the_recommended_cell(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    cells, made = records.grid()
    ledger.write_cells(tmp_path, [*made, f"{cells[0].id}/curve=0.5"])  # a side cell that has not ended is not judged
    for r in cells:
        ledger.write_record(tmp_path, r)
        ledger.write_rows(tmp_path, r, made[r.id])
    assert main([str(tmp_path), "--to", str(tmp_path / "out")]) == 2, "made-up records have no builds"
    assert "the weights of smollm2_135m/lora/" in capsys.readouterr().err


@pytest.mark.parametrize("text", ["store: [1, 2\n", "- a\n", "store: ${nowhere}\n"])
def test_a_spoiled_configuration_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str], text: str) -> None:
    one = records.record("lora", "int8", records.rows("lora", "int8", 2))
    ledger.write_record(tmp_path, one)
    (tmp_path / "config.yaml").write_text(text)
    assert main([str(tmp_path), "--cell", one.id, "--to", str(tmp_path / "out"), "--check-rows", "0"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"harness: {tmp_path}/config.yaml: ")
    assert line.endswith("; give --store DIR")


@pytest.mark.parametrize("of", ["seeds", "suites"])
def test_best_is_no_one_of_several_cells_judged_together(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], of: str
) -> None:
    """What was recommended is their mean; any of them may be far from it."""
    for adaptation, shares in (("prompt_rag", (0.7, 0.7, 0.7)), ("lora", (0.45, 1.0, 1.0))):
        for n, share in enumerate(shares):
            rows = [{**r, "scores": dict.fromkeys(r["scores"], int(i < share * 96))}
                    for i, r in enumerate(records.rows(adaptation, "fp16"))]  # fmt: skip
            r = records.record(adaptation, "fp16", rows)
            if of == "suites":
                config = {**r.config, "suite": {**r.config["suite"], "name": f"s{n}"}}
                r = replace(r, id=f"m/{adaptation}/fp16/s{n}", suite=f"s{n}", config=config)
            elif n:
                r = replace(r, id=f"{r.id}/seed{n}", seed=n)
            ledger.write_record(tmp_path, r)
            ledger.write_rows(tmp_path, r, rows)
    assert main([str(tmp_path), "--to", str(tmp_path / "out")]) == 2
    err = capsys.readouterr().err
    assert "recommends 3 cells of several seeds or suites" in err
    seeds = "lora/fp16 (46%), 'lora/fp16 seed1' (100%), 'lora/fp16 seed2' (100%)"
    suites = "m/lora/fp16/s0 (46%), m/lora/fp16/s1 (100%), m/lora/fp16/s2 (100%)"
    told = {"seeds": seeds, "suites": suites}[of]
    assert err.endswith(f"name it with --cell: {told}\n")
    for name in shlex.split(re.sub(r" \(\d+%\),?", "", told)):
        assert main([str(tmp_path), "--cell", name, "--to", str(tmp_path / "out")]) == 2, "but for its weights"
        assert "the weights of" in capsys.readouterr().err


def test_what_stands_there_stays_until_the_new_one_is_whole(tmp_path: Path) -> None:
    target = tmp_path / "out"

    def fill(part: Path, text: str = "new") -> bool:
        (part / DEPLOYMENT).write_text(text)
        (part / SUMS).write_text("")
        return text != "bad"

    def breaks(part: Path) -> bool:
        fill(part)
        raise KeyboardInterrupt

    def vanishes(part: Path) -> bool:
        shutil.rmtree(part)
        return True

    assert place(target, False, fill)
    with pytest.raises(UserError, match="replace it with --force"):
        place(target, False, fill)
    with pytest.raises(KeyboardInterrupt):
        place(target, True, breaks)
    assert not place(target, True, lambda part: fill(part, "bad"))
    assert (target / DEPLOYMENT).read_text() == "new"
    assert place(target, True, lambda part: fill(part, "newer"))
    assert (target / DEPLOYMENT).read_text() == "newer"
    with pytest.raises(UserError, match="cannot be put there"):
        place(target, True, vanishes)
    assert (target / DEPLOYMENT).read_text() == "newer", "put back"
    assert [p.name for p in tmp_path.iterdir()] == ["out"]
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/thesis.txt").write_text("years of work")
    with pytest.raises(UserError, match="something that is no export"):
        place(tmp_path / "mine", True, fill)
    with pytest.raises(UserError, match="cannot be written"):
        place(tmp_path / "mine/thesis.txt/out", False, fill)


def test_what_a_killed_export_left_is_taken_away_or_put_back(tmp_path: Path) -> None:
    """But not what one at work holds, in whatever container."""
    stay = {".out.part-00000001", ".out.old-00000001", ".out.old-mine", ".outer.part-00000003"}
    for name in (*stay, ".out.part-00000002", ".out.old-00000002"):
        (tmp_path / name).mkdir()
        for file in (SUMS, DEPLOYMENT):
            (tmp_path / name / file).touch()
    held = os.open(tmp_path / ".out.part-00000001", os.O_RDONLY)
    fcntl.flock(held, fcntl.LOCK_EX)
    with pytest.raises(UserError, match="replace it with --force"):
        place(tmp_path / "out", False, lambda part: True)
    assert {p.name for p in tmp_path.iterdir()} == {"out", *stay}
    os.close(held)

    def fill(part: Path) -> bool:
        with pytest.raises(UserError, match="replace it with --force"):
            place(tmp_path / "out", False, lambda part: True)
        return part.is_dir()

    assert place(tmp_path / "out", True, fill), "another beside it leaves its part alone"


def test_an_export_that_is_told_to_end_leaves_nothing(ran: Ran, tmp_path: Path) -> None:
    code = f"""if True:
        import os, runpy, signal, sys
        from harness.export import folder

        def lay_out(source, out, *_):
            (out / "weights").touch()
            os.kill(os.getpid(), signal.SIGTERM)

        folder.lay_out = lay_out
        sys.argv[1:] = [{str(ran[1])!r}, "--cell", "lora/fp16", "--to", {str(tmp_path / "out")!r}]
        runpy.run_module("harness.export", run_name="__main__")
    """
    done = interpreter(ran[0], "-c", code)
    assert (done.returncode, list(tmp_path.iterdir())) == (143, []), done.stderr


def test_where_no_folder_can_be_put_is_told_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fill(part: Path) -> bool:
        (part / SUMS).write_text("")
        return True

    def never(part: Path) -> bool:
        raise AssertionError(part)

    (tmp_path / "disk").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "disk")
    assert place(tmp_path / "link", False, fill)
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "disk" / SUMS).is_file()
    monkeypatch.chdir(tmp_path / "disk")
    with pytest.raises(UserError, match="no export"):
        place(Path(), False, never)
    monkeypatch.setattr(Path, "is_mount", lambda self: self.name in ("", "disk"))
    for target in (Path("/"), tmp_path / "link"):
        with pytest.raises(UserError, match="a file system of its own"):
            place(target, True, never)


def test_stopping_it_is_no_fault(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def stopped(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("harness.export.__main__.export", stopped)
    assert main([str(tmp_path), "--to", str(tmp_path / "out")]) == 130


@pytest.mark.parametrize(
    ("error", "code", "told"),
    [
        (DoesNotFit("8 rows need 3.1 GiB"), 2, "8 rows need 3.1 GiB; export where the check fits, or without it"),
        (BrokenArtifact("missing keys"), 2, "missing keys; see with `python -m harness.store verify`"),
        (UserError(["one", "two"]), 2, "two\n"),
        (RuntimeError("a fault of ours"), 70, "Traceback"),
    ],
)
def test_what_ends_it_is_never_taken_for_a_verdict(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str],
    error: Exception, code: int, told: str,
) -> None:  # fmt: skip
    """Exit code 1, which is Python's own for an exception, says that the outputs are not those recorded."""

    def ended(*_: Any) -> None:
        raise error

    monkeypatch.setattr("harness.export.__main__.export", ended)
    assert main([str(tmp_path), "--to", str(tmp_path / "out")]) == code
    err = capsys.readouterr().err
    assert told in err
    assert all(line.startswith("harness: ") for line in err.splitlines()) == (code == 2)


STORED = {
    "fp16": {"stored_dtype": "float16", "replaced_modules": 0}, "int8": {"replaced_modules": 210},
    "gptq": {"bits": 4}, "as_is": {"stored_dtype": "as it came (gptq)", "replaced_modules": None},
}  # fmt: skip


@pytest.mark.parametrize(
    ("adaptation", "quantization", "trained", "relation"),
    [
        ("prompt_rag", "fp16", 0, ""), ("prompt_rag", "int8", 0, "quantized"), ("as_is", "gptq", 0, "quantized"),
        ("as_is", "fp16", 0, ""), ("as_is", "as_is", 0, ""), ("lora", "fp16", 9, "finetune"),
        ("lora", "int8", 9, "finetune"),
    ],
)  # fmt: skip
def test_the_card_says_what_became_of_the_base_model(
    adaptation: str, quantization: str, trained: int, relation: str
) -> None:
    one = records.record("prompt_rag", "fp16")
    steps = {
        **one.steps, "adapt": {**one.steps["adapt"], "facts": {"trained_parameters": trained}},
        "quantize": {**one.steps["quantize"], "facts": STORED[quantization]},
    }  # fmt: skip
    model = {"name": "hf", "target": "harness.models.hub.HubModel", "params": {"id": "some/model"}}
    config = {**one.config, "model": model}
    one = replace(one, adaptation=adaptation, quantization=quantization, steps=steps, config=config)
    licence = Licence("acme", "other", "https://acme.org/licence")
    front = card.front_matter(one, "n", (), card.Source("", licence, licence, Checked(0, 0), "", ""))
    told_of = [line.split(": ")[1] for line in front.splitlines() if line.startswith("base_model_relation")]
    assert told_of == ([relation] if relation else [])
    assert "base_model: some/model" in front
    assert "license: other\nlicense_name: acme\nlicense_link: https://acme.org/licence\n" in front


CHECKED_AGAINST = "Whether it took was checked against the unquantized parent (the last rows of the table above)."


@pytest.mark.parametrize(
    ("quantization", "scored", "told"),
    [
        ("gptq", True, CHECKED_AGAINST), ("int8", True, CHECKED_AGAINST), ("fp16", True, "None: plain weights"),
        ("as_is", True, "The checkpoint came quantized; it was not compared with an unquantized parent."),
        ("gptq", False, "was not checked against the unquantized parent, as quality was not measured (left out)."),
    ],
)  # fmt: skip
def test_no_check_against_a_parent_is_claimed_that_was_not_done(
    tmp_path: Path, quantization: str, scored: bool, told: str
) -> None:
    """The parent of a checkpoint that came quantized is itself."""
    one = records.record("prompt_rag", "gptq")
    measured = tuple(m for m in one.measurements if scored or not m.metric.startswith(("quality/", "fidelity/")))
    steps = {**one.steps, "quantize": {**one.steps["quantize"], "facts": STORED[quantization]}}
    not_measured = {} if scored else {"quality": "left out"}
    one = replace(one, quantization=quantization, measurements=measured, steps=steps, not_measured=not_measured)
    config = {"fp16": {}, "int8": {"quant_method": "bitsandbytes"}}.get(quantization, {"quant_method": "gptq"})
    (tmp_path / "config.json").write_text(json.dumps({"quantization_config": config}))
    Recipe("s", (), (), "none", 0).save(tmp_path)
    deployment: dict[str, Any] = {"served_as": "x", "classes": [], "sampling": None, "constrained": False, "stop": [],
                                  "dtype": {"cpu": "float32"}}  # fmt: skip
    licence = Licence()
    card.write(tmp_path, one, deployment, card.Source("", licence, licence, Checked(0, 0), "", ""))
    text = (tmp_path / "README.md").read_text()
    compared = told == CHECKED_AGAINST
    assert told in text.partition("## Quantization\n")[2].partition("\n## ")[0]
    assert (CHECKED_AGAINST in text, "Perplexity against the unquantized parent" in text) == (compared, compared)
    assert ("Same next token" in text) == compared


def test_a_folder_called_as_a_name_of_the_hub_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def of(content: str | None) -> str:
        one = records.record("lora", "fp16")
        steps = {**one.steps, "base": {**one.steps["base"], "preimage": {"content": content}}}
        model = {"name": "hf", "target": "harness.models.hub.HubModel", "params": {"id": "models/llama"}}
        return hub_name(replace(one, steps=steps, config={**one.config, "model": model}))

    monkeypatch.chdir(tmp_path)
    assert (of("0123456789abcdef"), of("0" * 40), of(None)) == ("", "models/llama", "models/llama")
    (tmp_path / "models/llama").mkdir(parents=True)
    assert (of("0123456789abcdef"), of("0" * 40), of(None)) == ("", "models/llama", "")


@pytest.mark.parametrize("method", ["bm25", "none"])
@pytest.mark.parametrize("top_k", [1, 3])
def test_the_folders_recipe_asks_as_the_harness_does(tmp_path: Path, method: str, top_k: int) -> None:
    data = load_suite(cell("suite=support_tone").suite)
    recipe = Recipe("Be kind.", (("Hi?", "Hello."),), data.knowledge, method, top_k, "Email")
    recipe.save(tmp_path)
    save(method, data.knowledge, tmp_path / "retrieval")
    shutil.copy(resource("reports") / "deployable/recipe.py", tmp_path)
    messages = ["", "?", "zebra quux", *(str(r["message"]) for r in data.evaluation)]
    code = "import json, recipe, sys; print(json.dumps([recipe.messages(m) for m in json.load(sys.stdin)]))"
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, input=json.dumps(messages), capture_output=True,
                          text=True, check=True)  # fmt: skip
    prompter = Prompter(recipe)
    asked = json.loads(done.stdout)
    assert asked == [prompter(m) for m in messages]
    assert [chat[-1]["content"] for chat in asked[:3]] == messages[:3], "no facts where there are none"
    assert ("Facts:" in done.stdout) == (method == "bm25")


KNOBS = ("adaptation=lora", "adaptation.rank=8", "profile=standard", "suite.eval_rows=7", "engine.top_p=0.5")


@pytest.mark.parametrize("knobs", [("adaptation=prompt_rag",), KNOBS, ("quantization=gptq", "quantization.bits=8")])
def test_the_command_makes_the_same_cell_again(knobs: tuple[str, ...]) -> None:
    wanted = cell(*knobs)
    record = replace(records.record("lora", "fp16"), config=plain(wanted), profile=_config(knobs)["profile"]["name"])
    arguments = shlex.split(command_again(record) or "")[3:]
    again = cell(*arguments)
    assert digest(plain(again)) == digest(plain(wanted))
    assert isinstance(again, Cell)
    assert not misspelt(arguments, ROOT / "conf")


@pytest.mark.parametrize("odd", ['It\'s "ours": {x}, [y]=$z \\ & co', "a\\'b\\\\", "null", "ż ó\tł"])
def test_a_command_quotes_what_a_shell_or_hydra_would_read_otherwise(odd: str) -> None:
    wanted = cell()
    suite = replace(wanted.suite, params={**wanted.suite.params, "system": odd})
    record = replace(records.record("lora", "fp16"), config=plain(replace(wanted, suite=suite)), profile="quick")
    assert cell(*shlex.split(command_again(record) or "")[3:]).suite.params["system"] == odd


@pytest.mark.parametrize(
    ("quantization", "command"),
    [
        ({}, "vllm serve . --served-model-name x --dtype float16"),
        ({"quant_method": "gptq"}, "vllm serve . --served-model-name x"),
        ({"quant_method": "awq"}, "vllm serve . --served-model-name x"),
        ({"quant_method": "bitsandbytes", "load_in_8bit": True}, "vllm serve . --served-model-name x"),
        ({"quant_method": "torchao"},
         "vllm serve . --served-model-name x --quantization torchao --safetensors-load-strategy torchao"),
        ({"quant_method": "of-tomorrow"}, ""),
    ],
)  # fmt: skip
def test_no_more_is_claimed_of_vllm_than_is_known(quantization: dict[str, Any], command: str) -> None:
    found = vllm(quantization, (), "x", "float16")
    assert found.command == command
    assert found.note
    assert not vllm(quantization, ("a", "b"), "x", "float16").command


def test_an_answer_may_end_at_a_stop_text_and_nowhere_else() -> None:
    row = {"id": "1", "output": "Yes.", "tokens": 2, "finished": True}
    assert not _parted([row], [Completion("Yes.", 2, True)], [])
    assert not _parted([row], [Completion("Yes.\n\nQ: what", 9, False)], ["Q:", "\n\n"]), "cut off at the first"
    assert _parted([row], [Completion("Yes.\n\nQ: what", 9, False)], ["Q:"])
    (line,) = _parted([row], [Completion("Yet.", 2, True)], ["\n\n"])
    assert "row 1: parts at character 2: recorded …'Yes.'…, now …'Yet.'…" in line
    assert "character 4" in _parted([row], [Completion("Yes. And", 2, True)], [])[0]


THINKS = (
    "{% for m in messages %}[{{ m.role }}]{{ m.content }}{% endfor %}{{ '(hm)(/hm)' if enable_thinking is false }}\n"
)
NO_SYSTEM = (
    "{% for m in messages %}{% if m.role == 'system' %}{{ raise_exception('no') }}{% endif %}{{ m.content }}"
    "{% endfor %}{{ '>' if add_generation_prompt }}"
)
SPACED = (
    "{% for m in messages %}{{ ('\\n  a:' if m.role == 'assistant' else '') + m.content }}{% endfor %}{{ '' }}\n  \n"
)


@pytest.mark.parametrize("name", [*TEMPLATES, "thinks", "no_system", "spaced", "none"])
@pytest.mark.parametrize("examples", [(), (("a", "b"),)])
def test_any_program_renders_the_folder_as_it_was_scored(
    name: str, examples: tuple[tuple[str, str], ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the tokenizer's own template alone, on any day, with and without one in the tokenizer's configuration."""
    shutil.copy(resource("reports") / "deployable/recipe.py", tmp_path)
    Recipe("Be kind.\n\nBe brief.", examples, (), "none", 0).save(tmp_path)
    own = templated({**TEMPLATES, "thinks": THINKS, "no_system": NO_SYSTEM, "spaced": SPACED}.get(name, ""))
    own.chat_template = own.chat_template or None
    own.save_pretrained(tmp_path)
    config, file = tmp_path / "tokenizer_config.json", tmp_path / "chat_template.jinja"
    if own.chat_template:  # as older versions of transformers kept it
        config.write_text(json.dumps({**json.loads(config.read_text()), "chat_template": own.chat_template}))
        file.unlink()
    scored = render(own, load_prompter(tmp_path)("Why?"))
    assert "Be kind." in scored
    prompt_as_scored(tmp_path)
    assert "chat_template" not in json.loads(config.read_text())
    on(datetime(2031, 1, 2), monkeypatch)
    served = AutoTokenizer.from_pretrained(str(tmp_path))
    assert runpy.run_path(str(tmp_path / "recipe.py"))["render"](served, "Why?") == scored
    assert render(served, load_prompter(tmp_path)("Why?")) == scored, "the harness may take the folder for a model"
    before = file.read_text()
    prompt_as_scored(tmp_path)
    again = AutoTokenizer.from_pretrained(str(tmp_path))
    assert runpy.run_path(str(tmp_path / "recipe.py"))["render"](again, "Why?") == scored, before


def test_a_program_may_ask_a_served_model_to_think(tmp_path: Path) -> None:
    own = tokenizer()
    own.chat_template = THINKS
    chat = [{"role": "user", "content": "Why?"}]
    own.chat_template = template_as_scored(own, chat)
    assert own.apply_chat_template(chat, tokenize=False).endswith("Why?(hm)(/hm)")
    assert own.apply_chat_template(chat, tokenize=False, enable_thinking=True).endswith("Why?")


def test_a_server_is_told_where_answers_end_and_is_cut_there(tmp_path: Path) -> None:
    for name in ("example.py", "recipe.py"):
        shutil.copy(resource("reports") / "deployable" / name, tmp_path)
    Recipe("s", (), (), "none", 0).save(tmp_path)
    code = """if True:
        import io, json, urllib.request

        def reply(request):
            print(request.data.decode())
            made = {"choices": [{"message": {"content": "Yes.END no"}}]}
            return io.BytesIO(json.dumps(made).encode())

        urllib.request.urlopen = reply
        import example
        print(example.ask("http://here", "Is it?", None))
    """
    for ends, answer in (([], "Yes.END no"), (["no", "END"], "Yes.")):
        (tmp_path / DEPLOYMENT).write_text(json.dumps({"stop": ends, "max_new_tokens": 4, "sampling": None}))
        done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True)
        sent, printed = done.stdout.splitlines()
        assert (json.loads(sent).get("stop", []), printed) == (ends, answer)


def test_answers_are_drawn_again_and_end_where_the_task_says(tmp_path: Path) -> None:
    """By the key of its row, whichever others are asked. Drawn from random
    weights, answers meet the stop texts; the likeliest is of new lines alone."""
    suite = tmp_path / "stopping"
    shutil.copytree(ROOT / "suites/support_tone", suite)
    task = suite / "task.yaml"
    task.write_text(task.read_text().replace("until: []", 'until: ["e", "a", "i"]'))
    done = harness(tmp_path, *TINY, f"suite.folder={suite}", "engine.temperature=3.0", "seed=1")
    assert done.returncode == 0, done.stdout + done.stderr
    run, out = run_folder(done), tmp_path / "out"
    (record,) = ledger.read_records(run)
    rows = ledger.read_rows(run, record)
    assert any(r["finished"] for r in rows), "some were cut"
    assert not any(set("eai") & set(r["output"]) for r in rows)
    assert len({r["output"] for r in rows}) > 1, "not one answer for all"
    assert main([str(run), "--cell", record.id, "--to", str(out), "--check-rows", "3"]) == 0
    text = (out / "README.md").read_text()
    assert "Answers were drawn (temperature 3.0, top_p 1.0)" in text
    assert "in a batch of their own" in text
    assert "stop texts in `deployment.json`" in text
    decoding = json.loads((out / "generation_config.json").read_text())
    drawing = {"do_sample": True, "temperature": 3.0, "top_p": 1.0, "top_k": 0}
    assert {k: v for k, v in decoding.items() if not k.endswith("token_id")} == drawing
    deployment = json.loads((out / DEPLOYMENT).read_text())
    assert deployment["stop"] == ["e", "a", "i"]
    (out / "generation_config.json").write_text(json.dumps({"eos_token_id": decoding["eos_token_id"]}))
    (out / DEPLOYMENT).write_text(json.dumps({**deployment, "stop": ["\n"]}))
    assert answered(out, rows[0]["message"]) == "\n", "cut at the first"
    task.write_text(task.read_text().replace('  until: ["e", "a", "i"]\n', ""))
    assert stop_texts(record) == ["\n\n"], "lm-eval's own, where a task names none"
    shutil.rmtree(suite)
    with pytest.raises(UserError, match="no folder"):
        stop_texts(record)


def test_the_check_answers_as_quality_was_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a CPU 4 bits are then unpacked first: by their kernel a real model gives other words. And an answer ends where
    the task ends it, be that at a special token, which no text holds."""
    asked: list[dict[str, Any]] = []

    class Engine:
        def start(self, folder: Path, context: Any, **how: Any) -> Any:
            asked.append(how)
            return SimpleNamespace(generate=lambda prompts, limit, **how: asked.append(how))

    monkeypatch.setattr(module, "instantiate", lambda component: Engine())
    one = records.record("lora", "gptq")
    engine = {"name": "eager", "target": "", "params": {}}
    suite = {**one.config["suite"], "params": {"max_new_tokens": 8}}
    one = replace(one, config={**one.config, "engine": engine, "suite": suite})
    module._session(Path("folder"), one, ["<|im_end|>"])([{"id": "a", "prompt": "a prompt"}])
    assert asked == [{"quality": True, "output": ""}, {"ends": ["<|im_end|>"], "keys": keys_of(["a"])}]


def test_differences_come_with_what_is_expected() -> None:
    parted = Checked(4, 48, (), ("row 1: parts",), 1, elsewhere=("dtype float16 there, float32 here",))
    half = records.record("lora", "fp16", environment={**records.ENVIRONMENT, "dtype": "float16"})
    drawing = {**half.config, "engine": {"name": "eager", "target": "", "params": {"temperature": 0.7}}}
    assert "near ties between two tokens fall either way" in told(parted, half)
    assert "not where they were recorded (dtype float16 there, float32 here)" in told(parted, half)
    assert "drawn tokens follow from the seed" in told(parted, replace(half, config=drawing))
    assert "the artifact itself is suspect" in told(replace(parted, elsewhere=()), records.record("lora", "fp16"))
    alone = told(replace(parted, answers=()), half)
    assert "1 of the first parted in a batch of their own" in alone
    assert "one at a time, or by another program, some answers take other words" in alone
    scored = {**half.steps, "quality": {"facts": {"unpacked": "4-bit weights of 14 layers unpacked"}}}
    assert "a 4-bit kernel" in told(replace(parted, answers=()), replace(half, steps=scored))
    assert "a 4-bit kernel" not in alone


def test_the_licence_of_the_rows_is_what_the_suites_card_says() -> None:
    suite = records.record("lora", "fp16")
    folder = {"params": {"primary": "good", "folder": "support_tone"}}
    assert of_data(replace(suite, config={**suite.config, "suite": folder})).name == "Apache-2.0."


COMMIT = "a" * 40
NOBODYS = "The weights are random numbers that the harness made: nobody else's licence is on them."
AT = f"https://huggingface.co/org/name/blob/{COMMIT}/LICENSE"


@pytest.mark.parametrize(
    ("facts", "name", "licence"),
    [
        ({"commit": COMMIT, **Stated("Apache-2.0", "apache-2.0").facts()}, "org/name",
         Licence("Apache-2.0", "apache-2.0", "", "Apache-2.0, as its model card says.")),
        ({"commit": COMMIT, **Stated("acme", "other", "LICENSE").facts()}, "org/name",
         Licence("acme", "other", AT, f"acme ({AT}), as its model card says.")),
        (Stated("acme", "other", "LICENSE").facts(), "org/name",
         Licence("acme", "other", AT, f"acme ({AT}), as the metadata of hf say.")),
        ({"commit": None, **Stated().facts()}, "a folder", Licence(told="Not known: its model card names no licence.")),
        ({"source": "own.gguf", **Stated("mit", "mit").facts()}, "",
         Licence("mit", "mit", "", "mit, as the metadata of own.gguf say.")),
        ({"source": "own.gguf", **Stated().facts()}, "", Licence(told="Not known: own.gguf names no licence.")),
        ({}, "org/name",
         Licence(told="Not known here: the build of hf tells no licence; see https://huggingface.co/org/name.")),
        ({"source": RANDOM}, "", Licence(told=NOBODYS)),
        ({}, "a folder", Licence(told="Not known here: the build of hf tells no licence; ask who made it.")),
    ],
)  # fmt: skip
def test_the_licence_is_that_of_what_was_built(facts: dict[str, Any], name: str, licence: Licence) -> None:
    """A branch goes on, and its next commit may come under another."""
    one = records.record("lora", "fp16")
    base = {**one.steps["base"], "preimage": {"content": COMMIT}, "facts": facts}
    model = {"name": "hf", "target": "own.Model", "params": {"id": name}}
    assert of_model(replace(one, model="hf", steps={"base": base}, config={**one.config, "model": model})) == licence


@pytest.mark.parametrize(
    ("stored", "method", "dtype"),
    [
        ("bfloat16", None, "bfloat16"), ("float16", None, "float16"), ("float32", None, "float16"),
        ("bfloat16", "gptq", "bfloat16"), ("bfloat16", "awq", "float16"), ("float16", "torchao", "bfloat16"),
    ],
)  # fmt: skip
def test_another_device_than_the_measured_computes_as_the_harness_would(
    tmp_path: Path, stored: str, method: str | None, dtype: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A model whose activations leave the range of float16 answers nonsense in it, and so does Gemma 2 without the cap
    of its attention, which transformers leaves out in any but the eager one."""
    source, out = tmp_path / "build", tmp_path / "out"
    source.mkdir()
    out.mkdir()
    quantized = {"quantization_config": {"quant_method": method}} if method else {}
    text = {"dtype": stored, **({} if method else {"attn_logit_softcapping": 50.0})}
    (source / "config.json").write_text(json.dumps({"text_config": text, **quantized}))
    Recipe("s", (), (), "none", 0).save(source)
    one = records.record("lora", "int8")
    config = {**one.config, "suite": {**one.config["suite"], "params": {"max_new_tokens": 8}}}
    made: Any = lay_out(source, out, replace(one, config=config), "name", "a-base", ())
    assert made["dtype"] == {"cpu": "float32", "cuda": dtype}
    eager = {} if method else {"attn_implementation": "eager"}
    assert made["loading"] == eager
    (out / DEPLOYMENT).write_text(json.dumps(made))
    asked: list[dict[str, Any]] = []
    monkeypatch.setattr("transformers.AutoTokenizer.from_pretrained", lambda folder: None)

    def loaded(folder: str, **options: Any) -> Any:
        asked.append(options)
        return SimpleNamespace(eval=lambda: None)

    monkeypatch.setattr("transformers.AutoModelForCausalLM.from_pretrained", loaded)
    monkeypatch.setitem(sys.modules, "recipe", SimpleNamespace(messages=None, render=None))
    runpy.run_path(str(out / "example.py"))["load"]()
    assert {k: v for k, v in asked[0].items() if k.startswith("attn")} == eager


def test_hostile_names_stay_text_in_the_card(tmp_path: Path) -> None:
    from huggingface_hub import ModelCard

    nasty = HOSTILE.encode("utf-8", "replace").decode()
    source = tmp_path / "build"
    source.mkdir()
    (source / "config.json").write_text(json.dumps({"_name_or_path": "/secret/place", "architectures": ["X"]}))
    Recipe("s", (), (), "none", 0).save(source)
    one = records.record("lora", "int8")
    suite = {**one.config["suite"], "params": {"primary": "good", "max_new_tokens": 8, "folder": "none"}}
    model = {"name": nasty, "target": "x", "params": {"note": nasty, "id": nasty}}
    engine = {"name": nasty, "target": "x", "params": {}}
    one = replace(one, model=nasty, suite=nasty, not_measured={nasty: nasty},
                  config={**one.config, "suite": suite, "model": model, "engine": engine})  # fmt: skip
    out = tmp_path / "out"
    out.mkdir()
    deployment = lay_out(source, out, one, "name", "a-base", ())
    licence = Licence(told=nasty)
    card.write(out, one, deployment, card.Source(nasty, licence, licence, Checked(0, 0, why=nasty), "", ""))
    text = (out / "README.md").read_text(encoding="utf-8")
    body = text.split("---\n")[2]
    assert re.search(r"(?<!\\)<(script|img)", re.sub(r"`[^`\n]*`", "", body)) is None, "but as code"
    assert "\u202e" not in body
    assert ModelCard.load(out / "README.md").data.tags[-1] == nasty, "YAML holds it as a string"
    assert json.loads((out / "config.json").read_text())["_name_or_path"] == "a-base"
    assert of_data(one).name == ""
