"""Carries out one step in the process it is called in: builds go to the store, measurements too."""

from __future__ import annotations

import contextlib
import faulthandler
import fcntl
import json
import math
import os
import shutil
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from harness.adapt.lora import ADAPTER
from harness.components import ask, instantiate
from harness.directory import config_of, in_range_of, stored_dtype, weight_files
from harness.environment import detect, give_memory_back
from harness.errors import BrokenArtifact, UserError
from harness.licences import TEXTS
from harness.prompt import RECIPE, load_prompter, render, short_chat
from harness.retrieval import VECTORS
from harness.store import Store, read_manifest, write_json
from harness.suite import load as load_suite
from harness.suite import timing_digest
from harness.types import (
    WAITS,
    Component,
    Context,
    Json,
    Measurement,
    Progress,
    Step,
    StepKind,
    SuiteData,
    digest,
    measurements_from_json,
    plain,
)

MEASUREMENTS = "measurements.json"
PATIENCE_S = 2.0  # for which a wait is not told
BESIDE = ("*processor_config.json", *TEXTS)  # by which others feed a model that sees or hears, and its licence
CARRIED = (RECIPE, VECTORS, "reference.json", "chat_template.jinja", "generation_config.json", *BESIDE)


def read_measurements(folder: Path) -> tuple[Measurement, ...]:
    """The measurements that a quality or latency step left."""
    return measurements_from_json(json.loads((folder / MEASUREMENTS).read_text(encoding="utf-8")))


def carry_out(
    step: Step, parents: list[Step], store: Store, progress: Progress, threads: int, limit_s: float | None = None
) -> None:
    """Does a step's work into the store, unless it is done. Raises what goes wrong; the store stays as it was. Work
    that takes longer than `limit_s`, waiting for others not counted, ends the process with its stack on stderr."""
    environment = detect()
    context = Context(environment.device, environment.dtype, step.seed, progress)
    folders = [store.demand(p) for p in parents]
    set_threads(threads)
    work = {
        StepKind.BASE: _made, StepKind.KERNELS: _made, StepKind.ADAPT: _adapt, StepKind.QUANTIZE: _quantize,
        StepKind.QUALITY: _quality, StepKind.LATENCY: _latency,
    }[step.kind]  # fmt: skip

    waits = threading.Timer(PATIENCE_S, progress, (0.0, WAITS))

    def begun(out: Path) -> Mapping[str, Json]:
        waits.cancel()
        waits.join()  # two never speak at once
        progress(0.0, "")  # from here on it works: it has waited for whoever else builds this, or times
        builds = step.kind in (StepKind.ADAPT, StepKind.QUANTIZE)
        with _limited(limit_s):
            if builds and context.device == "cuda":
                return _repeatable(partial(work, step, folders, out, context), out)
            return work(step, folders, out, context)

    waits.start()
    try:
        with machine(step.exclusive):
            store.build(step, begun, {**plain(environment), "threads": threads})
    finally:
        waits.cancel()
        waits.join()


def _repeatable(work: Callable[[], Mapping[str, Json]], out: Path) -> Mapping[str, Json]:
    """Does a build on a GPU with sums that are added in the same order each time: attention's gradients are else added
    as they come, and one seed trains other weights in each run. Where an operation of a model knows no such order the
    build is made without, in an `out` that is empty again, and its facts say why it will not come out the same."""
    import torch

    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # without it PyTorch holds cuBLAS for unrepeatable
    torch.utils.deterministic.fill_uninitialized_memory = False  # for finding bugs, and slow
    try:
        torch.use_deterministic_algorithms(True)
        return work()
    except RuntimeError as error:
        if "deterministic" not in str(error):
            raise
        torch.use_deterministic_algorithms(False)
        shutil.rmtree(out)
        out.mkdir()
        return {**work(), "not_repeatable": str(error).split(".")[0]}
    finally:
        torch.use_deterministic_algorithms(False)


@contextlib.contextmanager
def _limited(seconds: float | None) -> Iterator[None]:
    """Ends this process after so many seconds, with the stacks of all threads on stderr, be they stuck in a kernel:
    the clock is a thread of its own, which asks no lock of Python's."""
    if seconds is None:
        yield
        return
    faulthandler.dump_traceback_later(seconds, exit=True, file=2)
    try:
        yield
    finally:
        faulthandler.cancel_dump_traceback_later()


