"""Adapters of peft in generation: unmerged, they take part in every cached step."""

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from torch.testing import assert_close

from tests.models.generation_loops import MODELS, NEW, build_model, pad_left, some_rows
from tests.models.tiny import random_ids

# peft asks the model for a property that transformers has renamed.
pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")

GREEDY = {"do_sample": False, "max_new_tokens": NEW}
RECORDS = {"return_dict_in_generate": True, "output_logits": True}


def add_lora(name: str) -> PeftModel:
    """A model with adapters that are not zero, on all its linear layers."""
    model = build_model(name)
    torch.manual_seed(2)
    options = {"target_modules": "all-linear", "r": 2, "lora_dropout": 0.2}
    config = LoraConfig(task_type="CAUSAL_LM", init_lora_weights=False, **options)
    return get_peft_model(model, config).double().eval()


@pytest.mark.parametrize("mode", [{}, {"num_beams": 3}, {"do_sample": True, "top_k": 0}])
@pytest.mark.parametrize("name", MODELS)
def test_cached_is_uncached(name, mode):
    model, batch, found = add_lora(name), pad_left(some_rows(19, 4, 11)), []
    for use_cache in (True, False):
        torch.manual_seed(1)
        options = {**GREEDY, **mode, **RECORDS, "use_cache": use_cache}
        found.append(model.generate(**batch, **options))
    assert torch.equal(found[0].sequences, found[1].sequences)
    assert_close(torch.stack(found[0].logits), torch.stack(found[1].logits))


@pytest.mark.parametrize("name", MODELS)
def test_all_adapters_take_part(name):
    model, base, ids = add_lora(name), build_model(name), random_ids(2, 19)
    adapted = model.generate(input_ids=ids, **GREEDY, **RECORDS)
    plain = base.generate(ids, **GREEDY, **RECORDS)
    assert not torch.equal(adapted.sequences, plain.sequences)
    with model.disable_adapter():
        off = model.generate(input_ids=ids, **GREEDY, **RECORDS)
    assert torch.equal(off.sequences, plain.sequences)
    assert_close(torch.stack(off.logits), torch.stack(plain.logits))
    merged = model.merge_and_unload().generate(ids, **GREEDY, **RECORDS)
    assert torch.equal(merged.sequences, adapted.sequences)
    assert_close(torch.stack(merged.logits), torch.stack(adapted.logits))


@pytest.mark.parametrize("name", MODELS)
def test_each_adapter_moves_cached_steps(name):
    model, ids = add_lora(name), random_ids(1, 30)
    layers = [module for module in model.modules() if hasattr(module, "lora_B")]
    assert len(layers) > 3 * len(model.config.attn_layers)

    def steps() -> torch.Tensor:
        """Logits of steps behind a prompt that was read without adapters."""
        with torch.no_grad():
            with model.disable_adapter():
                cache = model(input_ids=ids[:, :18], use_cache=True).past_key_values
            tokens = ids[:, 18:].split(1, dim=1)
            found = [model(input_ids=token, past_key_values=cache).logits for token in tokens]
        return torch.cat(found, dim=1)

    logits = steps()
    for layer in layers:
        weight = layer.lora_B["default"].weight
        kept = weight.detach().clone()
        weight.data.zero_()
        assert not torch.equal(steps(), logits)
        weight.data.copy_(kept)
    assert torch.equal(steps(), logits)
