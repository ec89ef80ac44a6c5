"""A recipe survives its file, and the model reads and learns exactly the text that it should."""

from __future__ import annotations

import datetime
import hashlib
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from jinja2 import TemplateError
from tokenizers.processors import TemplateProcessing

from harness.adapt.lora import Lora
from harness.adapt.prompt_rag import PromptRag
from harness.errors import UserError
from harness.prompt import (
    IGNORED,
    RECIPE,
    TODAY,
    ChatMessage,
    Prompter,
    Recipe,
    describe,
    encode,
    load_prompter,
    render,
    short_chat,
    stops,
    unlearnable,
)
from harness.suite import load as load_suite
from harness.types import Article
from tests.cells import cell, suite_data
from tests.test_engine import tokenizer

ARTICLES = (
    Article("a1", "Returns", "Unworn boots can be returned within 45 days."),
    Article("a2", "Shipping", "Parcels to Canada take 5 business days."),
)
CHAT: list[ChatMessage] = [{"role": "system", "content": "Be kind."}, {"role": "user", "content": "Hello?"}]

SMOLLM2 = (
    "{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}{{ '<|im_start|>system\n"
    "You are a helpful AI assistant named SmolLM, trained by Hugging Face<|im_end|>\n' }}{% endif %}"
    "{{'<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n'}}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
PHI3_MEDIUM = (
    "{{ bos_token }}{% for message in messages %}{% if (message['role'] == 'user') %}{{'<|user|>\n' + "
    "message['content'] + '<|end|>\n<|assistant|>\n'}}{% elif (message['role'] == 'assistant') %}"
    "{{message['content'] + '<|end|>\n'}}{% endif %}{% endfor %}"
)
PHI3_MINI = (
    "{% for m in messages %}{% if m['role'] == 'user' %}{{ '<|user|>\n' + m['content'] + '<|end|>\n' }}"
    "{% elif m['role'] == 'assistant' %}{{ '<|assistant|>\n' + m['content'] + '<|end|>\n' }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>\n' }}{% else %}{{ eos_token }}{% endif %}"
)
MISTRAL_03 = """
{%- if messages[0]["role"] == "system" %}
    {%- set system_message = messages[0]["content"] %}
    {%- set loop_messages = messages[1:] %}
{%- else %}
    {%- set loop_messages = messages %}
{%- endif %}
{{- bos_token }}
{%- for message in loop_messages %}
    {%- if message["role"] == "user" %}
        {%- if loop.last and system_message is defined %}
            {{- "[INST] " + system_message + "\n\n" + message["content"] + "[/INST]" }}
        {%- else %}
            {{- "[INST] " + message["content"] + "[/INST]" }}
        {%- endif %}
    {%- elif message["role"] == "assistant" %}
        {{- " " + message["content"]|trim + eos_token }}
    {%- endif %}
{%- endfor %}"""
LLAMA_32 = """{{- bos_token }}
{%- if not date_string is defined %}
    {%- if strftime_now is defined %}
        {%- set date_string = strftime_now("%d %b %Y") %}
    {%- else %}
        {%- set date_string = "26 Jul 2024" %}
    {%- endif %}
{%- endif %}
{{- "<|start|>system\n\nToday Date: " + date_string + "\n\n" + messages[0]["content"] + "<|eot|>" }}
{%- for m in messages[1:] %}
    {{- "<|start|>" + m["role"] + "\n\n" + m["content"] | trim + "<|eot|>" }}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- "<|start|>assistant\n\n" }}
{%- endif %}"""
SMOLLM3 = """{# ───── defaults ───── #}
{%- for m in messages -%}
    {%- if m.role == "system" -%}
        {{- "<|im_start|>system\nToday Date: " -}}
        {%- set today = strftime_now("%d %B %Y") -%}
        {{- today ~ "\n" + m.content + "<|im_end|>\n" -}}
    {%- elif m.role == "user" -%}
        {{- "<|im_start|>user\n" + m.content + "<|im_end|>\n" -}}
    {%- else -%}
        {% generation %}
        {{- "<|im_start|>assistant\n<think>\n\n</think>\n" + m.content.lstrip("\n") + "<|im_end|>\n" -}}
        {% endgeneration %}
    {%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}{{- "<|im_start|>assistant\n<think>\n\n</think>\n" -}}{%- endif -%}"""
HARMONY = """{%- macro build_system_message() -%}
    {{- "Current date: " + strftime_now("%Y-%m-%d") + "\n\n" }}
{%- endmacro -%}
{{- "<|start|>system<|message|>" + build_system_message() + "<|end|>" }}
{%- for m in messages %}
    {%- if m.role == "system" %}
        {{- "<|start|>developer<|message|># Instructions\n\n" + m.content + "\n\n<|end|>" }}
    {%- elif m.role == "user" %}
        {{- "<|start|>user<|message|>" + m.content + "<|end|>" }}
    {%- elif loop.last and not add_generation_prompt %}
        {{- "<|start|>assistant<|channel|>final<|message|>" + m.content + "<|return|>" }}
    {%- else %}
        {{- "<|start|>assistant<|channel|>final<|message|>" + m.content + "<|end|>" }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- "<|start|>assistant" }}
{%- endif %}"""
FALCON = (
    "{% for message in messages %}{% if not loop.first %}{{ '\n' }}{% endif %}{% if message['role'] == 'system' %}"
    "{{ 'System: ' }}{% elif message['role'] == 'user' %}{{ 'User: ' }}{% elif message['role'] == 'assistant' %}"
    "{{ 'Falcon: ' }}{% endif %}{{ message['content'] }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '\n' + 'Falcon:' }}{% endif %}"
)
FALCON_7B = (
    "{% for m in messages %}{{ '\n\n' + m['role'].title() + ': ' + m['content'].strip().replace('\n\n', '\n') }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '\n\nAssistant:' }}{% endif %}"
)
TEMPLATES = {
    "smollm2": SMOLLM2, "phi3_medium": PHI3_MEDIUM, "phi3_mini": PHI3_MINI, "mistral_03": MISTRAL_03,
    "llama_32": LLAMA_32, "smollm3": SMOLLM3, "harmony": HARMONY, "falcon": FALCON, "falcon_7b": FALCON_7B,
}  # fmt: skip


def templated(template: str) -> Any:
    """A tokenizer with this chat template, whose special tokens are its own."""
    own = tokenizer()
    marks = sorted({*re.findall(r"<\|\w+\|>", template)})
    own.add_special_tokens({"bos_token": "<s>", "additional_special_tokens": marks})
    own.chat_template = template
    return own


def learnt(own: Any, reply: str, *, skip: bool = False) -> str:
    """What a model learns to write, or with `skip` what its engine would score of that."""
    return str(own.decode([i for i in encode(own, CHAT, reply)["labels"] if i != IGNORED], skip_special_tokens=skip))


def on(day: datetime.datetime, monkeypatch: pytest.MonkeyPatch) -> None:
    """Puts the clock of chat templates to a day."""

    class Clock(datetime.datetime):
        @classmethod
        def now(cls, tz: Any = None) -> Any:
            return day

    monkeypatch.setattr("transformers.utils.chat_template_utils.datetime", Clock)


class Fake:
    """A tokenizer whose tokens are characters and `<end>`, with a template in the manner of ChatML."""

    def __init__(self, template: bool = True, closing: str = "<end>\n", opening: str = "<assistant>") -> None:
        self.chat_template = "a template" if template else None
        self.eos_token = "<eos>"
        self.closing, self.opening = closing, opening
        self.eos_token_id = 1
        self.added_tokens_decoder = {1: "<eos>", 2: "<end>"}

    def apply_chat_template(
        self, chat: list[ChatMessage], *, tokenize: bool, add_generation_prompt: bool = False, **_: Any
    ) -> str:
        assert tokenize is False
        said = "".join(f"<{m['role']}>{m['content']}{self.closing}" for m in chat)
        return said + (self.opening if add_generation_prompt else "")

    def __call__(self, text: str, *, add_special_tokens: bool = True) -> Any:
        assert not text or add_special_tokens is False, "the text has them already"
        return SimpleNamespace(input_ids=[SPECIAL.get(t) or ord(t) for t in re.findall("<end>|<eos>|(?s:.)", text)])


SPECIAL = {"<eos>": 1, "<end>": 2}


def text_of(ids: list[int]) -> str:
    return "".join({1: "<eos>", 2: "<end>"}.get(i) or chr(i) for i in ids)


def test_a_recipe_survives_its_file(tmp_path: Path) -> None:
    recipe = Recipe("Seien Sie höflich.", (("Ask?", "Answer."), ("Why?", "So.")), ARTICLES, "bm25", 2)
    recipe.save(tmp_path)
    assert [f.name for f in tmp_path.iterdir()] == [RECIPE]
    assert load_prompter(tmp_path).recipe == recipe


def test_a_model_folder_without_a_recipe_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=RECIPE):
        load_prompter(tmp_path)


