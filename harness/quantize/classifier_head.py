"""Lets a quantizer that knows language models alone quantize a classifier.

Both have the same decoder below their heads, and the head of neither is quantized. So the decoder is shown as a
language model, its head tied to the embeddings, and the classification head is put back into what was saved.
"""

from __future__ import annotations

import contextlib
import json
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from harness.directory import classes_of, weight_files
from harness.store import write_json

CLASSIFIER, LANGUAGE_MODEL = "ForSequenceClassification", "ForCausalLM"
HEAD, LANGUAGE_HEAD = "score.", "lm_head."


@contextlib.contextmanager
def as_language_model(model: Path) -> Iterator[Path]:
    """A model directory whose decoder is to be quantized: the one given, or links to a classifier's files under the
    configuration of a language model."""
    if not classes_of(model):
        yield model
        return
    with tempfile.TemporaryDirectory() as scratch:
        shown = Path(scratch)
        for path in model.iterdir():
            if path.is_file() and path.name != "config.json":
                (shown / path.name).symlink_to(path.absolute())
        config = json.loads((model / "config.json").read_text(encoding="utf-8"))
        names = [name.replace(CLASSIFIER, LANGUAGE_MODEL) for name in config["architectures"]]
        write_json(shown / "config.json", {**config, "architectures": names, "tie_word_embeddings": True})
        yield shown


def put_back(model: Path, out: Path) -> None:
    """Gives the quantized decoder in `out` the head and the names of the classifier `model`; a language model stays as
    it is."""
    if not classes_of(model):
        return
    from safetensors import safe_open
    from safetensors.torch import load_file, save_file

    head: dict[str, Any] = {}
    for path in weight_files(model):
        with safe_open(path, "pt") as file:
            head |= {name: file.get_tensor(name) for name in file.keys() if name.startswith(HEAD)}  # noqa: SIM118
    tensors: dict[str, Any] = {}
    for path in weight_files(out):
        tensors |= load_file(path)
        path.unlink()
    (out / "model.safetensors.index.json").unlink(missing_ok=True)
    kept = {name: tensor for name, tensor in tensors.items() if not name.startswith(LANGUAGE_HEAD)}
    save_file({**kept, **head}, out / "model.safetensors", {"format": "pt"})
    was = json.loads((model / "config.json").read_text(encoding="utf-8"))
    config = json.loads((out / "config.json").read_text(encoding="utf-8"))
    same = {key: was[key] for key in ("architectures", "id2label", "label2id", "tie_word_embeddings") if key in was}
    write_json(out / "config.json", {**config, **same})
