"""The optimizer's step inside backward: the same parameters as ever, the gradients of one layer."""

import gc
import math
import weakref
from types import SimpleNamespace

import pytest
import torch
from accelerate.utils import DistributedType
from datasets import Dataset
from torch import distributed, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import CPUOffloadPolicy, fully_shard
from torch.distributed.tensor import DTensor
from torch.multiprocessing.reductions import StorageWeakRef
from torch.optim.lr_scheduler import LambdaLR
from transformers import Adafactor, GPT2Config, GPT2LMHeadModel

from reformer_hf import ReformerHFByteTokenizer
from reformer_hf.nn.reversible_sequence import ReversibleSequence
from reformer_hf.training import OptimizerInBackward, ReformerTrainingArguments, make_optimizer
from reformer_hf.training.arguments import LoopArguments
from reformer_hf.training.data.collator import ReformerDataCollator
from reformer_hf.training.optimizer_in_backward import check_processes, group_by_layer
from reformer_hf.training.trainer import CausalLMTrainer
from tests.models.seq2seq import padded_source, random_labels, tiny_seq2seq
from tests.models.tiny import WITH_NGRAMS, dropout_fields, random_ids, tiny_lm
from tests.training.runs import largest_difference, weights

ROUNDING = 1e-12  # of weights of size 1 in float64, after steps of 0.01
OF_MUON = 1e-4  # which multiplies in bfloat16: a step is 0.02


def adamw(model):
    return make_optimizer(model, 1e-2, weight_decay=0.1)


def muon(model):
    return make_optimizer(model, 1e-2, 2e-2, weight_decay=0.1)


def adafactor(model):
    return Adafactor(model.parameters(), lr=1e-2, relative_step=False, scale_parameter=False)


def read(model, step):
    ids = random_ids(2, 24, seed=step)
    return model(input_ids=ids, labels=ids).loss


def translate(model, step):
    return model(**padded_source(), labels=random_labels(step)).loss


def train(model, make=adamw, loss=read, in_backward=True, steps=2, max_grad_norm=None):
    """The parameters after some steps, and what was hooked in."""
    model = model.double().train()
    optimizer = make(model)
    scheduler = LambdaLR(optimizer, lambda step: 1 / (1 + step))
    hooked = OptimizerInBackward(model, optimizer, max_grad_norm) if in_backward else None
    for step in range(steps):
        torch.manual_seed(step)
        loss(model, step).backward()
        optimizer.step()
        scheduler.step()
        optimizer.zero_grad()
    return {name: each.detach() for name, each in model.named_parameters()}, hooked


def partly_frozen():
    """What is first in each replay needs no gradient, and the last bias is all that is trained."""
    model = tiny_lm()
    for name, parameter in model.named_parameters():
        parameter.requires_grad_("feed_forward.output" in name or "lm_head" in name)
    return model


def with_unused():
    """A layer of which a parameter gets no gradient."""
    model = tiny_lm()
    model.reformer.encoder.layers[1].unused = nn.Parameter(torch.ones(3))
    return model


def gpt2():
    """Its head is its embeddings, whose gradient comes in two parts: first and last."""
    torch.manual_seed(0)
    return GPT2LMHeadModel(GPT2Config(vocab_size=40, n_embd=16, n_layer=2, n_head=2))


MODELS = {
    "reversible": (lambda: tiny_lm(**WITH_NGRAMS, **dropout_fields()), read),
    "plain": (lambda: tiny_lm(reversible=False, **dropout_fields()), read),
    "in pieces": (
        lambda: tiny_lm(
            chunk_size_feed_forward=5, chunk_size_attention_heads=1, chunk_size_lm_head=7
        ),
        read,
    ),
    "kept": (lambda: tiny_lm(activation_budget=2**20), read),
    "partly frozen": (partly_frozen, read),
    "unused parameter": (with_unused, read),
    "tied": (gpt2, read),
    "encoder-decoder": (
        lambda: tiny_seq2seq(
            encoder_attn_layers=["full"], decoder_attn_layers=["lsh"], tie_word_embeddings=True
        ),
        translate,
    ),
}


@pytest.mark.parametrize("name", MODELS)
def test_the_parameters_are_those_of_the_usual_step(name):
    build, loss = MODELS[name]
    usual, _ = train(build(), loss=loss, in_backward=False)
    found, _ = train(build(), loss=loss)
    start = {name: each.detach() for name, each in build().named_parameters()}
    assert largest_difference(found, usual) < ROUNDING < largest_difference(found, start)


@pytest.mark.parametrize("make, tolerance", [(muon, OF_MUON), (adafactor, ROUNDING)])
def test_so_they_are_with_other_optimizers(make, tolerance):
    usual, _ = train(tiny_lm(), make, in_backward=False)
    found, _ = train(tiny_lm(), make)
    assert largest_difference(found, usual) < tolerance


class Shift(nn.Module):
    """Adds biases, of which autograd saves nothing: their gradients come before a replay."""

    def __init__(self):
        super().__init__()
        self.first, self.second = (nn.Parameter(torch.zeros(6)) for _ in range(2))

    def forward(self, x):
        return x.tanh() + self.first + self.second