@pytest.mark.parametrize("held", ["", "[]", '"Be kind."', "{}", '{"articles": 3}', '{"articles": [], "examples": []}'])
def test_a_recipe_of_another_tool_is_told(tmp_path: Path, held: str) -> None:
    (tmp_path / "prompt.json").write_text(held)
    with pytest.raises(
        UserError, match=r"prompt\.json: is no prompt recipe of the harness; move it out of the model's"
    ):
        load_prompter(tmp_path)


def test_system_examples_facts_and_message_stand_in_that_order() -> None:
    chat = Prompter(Recipe("Be kind.", (("Ask?", "Answer."),), ARTICLES, "bm25", 1, "Email"))("How long to Canada?")
    assert [m["role"] for m in chat] == ["system", "user", "assistant", "user"]
    assert [m["content"] for m in chat] == [
        "Be kind.", "Ask?", "Answer.",
        "Facts:\nShipping: Parcels to Canada take 5 business days.\n\nEmail:\nHow long to Canada?",
    ]  # fmt: skip


@pytest.mark.parametrize(("articles", "method"), [((), "bm25"), (ARTICLES, "none"), (ARTICLES, "bm25")])
def test_without_articles_the_message_stands_alone(articles: tuple[Article, ...], method: str) -> None:
    chat = Prompter(Recipe("Be kind.", (), articles, method, 2))("Hello?")
    assert chat == CHAT


