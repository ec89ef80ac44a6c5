"""A cell becomes a folder that answers by itself as it was recorded to; what would not is refused."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoTokenizer

import harness.export.check as module
from harness import ledger
from harness.errors import UserError
from harness.export.__main__ import main
from harness.export.choice import _override
from harness.export.folder import DEPLOYMENT, SUMS, checksums, stop_texts
from harness.store import MANIFEST, Store, described, sealed, write_json
from harness.store.upkeep import collect
from harness.types import Completion, RunRecord, Status
from tests import records
from tests.grids import ROOT, TINY, WARM, environment, harness, interpreter, linked, run_folder

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
    from transformers import AutoModelForCausalLM

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
    assert stop_texts(record) == ["e", "a", "i"]

    def telling(*without: str) -> RunRecord:
        facts = {k: v for k, v in record.steps["quality"]["facts"].items() if k not in without}
        return replace(record, steps={**record.steps, "quality": {**record.steps["quality"], "facts": facts}})

    older = telling("ends")
    with pytest.raises(UserError, match=r"/stopping: what this suite scores by changed since this run, and"):
        stop_texts(older)
    untold = telling("ends", "scoring_digest")
    assert stop_texts(untold) == ["\n\n"], "lm-eval's own, where a task names none, of a version that kept no more"
    shutil.rmtree(suite)
    with pytest.raises(UserError, match="no folder"):
        stop_texts(older)
