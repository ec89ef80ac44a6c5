"""A causal language model from a folder or from the Hugging Face Hub, taken as it is."""

from __future__ import annotations

import errno
import json
import os
import re
import shutil
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatch
from importlib.util import find_spec
from pathlib import Path
from typing import Any, ClassVar

from harness.directory import INDEX, WEIGHTS, classifies, config_of, weight_files
from harness.errors import UserError
from harness.files import parse
from harness.licences import TEXTS, Stated, card_licence
from harness.models.gguf import POINTER, pointer
from harness.prompt import RECIPE
from harness.store import MANIFEST, content, write_json
from harness.types import Context, Json

VOCABULARY = ("tokenizer.json", "vocab.*", "*.model", "*.tiktoken", "tekken.json")
HUB_NAME = re.compile(r"\w[\w.-]*/\w[\w.-]*")
COMMIT = re.compile(r"[0-9a-f]{40}")
KEPT = (  # what transformers and servers read of a model, its recipe here, and the texts of its licence
    "*.safetensors", INDEX, "config.json", "generation_config.json", "*quant*_config.json", "*processor_config.json",
    *VOCABULARY, "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "merges.txt",
    "chat_template*", RECIPE, *TEXTS,
)  # fmt: skip
ADAPTER = ("adapter_config.json", "adapter_model*")  # PEFT's; beside whole weights, transformers would add it to them
NOT_KEPT = ("*/*", "consolidated*.safetensors", *ADAPTER)  # of the Hub: what lies deeper, the same in Mistral's form
LOCAL = (errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EROFS)  # errors of the disk here, not of the Hub
CACHELESS = (  # types of causal models whose forward pass takes no `past_key_values`: see harness.engine.eager
    "falcon_mamba", "mamba", "mamba2", "openai-gpt", "reformer", "rwkv", "xlm", "xlnet", "xlstm",
)  # fmt: skip
CONFIGS = ("config.json", "tokenizer_config.json")
CARD = "README.md"  # read for its licence, and not kept in builds
PICKLED = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle")  # read by running what they say
CONVERT = (
    'convert it once, where you trust it: python -c "from transformers import AutoModelFor{head} as M, '
    "AutoTokenizer as T; [x.from_pretrained('{id}').save_pretrained('converted') for x in (M, T)]\""
)
MERGE = (
    'merge it first: python -c "from peft import AutoPeftModelForCausalLM as M, PeftConfig as C; from transformers '
    "import AutoTokenizer as T; [x.save_pretrained('merged') for x in (M.from_pretrained('{id}').merge_and_unload(), "
    'T.from_pretrained({words}))]"'
)


def _adapter_alone(names: Collection[str]) -> bool:
    """Whether these files are an adapter of PEFT's without the weights that it changes."""
    top = [n for n in names if "/" not in n]  # its checkpoints may lie deeper
    whole = [n for n in top if fnmatch(n, "*.safetensors") or fnmatch(n, "pytorch_model*.bin")]
    return ADAPTER[0] in names and all(fnmatch(name, ADAPTER[1]) for name in whole)


def kept(folder: Path, patterns: Sequence[str] = KEPT) -> list[Path]:
    """What of a model directory goes into builds and exports, and not what else a user keeps there: its files of these
    patterns, of its weights those that are read."""
    found = {path for pattern in patterns for path in folder.glob(pattern) if path.is_file()}
    found -= {path for pattern in ADAPTER for path in folder.glob(pattern)}
    return sorted(found - ({*folder.glob("*.safetensors")} - {*weight_files(folder)}))


def link_tree(source: Path, out: Path) -> None:
    """Hard-links the weights from one build of the store to the next (copies across file systems): a build that
    keeps them costs no disk. Small files are copied, since the next step may write its own in their place."""
    for path in kept(source, ("*",)):
        if path.name != MANIFEST:
            try:
                if path.suffix != ".safetensors":
                    raise OSError
                os.link(path, out / path.name)
            except OSError:
                shutil.copy2(path, out / path.name)


