"""Answers one message as this model was evaluated: with its prompt recipe and its retrieval.

    python example.py "MESSAGE"                                 loads the model here, through transformers
    python example.py --server http://localhost:8000 "MESSAGE"  asks a server (vLLM, `transformers serve`)

Needs what requirements.txt lists, and nothing of the program that made this folder.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import logging
import sys
import urllib.request
from pathlib import Path

from recipe import messages, render

HERE = Path(__file__).resolve().parent
DEPLOYMENT = json.loads((HERE / "deployment.json").read_text(encoding="utf-8"))


def load():
    """The tokenizer and the model, on a GPU where there is one, in the dtype that was measured on such a device."""
    import torch
    from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer

    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)  # else it tells of a cast in each layer of each token
    device = "cuda" if torch.cuda.is_available() else "cpu"
    kind = AutoModelForSequenceClassification if DEPLOYMENT["classes"] else AutoModelForCausalLM
    dtype = getattr(torch, DEPLOYMENT["dtype"][device])
    options = {**DEPLOYMENT["loading"], **({"device_map": {"": 0}} if device == "cuda" else {})}
    model = kind.from_pretrained(str(HERE), dtype=dtype, **options)
    return AutoTokenizer.from_pretrained(str(HERE)), model.eval()


def cut(text: str) -> str:
    """A text up to the first stop text, where answers ended when they were scored."""
    return text[: min((at for stop in DEPLOYMENT["stop"] if (at := text.find(stop)) >= 0), default=len(text))]


def answer(tokenizer, model, message: str) -> str:
    """The answer to one message, decoded as generation_config.json says, which is how it was scored."""
    import torch

    asked = tokenizer(render(tokenizer, message), add_special_tokens=False, return_tensors="pt").to(model.device)
    with torch.inference_mode():
        if DEPLOYMENT["classes"]:
            return DEPLOYMENT["classes"][int(model(**asked, use_cache=False).logits[0].argmax())]
        made = model.generate(**asked, max_new_tokens=DEPLOYMENT["max_new_tokens"])
    return cut(tokenizer.decode(made[0][asked["input_ids"].shape[1] :], skip_special_tokens=True))


def ask(server: str, message: str, model: str | None) -> str:
    """The answer of an OpenAI-compatible server that serves this folder. vLLM and `transformers serve` take a request
    that names no model for the one they serve; each has a name of its own for it."""
    body = {
        **({"model": model} if model else {}),
        **({"stop": DEPLOYMENT["stop"]} if DEPLOYMENT["stop"] else {}),
        "messages": messages(message), "max_tokens": DEPLOYMENT["max_new_tokens"],
        **(DEPLOYMENT["sampling"] or {"temperature": 0.0}),
    }  # fmt: skip
    request = urllib.request.Request(
        f"{server.rstrip('/')}/v1/chat/completions", json.dumps(body).encode(), {"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(request) as reply:
        return cut(json.load(reply)["choices"][0]["message"]["content"])


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(description="Answer one message as this model was evaluated.")
    parser.add_argument("message")
    parser.add_argument("--server", metavar="URL", help="an OpenAI-compatible server that serves this folder")
    parser.add_argument("--model", metavar="NAME", help="what that server calls the model, if it must be told")
    given = parser.parse_args()
    if given.server and DEPLOYMENT["classes"]:
        parser.error("a classifier is no chat model: leave --server away")
    with contextlib.redirect_stdout(sys.stderr):  # where libraries greet
        found = ask(given.server, given.message, given.model) if given.server else answer(*load(), given.message)
    print(found)
    return 0


if __name__ == "__main__":
    sys.exit(main())
