"""Muon for the matrices of the layers and AdamW for the rest, as one optimizer."""

import copy
import io
import re
from types import SimpleNamespace

import pytest
import torch
from accelerate.utils import DistributedType
from datasets import Dataset
from peft import LoraConfig, get_peft_model
from torch import nn
from torch.optim.lr_scheduler import LambdaLR
from transformers import GPT2Config, GPT2LMHeadModel, Trainer, TrainingArguments, get_scheduler

from reformer_hf.training import make_optimizer, wide_muon
from reformer_hf.training.optimizers import MuonAdamW, check_machine, hidden_matrices, muon_rate
from tests.models.heads import HEADS
from tests.models.tiny import SPARSE_PROJECTIONS, WITH_SRU, random_ids, tiny_lm

MODELS = {name: head.build for name, head in HEADS.items()} | {
    "causal": tiny_lm,
    "normalised queries and keys": lambda: tiny_lm(use_qk_norm=True),
    "sparse": lambda: tiny_lm(ff_sparsity=4),
    "wrapped": lambda: nn.DataParallel(tiny_lm()),
    "gpt2": lambda: GPT2LMHeadModel(
        GPT2Config(vocab_size=40, n_embd=16, n_layer=2, n_head=2)
    ),  # its head is its embeddings
}


@pytest.mark.parametrize("name", [name for name in MODELS if name != "sparse"])
def test_muon_gets_the_matrices_of_the_layers_and_nothing_else(name):
    model = MODELS[name]()
    optimizer = make_optimizer(model, 1e-3, 2e-2, weight_decay=0.2)  # torch's Muon has 0.1
    names = {parameter: name for name, parameter in model.named_parameters()}
    found = {"adamw": [], "muon": []}
    for group in optimizer.param_groups:
        found[group["algorithm"]] += [names[parameter] for parameter in group["params"]]
        assert group["lr"] == (1e-3 if group["algorithm"] == "adamw" else 2e-2)
        decays = {parameter.ndim > 1 for parameter in group["params"]}
        assert decays == {group["weight_decay"] == 0.2}
    of_layers = [
        name
        for name, parameter in model.named_parameters()
        if re.search(r"\.(layers|h)\.\d+\.", name) and parameter.ndim == 2
    ]
    assert found["muon"] == of_layers and of_layers
    assert sorted(found["adamw"] + found["muon"]) == sorted(names.values())


def test_sparse_feed_forward_takes_the_steps_of_a_dense_one_and_its_controller_is_adamws():
    dense, sparse = tiny_lm(), tiny_lm(ff_sparsity=4)
    pairs = []
    for layer, other in zip(
        dense.reformer.encoder.layers, sparse.reformer.encoder.layers, strict=True
    ):
        right, found = layer.feed_forward.output.dense.weight, other.feed_forward.down_weight
        right.grad = torch.randn_like(right)
        found.data, found.grad = right.data.t().clone(), right.grad.t().clone()
        pairs.append((right, found))
    for model in (dense, sparse):
        optimizer = make_optimizer(model, 1e-3, 2e-2, weight_decay=0.2)
        optimizer.step()
    for right, found in pairs:
        torch.testing.assert_close(found.t(), right)
    names = {parameter: name for name, parameter in sparse.named_parameters()}
    for group in optimizer.param_groups:
        is_controller = {".controller." in names[parameter] for parameter in group["params"]}
        assert group["algorithm"] == "adamw" or is_controller == {False}
    assert muon_rate(optimizer) == {"muon_learning_rate": 2e-2}


def test_gates_are_no_matrix_for_muon():
    """Nor is a sparse output layer; what modules share is, and so are convolutions."""
    fields = {**SPARSE_PROJECTIONS, "lm_head_sparsity": 4, "lm_head_sparse_share": 0.5}
    model = tiny_lm(attn_layers=["local"], **fields)
    names = {parameter: name for name, parameter in model.named_parameters()}
    found = {names[parameter].split("layers.0.")[1] for parameter in hidden_matrices(model)}
    attention = {f"{name}.weight" for name in ("shared_projection", "query", "key", "value")}
    assert found == {
        *(f"attention.self_attention.{name}" for name in attention),
        *("feed_forward.dense.dense.weight", "feed_forward.output.dense.weight"),
    }


@pytest.mark.parametrize("name", [*HEADS, "causal", "normalised queries and keys", "sparse"])
def test_what_decays_is_what_decays_in_a_trainer(name, tmp_path):
    model = MODELS[name]()
    trainer = Trainer(model, TrainingArguments(str(tmp_path), use_cpu=True))
    names = {parameter: name for name, parameter in model.named_parameters()}
    optimizer = make_optimizer(model, 1e-3, weight_decay=0.1)
    decaying = [g["params"] for g in optimizer.param_groups if g["weight_decay"]]
    found = {names[parameter] for params in decaying for parameter in params}
    assert found == set(trainer.get_decay_parameter_names(model))