def tidy() -> None:
    """Gives back what a step left in memory, and starts the peaks anew, for the next step of this process.

    Libraries keep the exception of an import that failed (gptqmodel that of vLLM), and that keeps each frame it went
    through with all that stood in it: the model that was being loaded, and its keys and values."""
    import gc

    import torch

    for kept in [found for found in gc.get_objects() if issubclass(type(found), BaseException)]:  # asks no proxy
        BaseException.with_traceback(kept, None)  # whatever its class makes of its attributes
    gc.collect()
    give_memory_back()
    if torch.cuda.is_initialized():
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()


@contextlib.contextmanager
def machine(alone: bool) -> Iterator[None]:
    """Holds this machine together with other steps, or alone: a latency is never taken beside the work of another grid
    of this user and temporary folder. Work of others makes a timing noisy, which is told. All pass a turnstile: the
    system lets sharers in past one who waits to be alone, who would wait for as long as their work overlaps."""
    lock = Path(tempfile.gettempdir()) / f"harness-{os.getuid()}.lock"
    with lock.open("w") as file:  # both are freed by the system if the process dies
        with lock.with_suffix(".turn").open("w") as turn:
            fcntl.flock(turn, fcntl.LOCK_EX)
            fcntl.flock(file, fcntl.LOCK_EX if alone else fcntl.LOCK_SH)
        yield


def set_threads(threads: int) -> None:
    """Has PyTorch compute on so many threads."""
    import torch

    torch.set_num_threads(threads)
    os.environ["TOKENIZERS_PARALLELISM"] = "false"


def _data(step: Step) -> SuiteData:
    """The rows of a step's suite. Raises `BrokenArtifact` where they are no more those that its key was made from."""
    assert step.suite is not None, f"a {step.kind} step without its suite"
    data = load_suite(step.suite)
    if step.kind is StepKind.LATENCY:
        found = {"rows": timing_digest(data, step.engine)}
    else:
        told = digest(data.instructions)
        found = {"data": data.training_digest, "rows": data.evaluation_digest, "instructions": told}
    _as_planned(step, found, f"the suite {step.suite.name}", " (its scorers must leave its folder as it is)")
    return data


def _as_planned(step: Step, found: Mapping[str, Json], what: str, mend: str = "") -> None:
    """Raises `BrokenArtifact` where an input is another than the step's preimage names, under whose key it would be
    stored: it was edited since."""
    if any(step.preimage.get(name, value) != value for name, value in found.items()):
        raise BrokenArtifact(f"{what} changed since this grid was planned; run again{mend}")


def _made(step: Step, parents: list[Path], out: Path, context: Context) -> Mapping[str, Json]:
    """What needs nothing but the builds it follows from, if any. Raises `BrokenArtifact` where what a model was made
    of, the Hub's commit or files as they are afterwards, is not what the step's key was made from."""
    made = instantiate(step.component)
    facts: Mapping[str, Json] = made(*parents, out, context)
    if hasattr(made, "fingerprint"):
        found = facts.get("commit") or made.fingerprint()
        _as_planned(step, {"content": found}, f"the model {step.component.name}")
    return facts


def able(component: Component, model: Path) -> Any:
    """The object of a component that works on the model of a folder. Raises `UserError` where it cannot, which the plan
    told before of models that say what they are before they are built."""
    if why := ask(component, "unable", config_of(model)):
        raise UserError(why)
    return instantiate(component)


def _carry(source: Path, out: Path, *patterns: str) -> None:
    """Copies the files of these patterns from one build to the next, where that has not written its own."""
    for path in (path for pattern in patterns for path in source.glob(pattern)):
        if not (out / path.name).exists():
            shutil.copyfile(path, out / path.name)


def _adapt(step: Step, parents: list[Path], out: Path, context: Context) -> Mapping[str, Json]:
    """An adapted model with its reference answers, computed in the range of what its base is stored in: training stores
    float32. Raises `BrokenArtifact` where they are no numbers."""
    from harness.lengths import demand_room
    from harness.loading import load
    from harness.measure.fidelity import write_reference

    data, stored = _data(step), stored_dtype(parents[0])
    facts: Mapping[str, Json] = able(step.component, parents[0])(parents[0], data, out, context)
    _carry(parents[0], out, *BESIDE)
    context.progress(0.97, "reference answers")
    made = load(out, in_range_of(stored, context))
    if not facts.get("trained_parameters"):  # training looked before it began
        demand_room(made.model, made.tokenizer, load_prompter(out), data, 0 if made.classes else data.max_new_tokens)
    loss = write_reference(made.model, made.tokenizer, out, data)
    if not math.isfinite(loss):
        dtype = made.proof["dtype"]
        raise BrokenArtifact(
            f"the adapted model's own answers are no numbers in {dtype}, so nothing can be compared with them: either "
            f"training broke it (lower adaptation.learning_rate), or its activations leave the range of {dtype} (of "
            "a base that is stored in bfloat16 they are computed in that)"
        )
    return {**facts, "base_dtype": stored}