@pytest.mark.parametrize("shared", [False, True])
def test_a_replay_sees_the_parameters_of_the_forward(shared):
    def build():
        torch.manual_seed(0)
        layers = [Shift() for _ in range(4)]
        return ReversibleSequence(6, [layers[0], layers[0], *layers[1:3]] if shared else layers)

    def loss(model, step):
        inputs = torch.randn(2, 5, 6, dtype=torch.float64)
        return (model(inputs) * torch.randn_like(inputs)).sum()

    usual, _ = train(build(), loss=loss, in_backward=False)
    found, _ = train(build(), loss=loss)
    assert largest_difference(found, usual) < ROUNDING


@pytest.mark.parametrize("reversible", [True, False])
def test_the_gradients_of_one_layer_are_held(reversible):
    model = tiny_lm(attn_layers=["local", "lsh"] * 3, reversible=reversible).train()
    optimizer = adamw(model)
    hooked = OptimizerInBackward(model, optimizer)
    alive, most = {}, 0

    def count(parameter):
        nonlocal most
        if parameter.grad is not None:
            size = parameter.grad.untyped_storage().nbytes()
            alive[parameter] = StorageWeakRef(parameter.grad.untyped_storage()), size
        sizes = [size for storage, size in alive.values() if not storage.expired()]
        most = max(most, sum(sizes))

    for parameter in model.parameters():
        parameter.register_post_accumulate_grad_hook(count)
    read(model, 0).backward()
    every = [4 * parameter.numel() for parameter in model.parameters()]
    assert len(alive) == len(every)
    assert hooked.gradient_bytes <= most <= hooked.gradient_bytes + max(every) < sum(every) / 2
    left = [parameter for parameter in model.parameters() if parameter.grad is not None]
    assert 0 < len(left) <= 2  # of the embeddings, which are last
    optimizer.step()
    assert all(parameter.grad is None for parameter in model.parameters())


