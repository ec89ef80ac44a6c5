"""The release gate on real checkpoints of SmolLM2-135M with known faults: `gate_real.py FOLDER [RULES [CASE ...]]`.

A LoRA is trained (profile=quick) and its merged weights are the baseline. Candidates are: the same weights; GPTQ
calibrated on random words; the LoRA at half its scale; another model's chat template. Each is a folder that
`harness.check --model` evaluates. Latencies are judged too, so the machine must do nothing else, unless RULES say
otherwise (`answers_only`). With cases (`same`, `gptq`, `halved`, `template`) only those are made and judged. FOLDER
must be new: what was measured in it is not measured again.
"""

from __future__ import annotations

import json
import random
import shutil
import subprocess
import sys
from pathlib import Path

from harness import ledger
from harness.environment import detect
from harness.quantize.gptq import Gptq
from harness.types import Context

WRONG_TEMPLATE = (  # of another family of models
    "{% for m in messages %}{% if m.role == 'user' %}[INST] {{ m.content }} [/INST]"
    "{% else %}{{ m.content }}{% endif %}{% endfor %}"
)
EXPECTED = {"same": 0, "gptq": 1, "halved": 1, "template": 1}


def harness(folder: Path, *arguments: str) -> int:
    """Runs a module of the harness in the folder; returns its exit code."""
    print("$ python -m", *arguments, flush=True)
    return subprocess.run([sys.executable, "-m", *arguments], cwd=folder, check=False).returncode


def only_record(run: Path) -> Path:
    """The build that the one cell of a run was measured of."""
    (record,) = ledger.read_records(run)
    return run.parents[2] / ".harness/store/quantize" / record.steps["quantize"]["key"]


def halved(model: Path, base: Path, out: Path) -> None:
    """The model with half of what it is away from its base: a merged LoRA with half its scale."""
    from safetensors.torch import load_file, save_file

    shutil.copytree(model, out, ignore=shutil.ignore_patterns("manifest.json", "adapter"))
    trained, before = load_file(model / "model.safetensors"), load_file(base / "model.safetensors")
    mixed = {k: ((v.float() + before[k].float()) / 2).to(v.dtype).contiguous() for k, v in trained.items()}
    save_file(mixed, out / "model.safetensors", {"format": "pt"})


def badly_quantized(model: Path, out: Path) -> None:
    """GPTQ that has seen nothing but random words."""
    words = [w for w in (model / "prompt.json").read_text(encoding="utf-8").split() if w.isalpha()]
    rng = random.Random(0)
    texts = [" ".join(rng.choice(words) for _ in range(60)) for _ in range(8)]
    machine = detect()
    out.mkdir()
    context = Context(machine.device, machine.dtype, 0, lambda share, text: None)
    Gptq(calibration_rows=8)(model, texts, out, context)
    for file in model.iterdir():
        if (
            file.is_file()
            and file.name != "manifest.json"
            and not (out / file.name).exists()
            and file.suffix != ".safetensors"
        ):
            shutil.copy2(file, out / file.name)


def main(folder: Path, rules: str = "default", *cases: str) -> int:
    """Makes the checkpoints, runs the gate on each, and prints what came out. Returns how many were not as expected."""
    folder.mkdir(parents=True, exist_ok=True)
    folder = folder.absolute()
    quick = (
        "profile=quick",
        "suite=support_tone",
        "profile.requests=12",
        "profile.output_tokens=32",
        "runner.workers=2",
    )
    harness(folder, "harness", "adaptation=lora", "quantization=fp16", *quick, "outputs=outputs", "sweep_name=lora")
    run = max((folder / "outputs/lora").iterdir())
    (record,) = ledger.read_records(run)
    model, base = only_record(run), folder / ".harness/store/base" / record.steps["base"]["key"]
    made = {name: folder / "checkpoints" / name for name in EXPECTED}
    shutil.rmtree(folder / "checkpoints", ignore_errors=True)
    expected = {name: code for name, code in EXPECTED.items() if name in (cases or EXPECTED)}
    for name in {"same", "template"} & {"same", *expected}:
        shutil.copytree(model, made[name], ignore=shutil.ignore_patterns("manifest.json", "adapter"))
    if "template" in expected:
        (made["template"] / "chat_template.jinja").write_text(WRONG_TEMPLATE, encoding="utf-8")
    if "halved" in expected:
        halved(model, base, made["halved"])
    if "gptq" in expected:
        badly_quantized(model, made["gptq"])
    fresh = ("model=hf", f"model.id={made['same']}", "adaptation=as_is", "quantization=fp16", *quick)
    harness(folder, "harness", *fresh, "outputs=outputs", "sweep_name=baseline")
    baseline = max((folder / "outputs/baseline").iterdir())
    harness(folder, "harness.check", str(baseline), "--save-baseline", "baseline.json")
    shutil.copytree(made["same"], folder / "checkpoints/again")
    candidates = {**made, "same": folder / "checkpoints/again"}
    wrong = 0
    for name, wanted in expected.items():
        own = ("quantization=as_is",) if name == "gptq" else ()
        out = folder / "checks" / name
        against = str(baseline)  # a run folder, so that the page shows the answers before
        code = harness(
            folder,
            "harness.check",
            "--model",
            str(candidates[name]),
            "--baseline",
            against,
            "--out",
            str(out),
            "--rules",
            rules,
            *own,
        )
        found = json.loads((out / "check.json").read_text(encoding="utf-8")) if (out / "check.json").exists() else {}
        print(
            f"{name}: exit {code}, expected {wanted}; {found.get('headline')}; {len(found.get('flips', ()))} flips\n",
            flush=True,
        )
        wrong += code != wanted
    return wrong


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), *sys.argv[2:]))
