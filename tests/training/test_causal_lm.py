import errno
import math

import pytest
import torch
from transformers import Trainer, TrainerCallback, TrainerState, set_seed

from reformer_hf.models.modeling_reformer_hf import ReformerHFForCausalLM
from reformer_hf.models.tokenization_reformer_hf import ReformerHFByteTokenizer
from reformer_hf.training import causal_lm
from reformer_hf.training.arguments import OptimizationArguments, RunArguments
from reformer_hf.training.causal_lm import axial_shape, build_config, train
from reformer_hf.training.checkpoints import last_whole_checkpoint

TOKENIZER = ReformerHFByteTokenizer()


@pytest.fixture
def start(tiny_arguments, splits):
    """Returns a function that trains in a folder, from its last whole checkpoint if any."""

    def start(directory, max_steps=6, max_minutes=5.0, learning_rate=1e-2, dropout=0.0, seed=0):
        set_seed(seed)
        config = build_config(tiny_arguments)
        config.hidden_dropout_prob = config.lsh_attention_probs_dropout_prob = dropout
        return train(
            ReformerHFForCausalLM(config),
            TOKENIZER,
            splits[0],
            torch.utils.data.Subset(splits[1], [0, 1]),
            OptimizationArguments(
                max_steps=max_steps, learning_rate=learning_rate, warmup_steps=2, seed=seed
            ),
            RunArguments(
                max_minutes=max_minutes, logging_steps=1, eval_steps=3, save_steps=2, output_dir=""
            ),
            directory,
            last_whole_checkpoint(directory)[0],
        )

    return start


def losses(state):
    """The curve without its times."""
    return [
        {key: entry[key] for key in ("step", "loss", "eval_loss", "learning_rate") if key in entry}
        for entry in state.log_history
        if "loss" in entry or "eval_loss" in entry
    ]


def interrupt_at(monkeypatch, step):
    """Make the Trainer fail in the step after `step`, like a Ctrl-C."""

    class Interrupt(TrainerCallback):
        def on_pre_optimizer_step(self, args, state, control, **kwargs):
            if state.global_step == step:
                raise KeyboardInterrupt

    monkeypatch.setattr(causal_lm, "StopOnDivergence", Interrupt)


def assert_same_run(first, second):
    weights, other = first[0].state_dict(), second[0].state_dict()
    assert weights.keys() == other.keys()
    assert all(torch.equal(weights[name], other[name]) for name in weights)
    assert losses(first[1]) == losses(second[1])


@pytest.mark.parametrize("dropout", [0.0, 0.1])
def test_an_interrupted_run_ends_bit_for_bit_like_an_uninterrupted_one(
    start, tmp_path, monkeypatch, dropout
):
    straight = start(tmp_path / "straight", dropout=dropout)
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        interrupt_at(patch, step=5)
        start(tmp_path / "broken", dropout=dropout)
    assert last_whole_checkpoint(tmp_path / "broken")[0].name == "checkpoint-4"
    assert_same_run(straight, start(tmp_path / "broken", dropout=dropout))
    other_seed = start(tmp_path / "other", dropout=dropout, seed=1)
    assert losses(other_seed[1]) != losses(straight[1])


def test_the_loss_falls_and_the_curve_is_kept(start, tmp_path):
    _, state = start(tmp_path / "run", max_steps=12)
    curve = [entry["loss"] for entry in state.log_history if "loss" in entry]
    assert len(curve) == 12
    assert curve[0] == pytest.approx(math.log(258), rel=0.1)  # nothing is known at the start
    assert curve[-1] < curve[0] - 0.5
    assert [entry["step"] for entry in state.log_history if "eval_loss" in entry] == [3, 6, 9, 12]
    kept = sorted(path.name for path in (tmp_path / "run").iterdir())
    assert kept == ["checkpoint-10", "checkpoint-12"]


def test_a_run_that_reached_its_end_is_not_trained_again(start, tmp_path, monkeypatch):
    finished = start(tmp_path)
    monkeypatch.setattr(Trainer, "training_step", None)
    again = start(tmp_path)
    assert again[1].global_step == 6
    assert_same_run(finished, again)


def test_the_clock_stops_training_with_a_checkpoint(start, tmp_path):
    _, state = start(tmp_path, max_minutes=1e-6)
    assert (state.global_step, state.max_steps) == (1, 6)
    checkpoint, _ = last_whole_checkpoint(tmp_path)
    assert checkpoint.name == "checkpoint-1"
    saved = TrainerState.load_from_json(checkpoint / "trainer_state.json")
    assert "eval_loss" in saved.log_history[-1]
    # Its time is up for good, unless it is given more.
    assert start(tmp_path, max_minutes=1e-6)[1].global_step == 1
    assert start(tmp_path, max_minutes=5.0)[1].global_step == 6


def test_the_clock_counts_resumed_runs(start, tmp_path, monkeypatch):
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        interrupt_at(patch, step=4)
        start(tmp_path)
    before = TrainerState.load_from_json(tmp_path / "checkpoint-4" / "trainer_state.json")
    _, state = start(tmp_path)
    seconds = [entry["seconds"] for entry in state.log_history if "seconds" in entry]
    steps = [entry["step_seconds"] for entry in state.log_history if "step_seconds" in entry]
    assert seconds == sorted(seconds) and steps == sorted(steps)
    assert 0 < steps[-1] <= seconds[-1]
    recorded = before.log_history[-1]
    assert state.log_history[len(before.log_history) - 1] == recorded
    assert steps[len(before.log_history)] >= recorded["step_seconds"] > 0


def test_divergence_ends_the_run(start, tmp_path):
    with pytest.raises(FloatingPointError, match="diverged.*lower learning_rate"):
        start(tmp_path, learning_rate=1e30)


@pytest.mark.parametrize("writer", ["save_model", "_save_optimizer_and_scheduler"])
def test_a_full_disk_keeps_the_checkpoint_before(start, tmp_path, monkeypatch, writer):
    straight = start(tmp_path / "straight")
    original = getattr(Trainer, writer)

    def full_at_step_4(trainer, output_dir, *args, **kwargs):
        if trainer.state.global_step == 4:
            raise OSError(errno.ENOSPC, "No space left on device")
        return original(trainer, output_dir, *args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, writer, full_at_step_4)
        with pytest.raises(OSError, match="disk is full.*checkpoints before this one are whole"):
            start(tmp_path / "full")
    assert last_whole_checkpoint(tmp_path / "full")[0].name == "checkpoint-2"
    assert_same_run(straight, start(tmp_path / "full"))


def test_the_model_is_the_one_the_package_is_for(tiny_arguments):
    config = build_config(tiny_arguments)
    assert config.attention_scope == "band" and config.reversible and config.is_decoder
    assert config.attn_layers == ["local", "lsh"]
    assert config.position_embedding_type == "axial"
    assert config.chunk_size_lm_head > 0
    assert (config.vocab_size, config.pad_token_id, config.eos_token_id) == (258, 0, 1)


@pytest.mark.parametrize("positions", [1, 2, 100, 4097, 8192, 65536])
def test_axes_cover_the_positions_with_less_than_a_row_to_spare(positions):
    rows, columns = axial_shape(positions)
    assert positions <= rows * columns < positions + rows
    assert rows / columns <= 4 and columns / rows <= 4