def test_short_chat_is_the_same_for_every_adaptation() -> None:
    assert short_chat(suite_data(system="Be kind."), {"message": "Hello?", "reply": "Hi."}) == CHAT


def test_a_template_is_used_as_it_is() -> None:
    assert render(Fake(), CHAT) == "<system>Be kind.<end>\n<user>Hello?<end>\n<assistant>"
    assert render(Fake(), CHAT, reply="Hi.") == "<system>Be kind.<end>\n<user>Hello?<end>\n<assistant>Hi.<end>\n"


def test_without_a_template_paragraphs_and_an_end_token() -> None:
    assert render(Fake(template=False), CHAT) == "Be kind.\n\nHello?\n\n"
    assert render(Fake(template=False), CHAT, reply="Hi.") == "Be kind.\n\nHello?\n\nHi.<eos>"


def test_without_a_template_a_text_begins_as_its_tokenizer_has_it_begin() -> None:
    from transformers import PreTrainedTokenizerFast

    own = tokenizer()
    own.add_special_tokens({"bos_token": "<s>"})
    assert render(own, CHAT).startswith("Be kind."), "it has such a token, and puts it nowhere"
    for before, after in (("<s>", ""), ("<s>", "<eos>"), ("", "<eos>")):
        added = [(t, own.convert_tokens_to_ids(t)) for t in (before, after) if t]
        made = PreTrainedTokenizerFast(tokenizer_object=own.backend_tokenizer, bos_token="<s>", eos_token="<eos>")
        made.backend_tokenizer.post_processor = TemplateProcessing(f"{before} $A {after}".strip(), None, added)
        text = render(made, CHAT)
        assert text == before + "Be kind.\n\nHello?\n\n"
        whole = made(text.removeprefix(before)).input_ids
        assert made(text, add_special_tokens=False).input_ids == (whole[:-1] if after else whole)


@pytest.mark.parametrize("reply", ["end", "<", "n"])
def test_a_reply_that_is_a_part_of_what_closes_it_is_learnt_once(reply: str) -> None:
    """Such as the name of a class."""
    assert text_of([i for i in encode(Fake(), CHAT, reply)["labels"] if i != IGNORED]) == f"{reply}<end>"
    assert render(Fake(), CHAT, reply=reply) == render(Fake(), CHAT) + f"{reply}<end>\n"