def gradients(model, seed):
    """Give each parameter a gradient."""
    generator = torch.Generator().manual_seed(seed)
    for parameter in model.parameters():
        parameter.grad = torch.randn(parameter.shape, generator=generator)


def train(model, optimizer, steps, scheduler=None):
    for step in steps:
        gradients(model, step)
        optimizer.step()
        if scheduler is not None:
            scheduler.step()


def both(model, **fields):
    return make_optimizer(model, 1e-2, 3e-2, muon_momentum=0.9, weight_decay=0.1, **fields)


def same(first, second):
    pairs = zip(first.parameters(), second.parameters(), strict=True)
    return all(torch.equal(*pair) for pair in pairs)


def test_the_gates_of_recurrent_units_are_matrices_of_their_own():
    model = tiny_lm(attn_layers=["local"], **WITH_SRU)
    unit = model.reformer.encoder.layers[0].sru.units[1]
    matrices = hidden_matrices(model)
    for gate in (unit.forget, unit.reset, unit.candidate):
        assert any(gate.weight is each for each in matrices) and gate.weight.shape == (3, 3)


def test_a_step_is_that_of_the_two_optimizers_of_torch(monkeypatch):
    monkeypatch.setattr(wide_muon, "multiplies_bfloat16", lambda: True)
    model, other = tiny_lm(), tiny_lm()
    matrices = hidden_matrices(other)
    rest = [each for each in other.parameters() if all(each is not one for one in matrices)]
    groups = [
        {"params": [p for p in rest if (p.ndim > 1) == d], "weight_decay": 0.1 * d} for d in (1, 0)
    ]
    parts = [
        torch.optim.AdamW(groups, lr=1e-2, betas=(0.8, 0.95), eps=1e-6),
        torch.optim.Muon(
            matrices, lr=3e-2, momentum=0.9, weight_decay=0.1, adjust_lr_fn="original"
        ),
    ]
    optimizer = both(model, betas=(0.8, 0.95), eps=1e-6)
    schedules = [LambdaLR(each, lambda step: 1 / (1 + step)) for each in (optimizer, *parts)]
    for step in range(3):
        gradients(model, step)
        gradients(other, step)
        for each in (optimizer, *parts):
            each.step()
        for each in schedules:
            each.step()
    assert schedules[0].get_last_lr() == [1e-2 / 4, 1e-2 / 4, 3e-2 / 4]
    assert muon_rate(optimizer) == {"muon_learning_rate": 3e-2 / 4} and muon_rate(parts[0]) == {}
    assert same(model, other) and not same(model, tiny_lm())
    optimizer.zero_grad()
    assert all(parameter.grad is None for parameter in model.parameters())


def saved(optimizer):
    """A state that has been in a file, read as the Trainer reads it."""
    file = io.BytesIO()
    torch.save(optimizer.state_dict(), file)
    file.seek(0)
    return torch.load(file, weights_only=True)


@pytest.mark.parametrize("kind", ["loaded", "copied", "older torch"])
def test_a_state_that_was_saved_goes_on_bit_for_bit(kind):
    model, other = tiny_lm(), tiny_lm()
    first, second = both(model), both(other)
    train(model, first, range(2))
    if kind == "copied":
        other, second = copy.deepcopy((model, first))
    else:
        other.load_state_dict(model.state_dict())
        state = saved(first)
        for group in state["param_groups"] if kind == "older torch" else ():
            group.pop("decoupled_weight_decay", None)  # AdamW's, of torch 2.7
        second.load_state_dict(state)
    train(model, first, range(2, 4))
    train(other, second, range(2, 4))
    assert same(model, other)
    states = [optimizer.state_dict()["state"] for optimizer in (first, second)]
    for index, values in states[0].items():
        assert all(torch.equal(value, states[1][index][name]) for name, value in values.items())
    kinds = [set(values) for values in states[0].values()]
    assert {"momentum_buffer"} in kinds and {"step", "exp_avg", "exp_avg_sq"} in kinds


@pytest.mark.parametrize("schedule", ["polynomial", "cosine_with_min_lr", "inverse_sqrt"])
def test_schedules_of_transformers_scale_each_rate(schedule):
    optimizer = both(tiny_lm())
    more = {"min_lr": 1e-3} if schedule == "cosine_with_min_lr" else {}
    scheduler = get_scheduler(schedule, optimizer, 2, 10, scheduler_specific_kwargs=more)
    for _ in range(6):
        optimizer.step()
        scheduler.step()
        rates = [group["lr"] for group in optimizer.param_groups]
        assert rates[0] == rates[1] == pytest.approx(rates[2] / 3) and 0 < rates[0] <= 1e-2


