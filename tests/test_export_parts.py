"""What an export says of its cell: the card, licences, the command that makes it again, where answers end."""

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
from harness.export.choice import command_again
from harness.export.folder import DEPLOYMENT, SUMS, lay_out, place, prompt_as_scored
from harness.export.licences import Licence, hub_name, of_data, of_model
from harness.export.serving import vllm
from harness.licences import Stated
from harness.measure.quality import keys_of
from harness.models.dummy import RANDOM
from harness.overrides import misspelt
from harness.prompt import Prompter, Recipe, load_prompter, render, template_as_scored
from harness.resources import resource
from harness.retrieval import save
from harness.suite import load as load_suite
from harness.types import Cell, Completion, digest, plain
from tests import records
from tests.cells import _config, cell
from tests.grids import ROOT
from tests.pages import HOSTILE
from tests.test_engine import tokenizer
from tests.test_prompt import TEMPLATES, on, templated


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
    (tmp_path / "disk" / DEPLOYMENT).touch()
    for target in (Path(), tmp_path / "link"):
        with pytest.raises(UserError, match="this runs in it, and it would be replaced; run from another folder"):
            place(target, True, never)
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path / "empty")
    with pytest.raises(UserError, match="this runs in it"):
        place(Path(), False, never)
    monkeypatch.chdir(tmp_path / "disk")
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
    front = card.front_matter(one, "n", (), card.Source("", licence, licence, Checked(0, 0)))
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
    card.write(tmp_path, one, deployment, card.Source("", licence, licence, Checked(0, 0)))
    text = (tmp_path / "README.md").read_text()
    compared = told == CHECKED_AGAINST
    assert told in text.partition("## Quantization\n")[2].partition("\n## ")[0]
    assert (CHECKED_AGAINST in text, "Perplexity against the unquantized parent" in text) == (compared, compared)
    assert ("Same next token" in text) == compared
    assert "| Whole 32-token answer, p95 |" in text
    assert "| Cost per 1,000 requests, full batches of 24 |" in text


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
    save(method, data.knowledge, tmp_path / "retrieval", tmp_path)
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
    card.write(out, one, deployment, card.Source(nasty, licence, licence, Checked(0, 0, why=nasty)))
    text = (out / "README.md").read_text(encoding="utf-8")
    body = text.split("---\n")[2]
    assert re.search(r"(?<!\\)<(script|img)", re.sub(r"`[^`\n]*`", "", body)) is None, "but as code"
    assert "\u202e" not in body
    assert ModelCard.load(out / "README.md").data.tags[-1] == nasty, "YAML holds it as a string"
    assert json.loads((out / "config.json").read_text())["_name_or_path"] == "a-base"
    assert of_data(one).name == ""