@pytest.mark.parametrize(("template", "end"), [(True, "<end>"), (False, "<eos>")])
def test_only_the_reply_and_its_end_are_learnt(template: bool, end: str) -> None:
    """The end token must be learnt, or the model never stops; the newline after it must not."""
    tokenizer = Fake(template)
    row = encode(tokenizer, CHAT, "Hi.")
    asked = len(tokenizer(render(tokenizer, CHAT), add_special_tokens=False).input_ids)
    assert len(row["labels"]) == len(row["input_ids"])
    assert row["labels"][:asked] == [IGNORED] * asked
    assert text_of(row["input_ids"][:asked]) == render(tokenizer, CHAT)
    assert row["labels"][asked:] == row["input_ids"][asked:]
    assert text_of(row["labels"][asked:]) == f"Hi.{end}"


def test_a_template_that_opens_the_reply_in_another_way_still_teaches_the_reply() -> None:
    """Some templates open a turn to be written with more than they put before one that is written (`<think>`)."""
    tokenizer = Fake(opening="<assistant><think></think>")
    row = encode(tokenizer, CHAT, "Hi.")
    labelled = [i for i in row["labels"] if i != IGNORED]
    assert text_of(labelled) == "Hi.<eos>"
    assert text_of(row["input_ids"]) == render(tokenizer, CHAT) + "Hi.<eos>"


def test_a_model_that_may_think_first_answers_at_once() -> None:
    """Its template writes a reply behind thoughts that are over, and opens one so where it is told to."""
    own = tokenizer()
    own.add_special_tokens({"additional_special_tokens": ["~"]})
    own.chat_template = (
        "{% for m in messages %}[{{ m.role }}]{{ '(hm)(/hm)' if m.role == 'assistant' }}{{ m.content }}~{% endfor %}"
        "{% if add_generation_prompt %}[assistant]{{ '(hm)(/hm)' if enable_thinking is false }}{% endif %}"
    )
    row = encode(own, CHAT, "Hi.")
    learnt = [i for i in row["labels"] if i != IGNORED]
    assert own.decode(learnt) == "Hi.~"
    assert own.decode(row["input_ids"]) == render(own, CHAT) + "Hi.~" == render(own, CHAT, reply="Hi.")


def test_what_a_manifest_says_of_a_recipe() -> None:
    assert describe(Recipe("s", (("a", "b"),), ARTICLES, "bm25", 2)) == {
        "examples": 1, "retrieval": "bm25", "top_k": 2,
    }  # fmt: skip


def test_a_template_without_a_system_turn_gets_it_in_the_first_message() -> None:
    class NoSystem(Fake):
        def apply_chat_template(self, chat: list[ChatMessage], **options: Any) -> str:
            if chat[0]["role"] == "system":
                raise TemplateError("System role not supported")
            return super().apply_chat_template(chat, **options)

    assert render(NoSystem(), CHAT) == "<user>Be kind.\n\nHello?<end>\n<assistant>"
    assert render(NoSystem(), CHAT, reply="Hi.") == "<user>Be kind.\n\nHello?<end>\n<assistant>Hi.<end>\n"

    class NoReply(Fake):
        def apply_chat_template(self, chat: list[ChatMessage], **options: Any) -> str:
            raise TemplateError("no")

    with pytest.raises(TemplateError, match="no"):
        render(NoReply(), CHAT[1:])


@pytest.mark.parametrize(
    ("own", "template", "closing", "found"),
    [
        (7, True, "<end>\n", {7, 1, 2}),
        ([7, 8], True, "<end>\n", {7, 8, 1, 2}),
        (None, False, "<end>\n", {1}),
        (1, True, "\n\n", {1}),
        (1, True, " end of turn", {1}),
    ],
)
def test_an_answer_ends_where_its_turn_is_closed(own: Any, template: bool, closing: str, found: set[int]) -> None:
    """By a token made for that: words and line breaks that close a turn stand in answers too."""
    assert stops(SimpleNamespace(eos_token_id=own), Fake(template, closing)) == found


@pytest.mark.parametrize("name", ["phi3_medium", "phi3_mini", "mistral_03"])
def test_a_system_text_that_a_template_passes_over_stands_in_the_first_message(name: str) -> None:
    own = templated(TEMPLATES[name])
    prompt = render(own, CHAT)
    assert "Be kind.\n\nHello?" in prompt
    assert render(own, CHAT, reply="Hi.").startswith(prompt), "calibration sees it too"
    assert own.decode(encode(own, CHAT, "Hi.")["input_ids"]).startswith(own.decode(own(prompt).input_ids))
    shown = [CHAT[0], {"role": "user", "content": "Why?"}, {"role": "assistant", "content": "So."}, CHAT[1]]
    assert render(own, shown).count("Be kind.") == 1


