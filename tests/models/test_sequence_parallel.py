"""Rows over two and four processes: outputs and gradients are those of one."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch.distributed.device_mesh import init_device_mesh

from reformer_hf import ReformerHFCache, ReformerHFForTokenClassification, SequenceParallel
from tests import processes
from tests.models.sequence_parallel_workers import BATCH, scenarios_of
from tests.models.tiny import random_ids, tiny_config, tiny_encoder, tiny_lm

WORKERS = Path(__file__).with_name("sequence_parallel_workers.py")
TOLERANCE = 1e-12
Results = dict[str, list[dict[str, Any]]]


@pytest.fixture(scope="module")
def run_of(tmp_path_factory: pytest.TempPathFactory) -> Callable[[int], Results]:
    """What each process found, by scenario; the processes run once for all tests."""
    kept: dict[int, Results] = {}

    def results(count: int) -> Results:
        if count not in kept:
            directory = tmp_path_factory.mktemp("workers")
            log, store = directory / "log", processes.new_store()
            processes.wait(
                processes.start_ranks(count, WORKERS, directory, log=log, store=store), 600
            )
            print(log.read_text())  # pytest shows it where a test fails
            kept[count] = {}
            for rank in range(count):
                for line in (directory / str(rank)).read_text().splitlines():
                    result = json.loads(line)
                    kept[count].setdefault(result["name"], []).append(result)
        return kept[count]

    return results


counts = pytest.mark.parametrize("count", [2, 4])


@pytest.mark.distributed
@pytest.mark.parametrize(
    ("name", "count"), [(name, count) for count in (2, 4) for name in scenarios_of(count)]
)
def test_a_row_in_parts_is_the_row(run_of, count: int, name: str):
    found = run_of(count)[name]
    assert len(found) == count
    for result in found:
        assert result["missing"] == []
        assert max(result["logits"], result["loss"], result["gradients"]) <= TOLERANCE
        assert result["least_gradient"] > 1e-6


@pytest.mark.distributed
@counts
def test_all_processes_hash_with_the_rotations_of_the_first(run_of, count: int):
    assert [result["loss"] <= TOLERANCE for result in run_of(count)["train"]] == [True] * count


HEADS, DIM, ROUNDS, BUCKETS, WINDOW, NUMBER = 2, 8, 2, 4, 4, 8
LOCAL = BATCH * HEADS * WINDOW * 2 * DIM * NUMBER
TAILS = BATCH * HEADS * ROUNDS * BUCKETS * WINDOW * 2 * DIM * NUMBER
FILLED = BATCH * HEADS * ROUNDS * BUCKETS * 4
GATHERED = 8 * (7 + 1)
"""A header, and how many targets there are."""
LABEL = BATCH * 8


@pytest.mark.distributed
@counts
def test_bytes_are_those_of_the_formula(run_of, count: int):
    layers = 2  # of each kind
    for rank, result in enumerate(run_of(count)["local and lsh"]):
        left, right = rank > 0, rank < count - 1
        forward = layers * left * (LOCAL + TAILS + FILLED)
        backward = layers * right * (LOCAL + TAILS)
        others = (count - 1) * GATHERED + right * LABEL
        assert result["received_bytes"] == 2 * forward + backward + others
    rows = BATCH * 1  # a byte says whether its document goes on
    all_tails = layers * (2 * (TAILS + FILLED + rows) + TAILS)
    for rank, result in enumerate(run_of(count)["gathered"]):
        left, right = rank > 0, rank < count - 1
        neighbours = layers * LOCAL * (2 * left + right) + right * LABEL
        expected = neighbours + (count - 1) * (all_tails + GATHERED)
        assert result["received_bytes"] == expected


@pytest.mark.distributed
@counts
def test_layers_that_look_to_both_sides_receive_as_much_from_either(run_of, count: int):
    for rank, result in enumerate(run_of(count)["both sides, local and lsh"]):
        sides = (rank > 0) + (rank < count - 1)
        received = 2 * sides * (3 * (LOCAL + TAILS) + 2 * FILLED)  # two layers of each kind
        assert result["received_bytes"] == received + (count - 1) * GATHERED


@pytest.mark.distributed
def test_a_recurrent_unit_hands_on_one_state(run_of):
    states = 2 * 2 * BATCH * 3 * NUMBER  # two units of three numbers in two layers
    for rank, result in enumerate(run_of(2)["recurrent units"]):
        forward, backward = LOCAL + TAILS + FILLED + states, LOCAL + TAILS + states
        received = 2 * forward if rank else backward + LABEL
        assert result["received_bytes"] == received + GATHERED


@pytest.mark.distributed
@pytest.mark.parametrize("name", ["ddp", "fsdp"])
def test_rows_and_their_parts_are_two_dimensions_of_processes(run_of, name: str):
    for result in run_of(4)[name]:
        assert result["missing"] == [] and result["gradients"] <= TOLERANCE


@pytest.mark.distributed
@counts
@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("short", "holds 2 tokens of a row, but layers see 4"),
        ("rows", "rows: give as many"),
        ("some", "only some processes of a row give seq_idx"),
        ("falling", "seq_idx falls along a row"),
        ("torn", "padding stands between"),
        ("far", "position 300 is outside the 96 positions"),
        ("cache", "only some processes of a row give use_cache"),
        ("filled", "past_key_values that hold tokens in a row over several processes"),
        ("maps", "output_attentions in a row over several processes"),
    ],
)
def test_every_process_refuses_parts_that_make_no_rows(run_of, count: int, name: str, words: str):
    found = run_of(count)["refusals"]
    assert len(found) == count
    for result in found:
        assert words in result[name]


@pytest.mark.distributed
@counts
def test_a_process_that_ends_is_missed(run_of, count: int):
    found = run_of(count)["lost"]
    assert len(found) == count - 1
    for result in found:
        assert "could not reach another one (" in result["message"]


@pytest.fixture
def alone():
    """A group of this process only."""
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    yield SequenceParallel()
    dist.destroy_process_group()


def test_one_process_may_hold_the_row(alone: SequenceParallel):
    model, ids = tiny_lm().double(), random_ids(2, 21)
    inputs: dict[str, Any] = {"labels": ids, "seq_idx": torch.arange(21) // 8}
    expected = model(ids, **inputs)
    model.set_sequence_parallel(alone)
    outputs = model(alone.shard(ids), **inputs)
    assert torch.allclose(outputs.logits, expected.logits, rtol=0, atol=TOLERANCE)
    assert torch.allclose(outputs.loss, expected.loss)
    assert alone.received_bytes == 0
    model.set_sequence_parallel(None)
    assert torch.equal(model(ids, **inputs).logits, expected.logits)


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"attn_layers": ["local", "full"]}, "attn_layers with \\['full'\\]"),
        ({"attention_scope": "chunk"}, "attention_scope='chunk'"),
        ({"deduplicate_rounds": True}, "deduplicate_rounds=True"),
    ],
)
def test_models_that_cannot_be_cut_are_refused(alone, fields: dict[str, Any], words: str):
    with pytest.raises(ValueError, match=words):
        tiny_lm(**fields).set_sequence_parallel(alone)


def test_a_bare_encoder_may_be_given_parts(alone: SequenceParallel):
    model, ids = tiny_encoder().double(), random_ids(2, 21)
    expected = model(ids).last_hidden_state
    model.set_sequence_parallel(alone)
    assert torch.allclose(model(ids).last_hidden_state, expected, rtol=0, atol=TOLERANCE)


def test_other_heads_are_refused(alone: SequenceParallel):
    model = ReformerHFForTokenClassification(tiny_config())
    with pytest.raises(ValueError, match="only ReformerHFModel, ReformerHFForCausalLM and"):
        model.set_sequence_parallel(alone)


def test_one_process_may_read_the_prompt(alone: SequenceParallel):
    model, ids = tiny_lm(conv_kernel=3).double(), random_ids(2, 21)
    expected = model(ids, use_cache=True).past_key_values
    cache = ReformerHFCache(model.config, offloading=True)
    model.set_sequence_parallel(alone)
    model(ids[:, :20], past_key_values=cache)
    model.set_sequence_parallel(None)
    assert all(layer.device is not None for layer in cache.layers)  # what they were moved from
    model(ids[:, 20:], past_key_values=cache)
    options: dict[str, Any] = {"max_new_tokens": 5, "do_sample": False}
    longer = torch.cat([ids, random_ids(2, 1, seed=1)], dim=1)
    written = model.generate(longer, past_key_values=cache, **options)
    assert torch.equal(written, model.generate(longer, past_key_values=expected, **options))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (
            {"attention_mask": (torch.arange(21) > 2).long().expand(2, -1)},
            "with padding in attention_mask",
        ),
        ({"position_ids": torch.arange(21) % 9}, "position_ids that do not go on by one"),
        ({"seq_idx": torch.arange(21) // 9}, "seq_idx with use_cache=True"),
        ({"output_attentions": True}, "output_attentions in a row over several processes"),
    ],
)
def test_prompts_that_no_cache_can_hold_are_refused(alone, options: dict[str, Any], words: str):
    model = tiny_lm()
    model.set_sequence_parallel(alone)
    with pytest.raises(ValueError, match=words):
        model(random_ids(2, 21), use_cache=True, **options)


def test_a_cache_is_filled_together_once(alone: SequenceParallel):
    model, ids = tiny_lm(), random_ids(2, 21)
    model.set_sequence_parallel(alone)
    cache = model(ids, use_cache=True).past_key_values
    with pytest.raises(ValueError, match="past_key_values that hold tokens in a row over several"):
        model(ids, past_key_values=cache)
    with pytest.raises(ValueError, match=r"generate\(\) in a row over several processes"):
        model.generate(ids, max_new_tokens=5)
    model.set_sequence_parallel(None)
    with pytest.raises(ValueError, match="output_attentions with past_key_values of a row that"):
        model(ids[:, :1], past_key_values=cache, output_attentions=True)
    with pytest.raises(RuntimeError, match="what these tokens overwrote is gone"):
        cache.crop(-1)


def test_a_mesh_has_one_dimension(alone: SequenceParallel):
    mesh = init_device_mesh("cpu", (1, 1), mesh_dim_names=("dp", "sp"))
    assert SequenceParallel(mesh["sp"]).size == 1
    with pytest.raises(
        ValueError, match=r'give the one that rows are spread over, such as mesh\["sp"\]'
    ):
        SequenceParallel(mesh)
    with pytest.raises(ValueError, match="tails='ring'"):
        SequenceParallel(mesh["sp"], tails="ring")  # type: ignore[arg-type]


def test_processes_come_first():
    with pytest.raises(ValueError, match="init_process_group"):
        SequenceParallel()
