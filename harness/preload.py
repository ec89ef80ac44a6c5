"""What every step imports, imported once by the fork server: a child is then ready in 0.9 seconds, not 7. Without that
server each child imports it before its first step comes.

Imports only. One parallel operation here would leave its threads behind in the fork, and the children would hang; on a
GPU nothing may wake the driver, which does not survive a fork.
"""

import contextlib
import importlib
import os

from harness.environment import detect

PRELOADED = (
    "torch", "transformers", "transformers.models.auto", "transformers.models.auto.tokenization_auto",
    "transformers.models.auto.modeling_auto", "transformers.models.llama.modeling_llama", "transformers.cache_utils",
    "harness.execute",
)  # fmt: skip
ON_CPU = ("torchao.quantization",)  # may ask for the device's capability when imported

with open(os.devnull, "w") as silence:  # the server shares the terminal, and libraries grumble when imported
    kept = os.dup(2)
    os.dup2(silence.fileno(), 2)
    try:
        for name in (*PRELOADED, *(ON_CPU if detect().device == "cpu" else ())):
            with contextlib.suppress(ImportError):
                importlib.import_module(name)
    finally:
        os.dup2(kept, 2)
        os.close(kept)