def copy_tree(source: Path, out: Path) -> None:
    """Copies the files of a user's folder or of the Hub's cache that make a model, links followed: what is theirs is
    never shared with the store, neither to be written by it nor to change under it. Pickles and code stay out, and what
    names code (`auto_map`), which transformers would ask to run."""
    for path in kept(source):
        shutil.copyfile(path, out / path.name)
    for file in (out / name for name in CONFIGS if (out / name).is_file()):
        config = json.loads(file.read_text(encoding="utf-8"))
        if config.pop("auto_map", None):
            write_json(file, config)


def _object(file: Path) -> dict[str, Json]:
    """What a file of JSON keys holds. Raises `UserError` for any other."""
    try:
        found = parse(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UserError(f"{file}: is no JSON ({error}); get that file again") from error
    if isinstance(found, dict):
        return found
    raise UserError(f"{file}: holds no keys; get that file again")


def _spoiled(file: Path) -> str:
    """What a safetensors file lacks by its header, which tells its length; empty where nothing."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(file, "np"):
            return ""
    except SafetensorError as error:
        return f"is not whole ({error}); get that file again"


def _not_had(error: Exception) -> str:
    """Why a model was not downloaded, by what that raised."""
    from huggingface_hub.constants import HF_HUB_CACHE

    if isinstance(error, OSError) and error.errno in LOCAL:
        return f"cannot be written to {HF_HUB_CACHE} ({os.strerror(error.errno)}); mend that, or set HF_HOME"
    told = " ".join(f"{type(error).__name__}: {error}".split())
    return (
        f"neither a folder here nor to be had from the Hub ({told}); check model.id, the network and the access token"
    )


@dataclass(frozen=True, slots=True)
class HubModel:
    """`id` is a folder or `org/name`; `revision` a branch, tag or commit of the Hub. Only safetensors are taken:
    a pickled checkpoint could run code when it is loaded."""

    id: str
    revision: str | None = None
    note: str = ""

    VERSION: ClassVar[int] = 2
    TRAINED: ClassVar[bool] = True
    LIBRARIES: ClassVar[tuple[str, ...]] = ()
    NOT_IN_KEY: ClassVar[tuple[str, ...]] = ("id", "revision", "note")  # `fingerprint` says what it is

    def __call__(self, out: Path, context: Context) -> Mapping[str, Json]:
        local, commit = Path(self.id), None
        if not local.is_dir():
            from huggingface_hub import snapshot_download
            from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

            try:
                local = Path(
                    snapshot_download(
                        self.id, revision=self.revision, allow_patterns=[*KEPT, CARD], ignore_patterns=[*NOT_KEPT]
                    )
                )
            except (HfHubHTTPError, LocalEntryNotFoundError, OSError, ValueError) as error:
                raise UserError(f"model {self.id!r}: {_not_had(error)}") from error
            commit = local.name
        if unfit := self._lacking(local):
            raise UserError(unfit)
        copy_tree(local, out)
        card = local / CARD
        stated = card_licence(card) if card.is_file() else Stated()
        return {"source": self.id, "revision": self.revision, "commit": commit, **stated.facts()}

    def _lacking(self, folder: Path) -> list[str]:
        """What of a folder's files is not there, or is in no form that is read."""
        if _adapter_alone(names := {path.name for path in folder.iterdir()}):
            return [self._adapter(names)]
        try:
            if pointers := [path for path in kept(folder) if pointer(path)]:
                return [f"model {self.id!r}: {pointers[0]} {POINTER}"]
            configs = {name: _object(folder / name) for name in CONFIGS if (folder / name).is_file()}
            weights = weight_files(folder)
        except UserError as error:
            return [f"model {self.id!r}: {error}"]
        if foreign := self._foreign(configs.get("config.json")):
            return foreign
        if absent := [path.name for path in weights if not path.is_file()]:
            told = f"{', '.join(absent[:3])} ({len(absent)} of the {len(weights)} files that {INDEX} names)"
            return [f"model {self.id!r}: {told} missing in {folder}; get the files of that model again"]
        if weights:
            spoiled = [f"model {self.id!r}: {path} {told}" for path in weights if (told := _spoiled(path))][:1]
            return spoiled or self._wordless(folder)
        if pickled := sorted(p.name for p in folder.iterdir() if p.suffix in PICKLED):
            return [self._refused(pickled, configs.get("config.json"))]
        if unread := sorted(p.name for p in folder.glob("*.safetensors")):
            told = f"transformers reads {WEIGHTS} or what {INDEX} names, and not {unread[0]} alone"
            part = "-of-" in unread[0] or fnmatch(unread[0], NOT_KEPT[1])
            named = len(unread) == 1 and not part  # as auto-gptq does
            mend = f"rename it to {WEIGHTS}" if named else "get the files of that model in the form of transformers"
            return [f"model {self.id!r}: {told} in {folder}; {mend}"]
        return [f"model {self.id!r}: no safetensors in {folder}; {self._convert(configs.get('config.json'))}"]

    def _wordless(self, folder: Path) -> list[str]:
        """A line where no vocabulary is there, or none that can be read: transformers makes a tokenizer without, to
        which every text is empty."""
        words = kept(folder, VOCABULARY)
        if not words:
            told = f"its tokenizer has no vocabulary in {folder} (such as {VOCABULARY[0]})"
            return [f"model {self.id!r}: {told}; get the files of that model again"]
        library = "sentencepiece" if words[0].read_bytes()[:1] == b"\n" else "tiktoken"  # whose lines are of letters
        if find_spec(library) or any(path.suffix != ".model" for path in words):
            return []
        told = f"its vocabulary is {words[0].name} alone, which takes the library {library} to read"
        return [f"model {self.id!r}: {told}; pip install {library}, or add its {VOCABULARY[0]}"]

    def _foreign(self, config: Mapping[str, Json] | None) -> list[str]:
        """A line where a model of this configuration writes no text here: it is one by code of its own alone, or no
        causal language model, or classifier made from one, whose attention keeps keys and values to decode by, or it
        classifies by what may be padding."""
        if not config or not config.keys() & {"auto_map", "model_type"}:
            return []
        from transformers import CONFIG_MAPPING
        from transformers.models.auto import modeling_auto as auto

        causal, masked = auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES, auto.MODEL_FOR_MASKED_LM_MAPPING_NAMES
        kind = config.get("model_type")
        if "auto_map" in config and kind not in CONFIG_MAPPING:
            told = f"brings its own code (auto_map), which is not run, and transformers does not know its type {kind!r}"
        elif kind not in causal or (kind in masked and not config.get("is_decoder")):
            told = f"is no causal language model that transformers knows (its type is {kind!r})"
        elif kind == "xlnet" and classifies(config):
            told = f"classifies by the last place of a row, which beside longer ones is padding (its type is {kind!r})"
        elif kind in CACHELESS and not classifies(config):
            told = f"keeps no keys and values of what it has read, which decoding here needs (its type is {kind!r})"
        else:
            return []
        return [f"model {self.id!r}: {told}; take another, such as a Llama or a Qwen"]

    def _adapter(self, names: Collection[str]) -> str:
        base = f"C.from_pretrained('{self.id}').base_model_name_or_path"  # PEFT saves no tokenizer
        mend = MERGE.format(id=self.id, words=f"'{self.id}'" if CONFIGS[1] in names else base)
        return f"model {self.id!r}: an adapter without its base model's weights; {mend}"

    def _refused(self, pickled: Sequence[str], config: Mapping[str, Json] | None) -> str:
        return (
            f"model {self.id!r}: its weights are pickled ({pickled[0]}), which runs whatever code they hold when they "
            f"are read, and are refused; {self._convert(config)}"
        )

    def _convert(self, config: Mapping[str, Json] | None) -> str:
        kind = "SequenceClassification" if classifies(config or {}) else "CausalLM"
        return CONVERT.format(id=self.id, head=kind)

    def parameters(self) -> int | None:
        """How many weights, by a folder's size at most (of 16 bits each), or as the Hub counts them; None where it
        cannot be asked."""
        local = Path(self.id)
        if local.is_dir():
            return sum(f.stat().st_size for f in weight_files(local)) // 2
        told = self._told()
        return told.safetensors.total if told and told.safetensors else None

    def fingerprint(self) -> str:
        """What a folder holds, or the commit that a Hub name stands for now, so that another checkpoint under the same
        name is built anew, and one checkpoint under two names once. Where the Hub cannot be asked it is the commit in
        its cache, which is what is then built; without that, its name and revision."""
        local = Path(self.id)
        if local.is_dir():
            return content(kept(local))
        if self.revision and COMMIT.fullmatch(self.revision):
            return self.revision
        told = self._told()
        cached = None if told else self._cached()
        found = cached.parent.name if cached else told and told.sha
        return found or f"{self.id}@{self.revision or 'main'}"

    def _told(self) -> Any:
        """What the Hub says of this model; None where it cannot be asked."""
        from huggingface_hub import model_info

        try:
            return model_info(self.id, revision=self.revision, timeout=10)
        except Exception:  # what a network raises differs by library and version
            return None

    def config(self) -> Mapping[str, Json] | None:
        """What the model says of itself (`config.json`) before anything is built; None where it cannot be read."""
        from huggingface_hub import hf_hub_download

        folder = Path(self.id)
        try:
            if not folder.is_dir():
                folder = (
                    self._cached() or Path(hf_hub_download(self.id, "config.json", revision=self.revision))
                ).parent
            found = config_of(folder)
        except Exception:  # what a network raises differs by library and version; a file that is none is told later
            return None
        return found if isinstance(found, dict) else None

    def _cached(self) -> Path | None:
        """This model's configuration in the Hub's cache."""
        from huggingface_hub import try_to_load_from_cache

        found = try_to_load_from_cache(self.id, "config.json", revision=self.revision)
        return Path(found) if isinstance(found, str) else None

    def mistakes(self) -> list[str]:
        """What can be seen to be wrong before anything is loaded."""
        local = Path(self.id)
        if local.is_dir():
            lacking = [
                f"model {self.id}: {name} is missing in that folder; model.id wants a Hugging Face model directory"
                for name in ("config.json", "tokenizer_config.json")
                if not (local / name).is_file() and not _adapter_alone({path.name for path in local.iterdir()})
            ]
            return lacking or self._lacking(local)
        if not HUB_NAME.fullmatch(self.id):
            return [f"model {self.id!r}: no such folder, and not a Hub name of the form org/name; set model.id"]
        return self._not_on_the_hub() or self._foreign(self.config())

    def _not_on_the_hub(self) -> list[str]:
        """Why the Hub cannot give this model, asked of it unless the model is in its cache already."""
        from huggingface_hub import model_info
        from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError, RevisionNotFoundError

        if self._cached():
            return []
        try:
            found = model_info(self.id, revision=self.revision, timeout=10)
            files = [s.rfilename for s in found.siblings or ()]
            if _adapter_alone({*files}):
                return [self._adapter(files)]
            pickled = [f for f in files if Path(f).suffix in PICKLED and "/" not in f]
            if pickled and not any(f.endswith(".safetensors") for f in files):
                return [self._refused(pickled, found.config)]  # one fetched would pass for a model in the cache
        except GatedRepoError:
            return [f"model {self.id!r}: gated; accept its licence on the Hub and log in with `hf auth login`"]
        except RevisionNotFoundError:
            return [f"model {self.id!r}: has no revision {self.revision!r}; set model.revision"]
        except RepositoryNotFoundError:
            return [f"model {self.id!r}: not on the Hub (or private: `hf auth login`); check model.id"]
        except Exception as error:  # what a network raises differs by library and version
            told = f"the Hub cannot be asked ({type(error).__name__}); check the network, or give a folder"
            return [f"model {self.id!r}: {told}"]
        return []