def test_a_system_text_that_a_template_writes_in_another_way_stays_where_it_is() -> None:
    chat: list[ChatMessage] = [{"role": "system", "content": "Be kind.\n\nBe brief."}, CHAT[1]]
    assert render(templated(FALCON_7B), chat) == "\n\nSystem: Be kind.\nBe brief.\n\nUser: Hello?\n\nAssistant:"


@pytest.mark.parametrize("name", ["llama_32", "smollm3", "harmony"])
def test_a_prompt_is_the_same_on_any_day(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    own = templated(TEMPLATES[name])
    on(datetime.datetime(2024, 7, 26), monkeypatch)
    then = own.apply_chat_template(CHAT, tokenize=False, add_generation_prompt=True)
    told = [render(own, CHAT), render(own, CHAT, reply="Hi.")]
    assert told[0].startswith(then), "to the letter what the template itself writes on that day"
    assert ("26 Jul" in then) or ("2024-07-26" in then)
    on(datetime.datetime(2031, 1, 2), monkeypatch)
    assert own.apply_chat_template(CHAT, tokenize=False, add_generation_prompt=True) != then
    assert [render(own, CHAT), render(own, CHAT, reply="Hi.")] == told


def test_the_day_is_told_in_every_form_that_templates_ask_for() -> None:
    day = datetime.datetime(2024, 7, 26, 12)
    assert {code: day.strftime(f"%{code}") for code in TODAY} == TODAY
    own = templated("{% for m in messages %}{{ m.content }}{% endfor %}{{ strftime_now('%A, %-d/%m/%y %H:%M') }}")
    assert render(own, CHAT).endswith("Friday, 26/07/24 12:00")


@pytest.mark.parametrize("start", ["\n", "  \n", "  {% if true %}x{% endif %}", "\n\n  {%- if true %}x{% endif %}"])
def test_a_template_that_asks_for_the_day_keeps_its_own_beginning(start: str, monkeypatch: pytest.MonkeyPatch) -> None:
    own = templated(start + "{% for m in messages %}{{ m.content }}{% endfor %}{{ strftime_now('%Y') }}")
    on(datetime.datetime(2024, 7, 26), monkeypatch)
    assert render(own, CHAT) == own.apply_chat_template(CHAT, tokenize=False)


def test_what_opens_every_reply_stands_in_the_prompt_and_is_not_learnt() -> None:
    own = templated(HARMONY)
    assert render(own, CHAT).endswith("Hello?<|end|><|start|>assistant<|channel|>final<|message|>")
    assert render(own, CHAT, reply="billing").endswith("<|start|>assistant<|channel|>final<|message|>billing<|return|>")
    assert learnt(own, "billing") == "billing<|return|>"
    assert learnt(own, "billing", skip=True) == "billing"


def test_a_template_that_opens_no_turn_for_the_reply_has_it_opened() -> None:
    own = templated("{% for m in messages %}<|at|>{{ m.role }}\n{{ m.content }}<|end|>\n{% endfor %}")
    assert render(own, CHAT).endswith("Hello?<|end|>\n<|at|>assistant\n")
    assert learnt(own, "Hi.") == "Hi.<|end|>"


@pytest.mark.parametrize("name", ["falcon", "falcon_7b"])
def test_a_reply_that_a_template_closes_with_no_token_is_closed_by_the_end_of_text(name: str) -> None:
    own = templated(TEMPLATES[name])
    assert learnt(own, "Yes.") == " Yes.<eos>"
    assert render(own, CHAT, reply="Yes.").endswith(" Yes.<eos>")
    assert encode(own, CHAT, "Yes.")["labels"][-1] in stops(None, own)


@pytest.mark.parametrize("closing", ["\n", "\n\n", " (end)\n"])
def test_words_and_line_breaks_that_close_a_turn_are_not_learnt(closing: str) -> None:
    """They would be scored as a part of the answer."""
    row = encode(Fake(closing=closing), CHAT, "Hi.\nBye.")
    assert text_of([i for i in row["labels"] if i != IGNORED]) == "Hi.\nBye.<eos>"


def test_an_end_token_that_holds_a_line_break_is_learnt_whole() -> None:
    own = tokenizer()
    own.add_special_tokens({"additional_special_tokens": ["<end>\n"]})
    own.chat_template = (
        "{% for m in messages %}{{ '>' + m.content + '<end>\n' }}{% endfor %}{{ '>' if add_generation_prompt }}"
    )
    assert learnt(own, "Hi.") == "Hi.<end>\n"


def test_nothing_is_learnt_behind_what_ends_an_answer() -> None:
    own = templated(PHI3_MINI)
    assert render(own, CHAT, reply="Hi.").endswith("Hi.<|end|>\n<eos>")
    assert learnt(own, "Hi.") == "Hi.<|end|>"


THOUGHTS_LEFT_OUT = (
    "{% for m in messages %}<|{{ m.role }}|>{{ m.content.split('</think>')[-1] }}{{ eos_token }}{% endfor %}"
    "{{ '<|assistant|>' if add_generation_prompt }}"
)


@pytest.mark.parametrize(
    ("template", "reply", "told"),
    [
        (THOUGHTS_LEFT_OUT, "<think>two and two is four</think> 4",
         "the model's chat template writes its reply otherwise from '<think>two and two is four</think> 4' on; leave"),
        (FALCON_7B, "Hi.\n\nBye.", "writes its reply otherwise from '\\nBye.' on; leave out what the template"),
        (SMOLLM2, "was <s>5<eos> and more", "its reply holds '<eos>', at which this model's answers end; write it"),
        (SMOLLM2, "Yes.<|im_end|>", "its reply holds '<|im_end|>', at which"),
        ("", "Yes.<eos>", "its reply holds '<eos>', at which"),
    ],
)  # fmt: skip
def test_a_reply_that_would_be_learnt_otherwise_is_told(template: str, reply: str, told: str) -> None:
    own = templated(template)
    own.chat_template = template or None
    assert told in (unlearnable(own, CHAT, reply) or "")
    assert unlearnable(own, CHAT, "4") is None


@pytest.mark.parametrize("name", [*TEMPLATES, "thoughts left out", "none"])
@pytest.mark.parametrize("reply", ["Hi.\nBye.", "  <b>4</b>\n", "[/INST]", "{'a': 1}"])
def test_a_reply_may_lose_the_white_space_around_it(name: str, reply: str) -> None:
    own = templated({**TEMPLATES, "thoughts left out": THOUGHTS_LEFT_OUT}.get(name, ""))
    own.chat_template = own.chat_template or None
    assert unlearnable(own, CHAT, reply) is None


def test_a_template_that_leaves_out_replies_is_refused() -> None:
    """Such as those that take lists of parts alone."""
    own = templated(
        "{% for m in messages %}{{ m.role }}:{% for p in m.content %}{{ p.text }}{% endfor %}\n{% endfor %}"
    )
    with pytest.raises(UserError, match="leaves out replies that are plain text"):
        render(own, CHAT)


def test_the_shipped_models_prompts_stay_what_they_are() -> None:
    """To the byte: cells that are compared row by row must have seen the same prompts."""
    own = templated(SMOLLM2)
    own.bos_token = "<|im_start|>"
    assert render(own, CHAT) == (
        "<|im_start|>system\nBe kind.<|im_end|>\n<|im_start|>user\nHello?<|im_end|>\n<|im_start|>assistant\n"
    )
    assert render(own, CHAT, reply="Hi.") == render(own, CHAT) + "Hi.<|im_end|>\n"
    assert learnt(own, "Hi.") == "Hi.<|im_end|>"
    data = load_suite(cell().suite)
    message = next(row["message"] for row in data.evaluation if row["id"] == "order-cancel-e08")
    few, rag, tuned = PromptRag().few_shot, PromptRag().top_k, Lora().top_k
    examples = tuple((r["message"], r["reply"]) for r in data.train[:few])
    asked = f"{data.system}\n\n{data.instructions}"
    recipes = (
        Recipe(asked, examples, data.knowledge, "bm25", rag, data.asked),
        Recipe(data.system, (), data.knowledge, "bm25", tuned, data.asked),
    )
    prompts = [render(own, Prompter(recipe)(message)) for recipe in recipes]
    found = [hashlib.sha256(text.encode()).hexdigest()[:16] for text in prompts]
    assert found == ["0c34cce71ddafa2f", "787ca911e8b86201"]  # `prompt_hash` in docs/example/rows