def test_each_layer_is_clipped_by_itself():
    model = tiny_lm().double().train()
    torch.manual_seed(0)
    read(model, 0).backward()
    groups = group_by_layer(model, model.parameters())
    every = [parameter.grad for parameter in model.parameters()]
    total = math.sqrt(sum(float(each.square().sum()) for each in every))
    norms = [math.sqrt(sum(float(p.grad.square().sum()) for p in group)) for group in groups]
    limit = sorted(norms)[len(norms) // 2]  # half of them are longer
    for group, norm in zip(groups, norms, strict=True):
        for parameter in group:
            parameter.grad *= min(1.0, limit / (norm + 1e-6))  # as torch does
    adamw(model).step()
    expected = {name: each.detach() for name, each in model.named_parameters()}

    found, hooked = train(tiny_lm(), steps=1, max_grad_norm=limit)
    assert float(hooked.grad_norm) == pytest.approx(total, rel=1e-9)
    # Adam's first step forgets a factor, but for epsilon: without clipping it would be other.
    assert largest_difference(found, expected) < ROUNDING
    unclipped, _ = train(tiny_lm(), steps=1)
    assert largest_difference(unclipped, expected) > 100 * ROUNDING


def test_a_layer_is_an_entry_of_a_list_and_the_rest_goes_by_module():
    model = tiny_lm()
    names = {parameter: name for name, parameter in model.named_parameters()}
    groups = [{names[each] for each in group} for group in group_by_layer(model, [*names])]
    layers = [{n for n in names.values() if f".layers.{i}." in n} for i in (0, 1)]
    assert all(layer in groups for layer in layers)
    assert {"reformer.embeddings.word_embeddings.weight"} in groups
    assert sum(map(len, groups)) == len(names) and len(groups) > 4
    assert group_by_layer(nn.Linear(2, 2), [stranger := nn.Parameter(torch.ones(1))]) == [
        [stranger]
    ]


def test_a_second_backward_pass_is_refused():
    model = tiny_lm().train()
    optimizer = adamw(model)
    OptimizerInBackward(model, optimizer)
    read(model, 0).backward()
    with pytest.raises(RuntimeError, match="^optimizer_in_backward: a second backward pass"):
        read(model, 1).backward()


def test_it_can_be_taken_out_and_goes_with_its_optimizer():
    model = tiny_lm().train()
    optimizer = adamw(model)
    OptimizerInBackward(model, optimizer).remove()
    read(model, 0).backward()
    assert all(parameter.grad is not None for parameter in model.parameters())
    gone = weakref.ref(OptimizerInBackward(model, optimizer)), weakref.ref(model)
    gc.disable()
    try:
        del optimizer
        assert gone[0]() is None
        model.zero_grad()
        read(model, 0).backward()
        assert all(parameter.grad is not None for parameter in model.parameters())
        del model
        assert gone[1]() is None
    finally:
        gc.enable()


def run_trainer(folder, checkpoint=None, **fields):
    settings = {"max_grad_norm": 0.0, "optimizer_in_backward": True} | fields
    arguments = ReformerTrainingArguments(
        str(folder),
        do_train=True,
        use_cpu=True,
        report_to="none",
        disable_tqdm=True,
        max_steps=4,
        save_steps=2,
        logging_steps=1,
        learning_rate=1e-2,
        per_device_train_batch_size=2,
        optim="adamw_torch",
        **settings,
    )
    trainer = CausalLMTrainer(
        model=tiny_lm(vocab_size=258, **dropout_fields()),
        args=arguments,
        train_dataset=Dataset.from_dict({"input_ids": random_ids(8, 12).tolist()}),
        processing_class=ReformerHFByteTokenizer(),
        data_collator=ReformerDataCollator(ReformerHFByteTokenizer()),
    )
    trainer.train(resume_from_checkpoint=checkpoint)
    return trainer


def test_a_trainer_learns_the_same_logs_the_same_and_goes_on_bit_for_bit(tmp_path):
    usual = run_trainer(tmp_path / "usual", optimizer_in_backward=False)
    ours = run_trainer(tmp_path / "ours")
    pairs = zip(usual.model.parameters(), ours.model.parameters(), strict=True)
    assert all(torch.allclose(a, b, rtol=0, atol=1e-5) for a, b in pairs)
    for name in ("loss", "grad_norm", "learning_rate"):
        logged = [
            [entry[name] for entry in trainer.state.log_history if name in entry]
            for trainer in (usual, ours)
        ]
        assert len(logged[0]) == 4 and logged[0] == pytest.approx(logged[1], rel=1e-3)
    again = run_trainer(tmp_path / "again", str(tmp_path / "ours" / "checkpoint-2"))
    straight = weights(tmp_path / "ours" / "checkpoint-4")
    assert largest_difference(weights(tmp_path / "again" / "checkpoint-4"), straight) == 0
    assert again.in_backward.gradient_bytes < sum(4 * p.numel() for p in again.model.parameters())


CPU = {"use_cpu": True}


@pytest.mark.parametrize(
    "kind, fields, message",
    [
        (ReformerTrainingArguments, {"gradient_accumulation_steps": 2} | CPU, "with gradient_acc"),
        (ReformerTrainingArguments, {"optim": "sgd"} | CPU, "with optim='sgd', which may need"),
        (ReformerTrainingArguments, {"auto_find_batch_size": True} | CPU, "with auto_find_batch"),
        (LoopArguments, {"gradient_accumulation_steps": 2}, "with gradient_accumulation_steps=2"),
        (LoopArguments, {"mixed_precision": "fp16"}, "with fp16: its scaler"),
    ],
)
def test_what_needs_all_gradients_is_refused(kind, fields, message):
    kind(**fields)
    with pytest.raises(ValueError, match=f"^optimizer_in_backward=True {message}"):
        kind(optimizer_in_backward=True, **fields)


def processes(kind, version=None, scaler=None):
    plugin = None if version is None else SimpleNamespace(fsdp_version=version)
    return SimpleNamespace(
        distributed_type=DistributedType[kind],
        state=SimpleNamespace(fsdp_plugin=plugin),
        scaler=scaler,
        mixed_precision="fp16",
    )


def test_processes_that_hold_gradients_back_are_refused():
    for kind in (("MULTI_CPU",), ("DEEPSPEED",), ("FSDP", 1)):
        with pytest.raises(ValueError, match=f"^optimizer_in_backward=True with {kind[0]}: it"):
            check_processes(True, processes(*kind))
        check_processes(False, processes(*kind))
    with pytest.raises(ValueError, match="^optimizer_in_backward=True with mixed_precision='fp16'"):
        check_processes(True, processes("NO", scaler=object()))
    check_processes(True, processes("NO"))
    check_processes(True, processes("FSDP", 2))


@pytest.fixture
def group_of_one():
    distributed.init_process_group("gloo", store=distributed.HashStore(), rank=0, world_size=1)
    yield init_device_mesh("cpu", (1,))
    distributed.destroy_process_group()


def test_layers_that_come_one_at_a_time_from_the_host_learn_the_same(group_of_one):
    """What trax tests of its memory-efficient trainer; here host and device are the same."""
    usual, _ = train(tiny_lm(**dropout_fields()), in_backward=False)
    model = tiny_lm(**dropout_fields()).double()
    layers, at_a_time = model.reformer.encoder.layers, []

    def count(*_):
        whole = [not isinstance(next(layer.parameters()), DTensor) for layer in layers]
        at_a_time.append(sum(whole))

    for part in (*layers, model):
        fully_shard(part, mesh=group_of_one, offload_policy=CPUOffloadPolicy(pin_memory=False))
    for layer in layers:
        layer.feed_forward.register_forward_hook(count)  # again when it is replayed in backward
    found, _ = train(model)
    found = {name: each.full_tensor() for name, each in found.items()}
    assert largest_difference(found, usual) < ROUNDING
    assert at_a_time == [1] * (2 * len(layers) * 2)
