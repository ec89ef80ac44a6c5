"""The loss that training minimises is the model's own, at the reply alone."""

from __future__ import annotations

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from harness.adapt.training import collate, completion_loss
from harness.prompt import IGNORED


@pytest.fixture(scope="module")
def model() -> LlamaForCausalLM:
    torch.manual_seed(0)
    return LlamaForCausalLM(
        LlamaConfig(hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4, vocab_size=100)
    )


ROWS = [
    {"input_ids": [5, 6, 7, 8, 9], "labels": [IGNORED, IGNORED, 7, 8, 9]},
    {"input_ids": [1, 2, 3], "labels": [IGNORED, 2, 3]},
]


def test_completion_loss_is_the_models_own(model: LlamaForCausalLM) -> None:
    batch = collate(0, ROWS)
    own = model(**batch).loss
    ours = completion_loss(model, batch)
    assert torch.isclose(own, ours, rtol=1e-5)
    assert torch.isclose(completion_loss(model, batch, items=10), own * 5 / 10, rtol=1e-5)


def test_its_gradient_too(model: LlamaForCausalLM) -> None:
    batch = collate(0, ROWS)
    grads = []
    for loss in (model(**batch).loss, completion_loss(model, batch)):
        model.zero_grad()
        loss.backward()
        grads.append(model.model.layers[0].mlp.up_proj.weight.grad.clone())
    assert torch.allclose(*grads, rtol=1e-4, atol=1e-7)


def test_collate_pads_on_the_right_and_labels_nothing_there() -> None:
    batch = collate(0, ROWS)
    assert batch["input_ids"].tolist() == [[5, 6, 7, 8, 9], [1, 2, 3, 0, 0]]
    assert batch["labels"].tolist()[1] == [IGNORED, 2, 3, IGNORED, IGNORED]
    assert batch["attention_mask"].tolist()[1] == [1, 1, 1, 0, 0]
