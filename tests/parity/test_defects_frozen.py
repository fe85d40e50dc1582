"""Training with frozen embeddings, with LoRA, and through `torch.autograd.grad`."""

from typing import Any

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from torch import Tensor, nn
from torch.testing import assert_close

from tests.parity.defect_models import (
    LENGTH,
    build_ours,
    build_stock,
    gradients,
    largest,
    random_ids,
)

# peft asks the model for a property that transformers has renamed.
pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")


def loss_of(model: nn.Module, ids: Tensor) -> Tensor:
    """The loss, with the same random numbers at every call."""
    torch.manual_seed(1)
    return model(input_ids=ids, labels=ids).loss


def encoder_gradients(model: nn.Module, ids: Tensor) -> dict[str, Tensor]:
    loss_of(model, ids).backward()
    return gradients(model.reformer.encoder.layers)


def add_lora(model: nn.Module) -> PeftModel:
    """LoRA on all projections of attention, with adapters that are not zero."""
    torch.manual_seed(2)
    projections = ["query", "key", "query_key", "value"]
    return get_peft_model(
        model,
        LoraConfig(task_type="CAUSAL_LM", target_modules=projections, r=2, init_lora_weights=False),
    )


class TestFrozenEmbeddings:
    """An encoder whose input needs no gradient."""

    def test_encoder_learns_below_frozen_embeddings(self):
        ids = random_ids(2, LENGTH)
        whole, frozen = build_ours().train(), build_ours().train()
        frozen.reformer.embeddings.requires_grad_(False)
        assert_close(encoder_gradients(frozen, ids), encoder_gradients(whole, ids))

    def test_stock_encoder_gets_no_gradient(self):
        model = build_stock().train()
        model.reformer.embeddings.requires_grad_(False)
        tensors = len(list(model.reformer.encoder.layers.parameters()))
        without = tensors - len(encoder_gradients(model, random_ids(2, LENGTH)))
        print(f"{without} of {tensors}")
        assert without == tensors


class TestAutogradGrad:
    """Gradients without `backward()`."""

    def gradients(self, model: nn.Module, ids: Tensor) -> tuple[Tensor, ...]:
        return torch.autograd.grad(loss_of(model, ids), list(model.reformer.encoder.parameters()))

    def test_autograd_grad(self):
        ids = random_ids(2, LENGTH)
        plain = self.gradients(build_ours(reversible=False).train(), ids)
        assert_close(self.gradients(build_ours().train(), ids), plain)

    def test_stock_autograd_grad_fails(self):
        with pytest.raises(RuntimeError, match="not have been used in the graph"):
            self.gradients(build_stock().train(), random_ids(2, LENGTH))


class TestLora:
    """peft's adapters, in training and in generation."""

    def adapter_gradients(self, ids: Tensor, **fields: Any) -> dict[str, Tensor]:
        model = add_lora(build_ours(**fields)).train()
        loss_of(model, ids).backward()
        assert gradients(model).keys() == {
            name for name, p in model.named_parameters() if p.requires_grad
        }
        return gradients(model)

    def test_lora_trains(self):
        ids = random_ids(2, LENGTH)
        assert_close(self.adapter_gradients(ids), self.adapter_gradients(ids, reversible=False))

    def test_stock_lora_does_not_train(self):
        model = add_lora(build_stock()).train()
        with pytest.raises(RuntimeError, match="does not require grad"):
            loss_of(model, random_ids(2, LENGTH)).backward()

    def test_lora_generates_as_merged(self):
        model = add_lora(build_ours())
        prompt = {"input_ids": random_ids(2, 20), "max_new_tokens": 20, "do_sample": False}
        adapted = model.generate(**prompt)
        assert_close(model.merge_and_unload().generate(**prompt), adapted)
        assert not torch.equal(build_ours().generate(**prompt), adapted)

    def test_stock_cached_step_ignores_lora(self):
        model = add_lora(build_stock(attn_layers=["lsh"]))
        prefix, token = random_ids(1, 24), random_ids(1, 1)

        def step() -> Tensor:
            cache = model(input_ids=prefix, use_cache=True).past_buckets_states
            return model(input_ids=token, past_buckets_states=cache, use_cache=True).logits

        unmerged = step()
        model.merge_adapter()
        moved = largest(step() - unmerged)
        print(moved)
        assert moved > 0.1
