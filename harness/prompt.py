"""The prompt recipe of an artifact: `prompt.json` beside the weights turns a message into chat messages.

The recipe travels with the model through quantization, so a cell is evaluated, timed and deployed with the
very prompt it was built for: system text, worked examples, and articles retrieved for the message.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import islice, takewhile
from pathlib import Path
from typing import Any

from harness.errors import UserError
from harness.retrieval import VECTORS, Retriever, retriever, save_vectors
from harness.store import write_json
from harness.types import Article, Json, SuiteData, plain

RECIPE = "prompt.json"
IGNORED = -100  # the label that PyTorch's cross-entropy passes over
REPLY = "This is the reply."  # by which a template shows what it writes before and behind one

# Some templates write today's date (Llama 3.2's, SmolLM3's, gpt-oss's). They are given this one, which Llama 3.2's has
# where there is no clock, so that prompts are the same on any day. It is told in the template's own language, which
# calls a macro of its own before transformers' function: what transformers passes on are values, never functions.
TODAY = {
    "Y": "2024", "y": "24", "m": "07", "-m": "7", "B": "July", "b": "Jul", "d": "26", "-d": "26", "j": "208",
    "A": "Friday", "a": "Fri", "H": "12", "I": "12", "p": "PM", "M": "00", "S": "00",
}  # fmt: skip
CLOCK = (
    "{%- macro strftime_now(format) -%}{{ format"
    + "".join(f"|replace('%{code}', '{value}')" for code, value in TODAY.items())
    + " }}{%- endmacro %}\n"
)
AT_ONCE = "{%- set enable_thinking = enable_thinking | default(false) %}\n"
FOLD = (
    "{%- if messages | length > 1 and messages[0]['role'] == 'system' %}\n"
    "{%- set first = messages[0]['content'] + '\\n\\n' + messages[1]['content'] %}\n"
    "{%- set messages = [{'role': messages[1]['role'], 'content': first}] + messages[2:] %}\n"
    "{%- endif %}\n"
)

ChatMessage = Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Recipe:
    """`examples` are (message, reply) pairs; `method` is `none`, `bm25`, `dense` or `hybrid`; `asked` is what a message
    is called where facts stand before it."""

    system: str
    examples: tuple[tuple[str, str], ...]
    articles: tuple[Article, ...]
    method: str
    top_k: int
    asked: str = "Message"

    def save(self, folder: Path) -> None:
        """Writes `prompt.json` into a model directory, and what its articles are searched by."""
        write_json(folder / RECIPE, plain(self))
        save_vectors(self.method, self.articles, folder / VECTORS)


class Prompter:
    """A recipe, of a `folder` if any, with its retriever built: messages in, chat messages out."""

    def __init__(self, recipe: Recipe, folder: Path | None = None) -> None:
        self.recipe = recipe
        self._retriever: Retriever | None = (
            retriever(recipe.method, recipe.articles, folder) if recipe.method != "none" and recipe.articles else None
        )

    def _user(self, message: str, articles: Sequence[Article]) -> str:
        if not articles:
            return message
        facts = "\n".join(f"{a.title}: {a.text}" for a in articles)
        return f"Facts:\n{facts}\n\n{self.recipe.asked}:\n{message}"

    def __call__(self, message: str) -> list[ChatMessage]:
        """Chat messages for one message: system, worked examples, then the message with its facts."""
        chat: list[ChatMessage] = [{"role": "system", "content": self.recipe.system}]
        for asked, answered in self.recipe.examples:
            chat += [{"role": "user", "content": asked}, {"role": "assistant", "content": answered}]
        found = self._retriever(message, self.recipe.top_k) if self._retriever else ()
        return [*chat, {"role": "user", "content": self._user(message, found)}]


def load_recipe(folder: Path) -> Recipe:
    """The recipe of a model directory. Raises `FileNotFoundError` where none stands beside the weights, and `UserError`
    where the file is another tool's."""
    file = folder / RECIPE
    try:
        raw: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
        articles = tuple(Article(**a) for a in raw.pop("articles"))
        examples = tuple((a, b) for a, b in raw.pop("examples"))
        return Recipe(articles=articles, examples=examples, **raw)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{file}: is no prompt recipe of the harness; move it out of the model's folder") from error


def load_prompter(folder: Path) -> Prompter:
    """The prompter of a model directory, with its articles indexed; raises what `load_recipe` raises."""
    return Prompter(load_recipe(folder), folder)


