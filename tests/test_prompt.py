"""A recipe survives its file, and the model reads and learns exactly the text that it should."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from jinja2 import TemplateError
from tokenizers.processors import TemplateProcessing

from harness.prompt import (
    IGNORED,
    RECIPE,
    ChatMessage,
    Prompter,
    Recipe,
    describe,
    encode,
    load_prompter,
    render,
    short_chat,
    stops,
)
from harness.types import Article
from tests.cells import suite_data
from tests.test_engine import tokenizer

ARTICLES = (
    Article("a1", "Returns", "Unworn boots can be returned within 45 days."),
    Article("a2", "Shipping", "Parcels to Canada take 5 business days."),
)
CHAT: list[ChatMessage] = [{"role": "system", "content": "Be kind."}, {"role": "user", "content": "Hello?"}]


class Fake:
    """A tokenizer whose tokens are characters, with a template in the manner of ChatML."""

    def __init__(self, template: bool = True, closing: str = "<end>\n", opening: str = "<assistant>") -> None:
        self.chat_template = "a template" if template else None
        self.eos_token = "<eos>"
        self.closing, self.opening = closing, opening
        self.eos_token_id = 1
        self.added_tokens_decoder = {ord("<"): "<", 1: "<eos>"}

    def apply_chat_template(
        self, chat: list[ChatMessage], *, tokenize: bool, add_generation_prompt: bool = False, **_: Any
    ) -> str:
        assert tokenize is False
        said = "".join(f"<{m['role']}>{m['content']}{self.closing}" for m in chat)
        return said + (self.opening if add_generation_prompt else "")

    def __call__(self, text: str, *, add_special_tokens: bool = True) -> Any:
        assert not text or add_special_tokens is False, "the text has them already"
        return SimpleNamespace(input_ids=[ord(c) for c in text])


def text_of(ids: list[int]) -> str:
    return "".join(map(chr, ids))


def test_a_recipe_survives_its_file(tmp_path: Path) -> None:
    recipe = Recipe("Seien Sie höflich.", (("Ask?", "Answer."), ("Why?", "So.")), ARTICLES, "bm25", 2)
    recipe.save(tmp_path)
    assert [f.name for f in tmp_path.iterdir()] == [RECIPE]
    assert load_prompter(tmp_path).recipe == recipe


def test_a_model_folder_without_a_recipe_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=RECIPE):
        load_prompter(tmp_path)


def test_system_examples_facts_and_message_stand_in_that_order() -> None:
    chat = Prompter(Recipe("Be kind.", (("Ask?", "Answer."),), ARTICLES, "bm25", 1, "Email"))("How long to Canada?")
    assert [m["role"] for m in chat] == ["system", "user", "assistant", "user"]
    assert [m["content"] for m in chat] == [
        "Be kind.", "Ask?", "Answer.",
        "Facts:\nShipping: Parcels to Canada take 5 business days.\n\nEmail:\nHow long to Canada?",
    ]  # fmt: skip


@pytest.mark.parametrize(("articles", "method"), [((), "bm25"), (ARTICLES, "none")])
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


@pytest.mark.parametrize(("template", "end"), [(True, "<end>"), (False, "<eos>")])
def test_only_the_reply_and_its_end_are_learnt(template: bool, end: str) -> None:
    """The end token must be learnt, or the model never stops; the newline after it must not."""
    tokenizer = Fake(template)
    row = encode(tokenizer, CHAT, "Hi.")
    asked = len(render(tokenizer, CHAT))
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
        (7, True, "<end>\n", {7, 1, ord("<")}),
        ([7, 8], True, "<end>\n", {7, 8, 1, ord("<")}),
        (None, False, "<end>\n", {1}),
        (1, True, "\n\n", {1}),
        (1, True, " end of turn", {1}),
    ],
)
def test_an_answer_ends_where_its_turn_is_closed(own: Any, template: bool, closing: str, found: set[int]) -> None:
    """By a token made for that: words and line breaks that close a turn stand in answers too."""
    assert stops(SimpleNamespace(eos_token_id=own), Fake(template, closing)) == found