def test_a_scaler_divides_the_gradients_of_both_and_leaves_out_infinite_steps():
    model, other = tiny_lm(), tiny_lm()
    first, second = both(model), both(other)
    scaler = torch.amp.GradScaler("cpu", init_scale=4.0)
    gradients(model, 0)
    gradients(other, 0)
    for parameter in model.parameters():
        parameter.grad = scaler.scale(parameter.grad)
    scaler.step(first)
    scaler.update()
    second.step()
    assert same(model, other)
    hidden_matrices(model)[0].grad[0, 0] = torch.inf
    scaler.step(first)
    assert same(model, other)


def test_a_closure_is_called_once():
    model = tiny_lm()
    optimizer, calls = both(model), []

    def closure():
        assert torch.is_grad_enabled()
        calls.append(0)
        gradients(model, 0)
        return 5.0

    assert optimizer.step(closure) == 5.0 and len(calls) == 1 and not same(model, tiny_lm())


@pytest.mark.parametrize("muon", [None, 0, 0.0])
def test_without_muon_it_is_adamw(muon):
    optimizer = make_optimizer(tiny_lm(), 1e-3, muon, weight_decay=0.1, betas=(0.8, 0.9))
    assert type(optimizer) is torch.optim.AdamW and optimizer.defaults["betas"] == (0.8, 0.9)


def test_what_is_frozen_is_in_no_group():
    model = tiny_lm()
    model.reformer.embeddings.requires_grad_(False)
    model.reformer.encoder.layers[0].requires_grad_(False)
    groups = both(model).param_groups
    assert all(each.requires_grad for group in groups for each in group["params"])
    trained = sum(each.requires_grad for each in model.parameters())
    assert sum(len(group["params"]) for group in groups) == trained
    for parameter in model.parameters():
        parameter.requires_grad_(any(parameter is one for one in hidden_matrices(model)))
    train(model, both(model), range(1))  # AdamW has nothing to do


@pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing.:FutureWarning")  # read by PEFT
def test_adapters_are_trained_with_adamw():
    model = get_peft_model(tiny_lm(), LoraConfig(target_modules="all-linear"))
    with pytest.raises(ValueError, match=r"^muon_learning_rate=0.02: .* \(adapters are AdamW's\)"):
        make_optimizer(model, 1e-3, 0.02)
    (group,) = make_optimizer(model, 1e-3).param_groups
    assert all(
        "lora" in n for n, p in model.named_parameters() if any(p is q for q in group["params"])
    )


def test_what_cannot_be_is_said(monkeypatch):
    model = tiny_lm()
    model.reformer.encoder.requires_grad_(False)
    with pytest.raises(ValueError, match="^muon_learning_rate=0.02: there are no matrices"):
        make_optimizer(model, 1e-3, 0.02)
    monkeypatch.delattr(torch.optim, "Muon")
    with pytest.raises(ValueError, match="^muon_learning_rate=0.02: torch 2.* Install torch 2.9"):
        make_optimizer(tiny_lm(), 1e-3, 0.02)
    assert isinstance(make_optimizer(tiny_lm(), 1e-3), torch.optim.AdamW)


def accelerator(kind, version=None):
    plugin = None if version is None else SimpleNamespace(fsdp_version=version)
    return SimpleNamespace(
        distributed_type=DistributedType[kind],
        state=SimpleNamespace(fsdp_plugin=plugin),
        device=torch.device("cpu"),
    )


@pytest.mark.parametrize("kind", [("DEEPSPEED",), ("MEGATRON_LM",), ("FSDP", 1)])
def test_shards_that_are_no_matrices_are_refused(kind):
    with pytest.raises(ValueError, match=rf"^muon_learning_rate=0.02 with {kind[0]}: .* FSDP2"):
        check_machine(0.02, accelerator(*kind))
    for off in (None, 0):
        check_machine(off, accelerator(*kind))
    check_machine(0.02, accelerator("FSDP", 2))
    check_machine(0.02, accelerator("MULTI_CPU"))


def test_a_trainer_of_transformers_takes_it(tmp_path):
    rows = Dataset.from_dict({"input_ids": random_ids(8, 12).tolist()})
    rows = rows.add_column("labels", rows["input_ids"])

    def run(folder, **fields):
        model = tiny_lm(redraw_rotations=False)
        arguments = TrainingArguments(
            str(tmp_path / folder),
            report_to="none",
            use_cpu=True,
            disable_tqdm=True,
            max_steps=4,
            save_steps=2,
            per_device_train_batch_size=2,
            max_grad_norm=0.1,
        )
        trainer = Trainer(model, arguments, train_dataset=rows, optimizers=(both(model), None))
        trainer.train(**fields)
        assert isinstance(trainer.optimizer.optimizer, MuonAdamW)
        return model

    straight = run("run")
    again = run("again", resume_from_checkpoint=str(tmp_path / "run" / "checkpoint-2"))
    assert same(straight, again) and not same(straight, tiny_lm())