def render(tokenizer: Any, chat: Sequence[ChatMessage], *, reply: str | None = None) -> str:
    """Chat messages as the text the model reads, through its own chat template; with `reply`, that turn is closed
    too. A tokenizer without a template gets plain paragraphs, which is what base models expect, behind what it puts
    before every text: a template writes that itself, so rendered text is tokenized without special tokens. Raises
    `UserError` for a template that leaves replies out."""
    if getattr(tokenizer, "chat_template", None) is None:
        prompt = _start(tokenizer) + "\n\n".join(m["content"] for m in chat) + "\n\n"
    else:
        prompt = _templated(tokenizer, chat, add_generation_prompt=True)
        prompt += _opening(tokenizer, chat, prompt)
    return prompt if reply is None else prompt + _completion(tokenizer, chat, prompt, reply)


def template_as_scored(tokenizer: Any, chat: Sequence[ChatMessage]) -> str:
    """The chat template by which any program renders prompts like `chat` as `render` does: the tokenizer's own, on
    `TODAY`, with a system turn that it refuses or passes over put before the first message, answers asked for at once
    unless the program says otherwise, and what opens every reply."""
    if getattr(tokenizer, "chat_template", None) is None:
        start = json.dumps(_start(tokenizer))
        return f"{{{{ {start} }}}}{{% for m in messages %}}{{{{ m['content'] + '\\n\\n' }}}}{{% endfor %}}"
    own = str(tokenizer.get_chat_template())
    prompt = _templated(tokenizer, chat, add_generation_prompt=True)
    folds = chat[0]["role"] == "system" and prompt == _templated(tokenizer, _folded(chat), add_generation_prompt=True)
    opening = _opening(tokenizer, chat, prompt)
    return (
        CLOCK * ("strftime_now" in own) + AT_ONCE * ("enable_thinking" in own) + FOLD * folds
        + own.removesuffix("\n")  # which a template does not write where it ends with one
        + (f"{{%+ if add_generation_prompt %}}{{{{ {json.dumps(opening)} }}}}{{% endif %}}" if opening else "")
    )  # fmt: skip


def _start(tokenizer: Any) -> str:
    """What a tokenizer without a template puts before every text."""
    first = tokenizer("").input_ids[:1]
    return tokenizer.bos_token if first and first[0] == tokenizer.bos_token_id else ""


def _folded(chat: Sequence[ChatMessage]) -> list[ChatMessage]:
    """A chat with what its system turn says before the first message."""
    system, first, *others = chat
    return [{**first, "content": f"{system['content']}\n\n{first['content']}"}, *others]


def _templated(tokenizer: Any, chat: Sequence[ChatMessage], **options: Any) -> str:
    """Chat messages in the tokenizer's own template, on `TODAY`. Where that refuses a system turn (Gemma 2's) or passes
    over it (Phi-3's, and Mistral 7B v0.3's when the chat ends with a reply), what it would say stands before the first
    message. A model that may think first is asked to answer at once (`enable_thinking`, by which Qwen3's template opens
    a reply as it writes one); templates without that choice pass over the name."""
    from jinja2 import TemplateError

    options = {"tokenize": False, "enable_thinking": False, **options}
    if "strftime_now" in str(tokenizer.chat_template):
        options["chat_template"] = CLOCK + tokenizer.get_chat_template()

    def written(*chat: ChatMessage) -> str:
        return str(tokenizer.apply_chat_template(list(chat), **options))

    if chat[0]["role"] != "system":
        return written(*chat)
    system, first, *others = chat
    try:
        text = written(*chat)
        if system["content"].strip() in text or text != written({**system, "content": "-"}, first, *others):
            return text
    except TemplateError:
        pass
    return written(*_folded(chat))


def _opening(tokenizer: Any, chat: Sequence[ChatMessage], prompt: str) -> str:
    """What the template writes between a prompt and any reply, such as gpt-oss's `<|channel|>final<|message|>`: a model
    would learn it as words of its answers. White space alone stays with the reply. Raises `UserError` where no reply is
    written."""
    whole = _templated(tokenizer, [*chat, {"role": "assistant", "content": REPLY}])
    if REPLY not in whole:
        raise UserError(
            f"{getattr(tokenizer, 'name_or_path', None) or 'the model'}: its chat template leaves out replies that are "
            "plain text (templates of models that see pictures may take lists of parts alone); give it one that writes "
            "them (chat_template.jinja), or choose another model"
        )
    opening = whole[len(prompt) :].partition(REPLY)[0] if whole.startswith(prompt) else ""
    return opening.rstrip(" ") if opening.strip() else ""


