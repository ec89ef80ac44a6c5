"""What every step imports, imported once by the fork server: a child is then ready in 0.9 seconds, not 7. Without that
server each child imports it before its first step comes.

Imports only. One parallel operation here would leave its threads behind in the fork, and the children would hang; on a
GPU nothing may wake the driver, which does not survive a fork.
"""

import contextlib
import gc
import importlib
import os
import signal
import sys
from collections.abc import Callable, Iterable
from multiprocessing import forkserver

from harness.environment import detect

PRELOADED = (
    "torch", "transformers", "transformers.models.auto", "transformers.models.auto.tokenization_auto",
    "transformers.models.auto.modeling_auto", "transformers.models.llama.modeling_llama", "transformers.cache_utils",
    "harness.execute",
)  # fmt: skip
ON_CPU = ("torchao.quantization",)  # may ask for the device's capability when imported
# What many steps import as well. Nothing that wakes the driver (torchao, bitsandbytes, PEFT, which imports the latter):
# half a gigabyte of the device for who only waits. Nor gptqmodel, which changes how torch allocates.
MORE = (
    "accelerate", "bm25s", "harness.engine.graph", "harness.engine.kernels", "harness.measure.latency",
    "lm_eval.evaluator", "harness.measure.quality",
)  # fmt: skip


if getattr(sys.modules["__main__"], "main", None) is forkserver.main:  # which does this itself, but after its imports
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the grid's to handle


def bring(names: Iterable[str]) -> None:
    """Imports modules, those that can be, without a word: the server shares the terminal, and libraries grumble."""
    with open(os.devnull, "w") as silence:
        kept = os.dup(2)
        os.dup2(silence.fileno(), 2)
        try:
            for name in names:
                with contextlib.suppress(Exception):  # who needs it will tell
                    importlib.import_module(name)
        finally:
            os.dup2(kept, 2)
            os.close(kept)


def warm() -> None:
    """Has done once what each child of a fork would do: bitsandbytes hands functions that nothing here calls to
    `torch.compile` as it is imported, which brings the whole compiler (two seconds in each step but those of fp16),
    so it is imported without; and transformers compiles a thousand patterns before it loads its first model."""
    os.environ["TORCHDYNAMO_DISABLE"] = "1"
    try:
        bring(["bitsandbytes"])
    finally:
        del os.environ["TORCHDYNAMO_DISABLE"]
    with contextlib.suppress(Exception):
        from transformers.conversion_mapping import get_checkpoint_conversion_mapping

        get_checkpoint_conversion_mapping("llama")


def more(idle: Callable[[], bool]) -> None:
    """On a GPU imports, one after the other while a process is `idle`, what some steps will import; never before a
    fork. On a CPU it would count as memory of steps that do not use it."""
    if detect().device == "cuda":
        bring(name for name in MORE if idle())


bring((*PRELOADED, *(ON_CPU if detect().device == "cpu" else ())))
if detect().device == "cpu" and "TORCHDYNAMO_DISABLE" not in os.environ:
    warm()
gc.collect()
gc.freeze()  # 400,000 objects that live as long as the process; each collection of a child would walk and copy them