def _quantize(step: Step, parents: list[Path], out: Path, context: Context) -> Mapping[str, Json]:
    from transformers import AutoConfig, AutoTokenizer

    from harness.lengths import demand_context

    model, data = parents[0], _data(step)
    stored = read_manifest(model)["facts"].get("base_dtype") or stored_dtype(model)
    context = in_range_of(stored, context)
    tokenizer = AutoTokenizer.from_pretrained(str(model))
    quantizer = able(step.component, model)
    rows = data.train[: getattr(quantizer, "calibration_rows", 0)]
    calibration = [render(tokenizer, short_chat(data, r), reply=r[data.reply_field]) for r in rows]
    read = tokenizer(calibration, add_special_tokens=False).input_ids if calibration else []
    demand_context(AutoConfig.from_pretrained(str(model)), tokenizer, rows, read, bare="calibration")
    facts: Mapping[str, Json] = quantizer(model, calibration, out, context)
    tokenizer.save_pretrained(str(out))
    _carry(model, out, *CARRIED)
    if (model / ADAPTER).is_dir():
        shutil.copytree(model / ADAPTER, out / ADAPTER)
    return {**facts, "weights_disk_bytes": sum(f.stat().st_size for f in weight_files(out))}


def _session(step: Step, folder: Path, data: SuiteData, context: Context) -> Any:
    assert step.engine is not None, f"a {step.kind} step without its engine"
    return instantiate(step.engine).start(folder, context, step.kind is StepKind.QUALITY, data.output)


def _quality(step: Step, parents: list[Path], out: Path, context: Context) -> Mapping[str, Json]:
    from harness.measure.quality import measure

    parent, folder, *_ = parents
    data = _data(step)
    assert step.suite is not None
    session = _session(step, folder, data, context)
    part = step.component.params.get("part")
    measured, facts = measure(session, parent, folder, data, step.suite.params["task"], context, out, part)
    write_json(out / MEASUREMENTS, plain(measured))
    return {**session.loaded.proof, **facts, "scoring_digest": data.scoring_digest}


def _unpacked(session: Any, folder: Path, over: Callable[[Any], Any], context: Context) -> Any:
    """The session, or where its weights are packed another of the same artifact whose are not: PEFT needs plain layers
    beside a base, and what is compared must differ in the adapter alone."""
    from harness.loading import load

    return over(load(folder, context, packs=False)) if session.loaded.proof.get("packed_layers") else session


def _latency(step: Step, parents: list[Path], out: Path, context: Context) -> Mapping[str, Json]:
    from harness.loading import load
    from harness.measure import adapters
    from harness.measure.latency import measure, prompts_of

    folder, knobs, data = parents[0], step.component.params, _data(step)
    session = _session(step, folder, data, context)
    measured, facts = measure(session, folder, data, knobs, context)
    base = next((p for p in parents if p.parent.name == StepKind.BASE), None)
    if base and knobs.get("round", 1) == 1:
        try:
            context.progress(0.98, f"{knobs['adapters']} adapters")
            assert step.engine is not None
            engine = instantiate(step.engine)
            prompts = prompts_of(session, folder, data, knobs["requests"])
            over = partial(engine.over, context=context, output=data.output)
            merged = _unpacked(session, folder, over, context)
            measured += adapters.measure(
                load(base, context, packs=False), folder / ADAPTER, merged, over, prompts, knobs
            )
            facts = {**facts, "adapters": "merged and beside its base alike with plain, unpacked weights"}
        except Exception as error:  # beside what was timed already, which it must not take along
            facts = {**facts, "adapters": f"not timed: {type(error).__name__}: {error}"}
    write_json(out / MEASUREMENTS, plain(measured))
    return {**session.loaded.proof, **facts}