def _completion(tokenizer: Any, chat: Sequence[ChatMessage], prompt: str, reply: str) -> str:
    """What follows a prompt: the reply and what closes it, as the template writes them. Where it writes that turn in
    another way than its prompt opens one, or closes it without a token at which answers end (Falcon's), or where there
    is no template, the end of text closes it."""
    templated = getattr(tokenizer, "chat_template", None) is not None
    whole = _templated(tokenizer, [*chat, {"role": "assistant", "content": reply}]) if templated else ""
    completion = whole[len(prompt) :] if whole.startswith(prompt) else reply
    before, said, closing = completion.partition(reply) if reply in completion else ("", "", completion)
    if stops(None, tokenizer) & {*tokenizer(closing, add_special_tokens=False).input_ids}:
        return completion
    return (before + said or closing.rstrip()) + (tokenizer.eos_token or "")


def stops(generation: Any, tokenizer: Any) -> set[int]:
    """The tokens that end an answer: those of the model's `generation` config (None where it has none), the tokenizer's
    end of text, and what closes a reply in the chat template, which a model learns to write. A base model's config need
    not name the last."""
    own = generation.eos_token_id if generation else None
    found = {*(own if isinstance(own, list) else [own]), tokenizer.eos_token_id}
    if getattr(tokenizer, "chat_template", None) is not None:
        asked = {"role": "user", "content": "A question?"}
        closed = _templated(tokenizer, [asked, {"role": "assistant", "content": REPLY}])
        first = tokenizer(closed.rpartition(REPLY)[2].lstrip(), add_special_tokens=False).input_ids[:1]
        found |= {token for token in first if token in tokenizer.added_tokens_decoder}
    return {token for token in found if token is not None}


def short_chat(data: SuiteData, row: Mapping[str, Any]) -> list[ChatMessage]:
    """A row as chat without examples or retrieval: what calibration and comparison with a parent use for every
    adaptation alike. The suite's own text in the model's own template, and no long prefix to slow them down."""
    return [{"role": "system", "content": data.system}, {"role": "user", "content": row[data.message_field]}]


def unlearnable(tokenizer: Any, chat: Sequence[ChatMessage], reply: str) -> str | None:
    """Why a model that is trained with `encode` would learn another text than a reply, or None. White space around it
    may be the template's."""
    wanted, written = reply.strip(), _completion(tokenizer, chat, render(tokenizer, chat), reply)
    if wanted not in written:
        same = sum(1 for _ in takewhile(bool, map(str.__eq__, wanted, written.lstrip())))
        return (
            f"the model's chat template writes its reply otherwise from {wanted[same : same + 40]!r} on; leave out "
            "what the template changes, or choose another model"
        )
    ends = stops(None, tokenizer)
    if end := [token for token in tokenizer(reply, add_special_tokens=False).input_ids if token in ends]:
        text = tokenizer.decode(end[:1])
        return f"its reply holds {text!r}, at which this model's answers end; write it otherwise, or leave the row out"
    return None


def encode(tokenizer: Any, chat: Sequence[ChatMessage], reply: str) -> dict[str, list[int]]:
    """Token ids of prompt and reply, with labels on the reply and the token that ends it alone."""
    prompt = render(tokenizer, chat)
    completion = _completion(tokenizer, chat, prompt, reply)
    asked = list(tokenizer(prompt, add_special_tokens=False).input_ids)
    answered = list(tokenizer(completion, add_special_tokens=False).input_ids)
    ends = stops(None, tokenizer)
    end = next((at for at, token in enumerate(answered) if token in ends), len(answered))
    answered = answered[: end + 1]
    return {"input_ids": asked + answered, "labels": [IGNORED] * len(asked) + answered}


def encode_class(tokenizer: Any, chat: Sequence[ChatMessage], label: int) -> dict[str, list[int]]:
    """Token ids of a prompt for a classification head. Its class is the label of the token after the prompt: a padding
    token, which a head looks past, so that a class is trained as the one token of a reply is, and past
    those that the prompt ends with."""
    asked, pad = list(tokenizer(render(tokenizer, chat), add_special_tokens=False).input_ids), padding(tokenizer)
    while len(asked) > 1 and asked[-1] == pad:
        asked.pop()
    return {"input_ids": [*asked, pad], "labels": [*[IGNORED] * len(asked), label]}


def padding(tokenizer: Any) -> int:
    """The token that fills a row: the tokenizer's own, else its end of text, else its first."""
    return next(int(token) for token in (tokenizer.pad_token_id, tokenizer.eos_token_id, 0) if token is not None)


def describe(recipe: Recipe) -> Json:
    """What a manifest says of a recipe."""
    return {"examples": len(recipe.examples), "retrieval": recipe.method, "top_k": recipe.top_k}


def shared_prefix(prompts: Sequence[Sequence[int]]) -> int:
    """How many leading tokens all prompts share, leaving each at least one token of its own."""
    shortest = min(len(p) for p in prompts) - 1
    alike = (len(set(tokens)) == 1 for tokens in zip(*prompts, strict=False))
    return sum(1 for _ in takewhile(bool, islice(alike, shortest)))
