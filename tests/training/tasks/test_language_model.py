import errno
import json
import math
import os
import signal

import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    ReformerConfig,
    ReformerModelWithLMHead,
    Trainer,
    TrainerCallback,
    TrainerState,
)

from reformer_hf import ReformerHFByteTokenizer
from reformer_hf.training.arguments import (
    DataTrainingArguments,
    PretrainedModelArguments,
    ReformerTrainingArguments,
)
from reformer_hf.training.checkpoints import last_whole_checkpoint
from reformer_hf.training.tasks import language_model
from reformer_hf.training.tasks.language_model import MASK_TOKEN, add_mask_token, train_clm
from reformer_hf.training.trainer import CausalLMTrainer
from tests.training.runs import (
    largest_difference,
    losses,
    tiny_overrides,
    weights,
    write_documents,
)


@pytest.fixture
def train(tmp_path):
    """Returns a function that trains a tiny model in a folder and returns its results."""
    file = write_documents(tmp_path / "data" / "train.jsonl")

    def train(name, model=None, data=None, callbacks=(), **fields):
        model = {"config_overrides": tiny_overrides()} | (model or {})
        arguments = {
            "do_train": True,
            "do_eval": True,
            "max_steps": 4,
            "per_device_train_batch_size": 2,
            "per_device_eval_batch_size": 2,
            "learning_rate": 1e-2,
            "logging_steps": 1,
            "save_steps": 2,
            "disable_tqdm": True,
            "use_cpu": True,
            "report_to": "none",
        } | fields
        return train_clm(
            PretrainedModelArguments(cache_dir=str(tmp_path / "cache"), **model),
            DataTrainingArguments(
                **{"train_file": str(file), "block_size": 64, "max_eval_samples": 5} | (data or {})
            ),
            ReformerTrainingArguments(output_dir=str(tmp_path / name), **arguments),
            callbacks,
        )

    return train


def history(directory):
    return TrainerState.load_from_json(str(directory / "trainer_state.json")).log_history


class InterruptAt(TrainerCallback):
    """Like a Ctrl-C in the step after `step`."""

    def __init__(self, step):
        self.step = step

    def on_pre_optimizer_step(self, args, state, control, **kwargs):
        if state.global_step == self.step:
            raise KeyboardInterrupt


def test_a_run_leaves_a_model_its_results_and_a_curve(train, tmp_path):
    results = train("run", eval_strategy="steps", eval_steps=2)
    folder = tmp_path / "run"
    names = {path.name for path in folder.iterdir()}
    assert names >= {
        *("model.safetensors", "config.json", "tokenizer.json", "trainer_state.json"),
        *("all_results.json", "train_results.json", "eval_results.json"),
        *("loss_curve.csv", "loss_curve.png", "checkpoint-2", "checkpoint-4"),
    }
    kept = json.loads((folder / "all_results.json").read_text())
    assert {name: kept[name] for name in results} == results
    assert {"train_loss", "train_runtime", "eval_loss", "eval_perplexity", "epoch"} <= set(kept)
    curve = (folder / "loss_curve.csv").read_text().splitlines()
    assert len(curve) == 1 + 4 + 3
    model = AutoModelForCausalLM.from_pretrained(folder)
    assert type(model).__name__ == "ReformerHFForCausalLM"
    assert AutoTokenizer.from_pretrained(folder)("é").input_ids == [197, 171]


def test_the_score_stands_among_baselines(train, tmp_path, capsys):
    results, folder = train("run"), tmp_path / "run"
    written = json.loads((folder / "all_results.json").read_text())
    assert written == results | {"epoch": written["epoch"]}
    assert (
        json.loads((folder / "eval_results.json").read_text()).items()
        >= {name: value for name, value in results.items() if name.startswith("eval_")}.items()
    )
    record = json.loads((folder / "run_record.json").read_text())
    compared = record["comparison"]
    assert (compared["score"], compared["unit"], compared["scored"]) == (
        *(results["eval_bits_per_byte"], "byte", results["eval_bytes"]),
    )
    assert record["references"]["5-gram"] == results["eval_5gram_bits_per_byte"]
    assert results["eval_5gram_bits_per_byte"] < results["eval_single_bytes_bits_per_byte"] < 8
    printed = capsys.readouterr().out
    assert f"  this model    {results['eval_bits_per_byte']:.3f}\n" in printed
    assert f"This model is {compared['verdict']}.\n" in printed

    # An evaluation alone has no training text to count.
    model = {"model_name_or_path": str(folder), "config_overrides": None}
    alone = train("alone", model, do_train=False)
    assert alone["eval_gzip_9_bits_per_byte"] == results["eval_gzip_9_bits_per_byte"]
    assert "eval_5gram_bits_per_byte" not in alone

    # They may be left out, also of a run that goes on.
    capsys.readouterr()
    results = train("run", data={"baselines": False}, resume_from_checkpoint="last")
    assert "eval_bits_per_byte" in results and "eval_5gram_bits_per_byte" not in results
    assert "references" not in json.loads((folder / "run_record.json").read_text())
    assert "this model" not in capsys.readouterr().out


def test_a_finished_run_keeps_its_best_model(train, tmp_path):
    # Larger losses count as better here, so that the first checkpoint is the best one.
    options = {"eval_strategy": "steps", "eval_steps": 2, "load_best_model_at_end": True}
    options |= {"metric_for_best_model": "eval_loss", "greater_is_better": True}
    train("run", **options)
    best, last = (weights(tmp_path / "run" / f"checkpoint-{step}") for step in (2, 4))
    assert largest_difference(weights(tmp_path / "run"), best) == 0
    train("run", resume_from_checkpoint="last", **options)
    assert largest_difference(weights(tmp_path / "run"), best) == 0
    assert largest_difference(last, best) > 0


def test_a_run_that_goes_on_from_an_older_checkpoint_keeps_its_own(train, tmp_path):
    train("run", max_steps=6)
    older = str(tmp_path / "run" / "checkpoint-2")
    train("run", resume_from_checkpoint=older, max_steps=4, save_total_limit=1)
    kept = [path.name for path in (tmp_path / "run").iterdir() if "checkpoint" in path.name]
    assert kept == ["checkpoint-4"]


def test_the_evaluation_weights_every_token_the_same(train, tmp_path):
    # Five documents in rows of their own: lengths differ, and a batch of 2 leaves one over.
    results = train("run", data={"packing": "none", "block_size": 200})
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "run")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "run")
    lines = (tmp_path / "data" / "train.jsonl").read_text().splitlines()
    nats = tokens = size = 0
    for line in lines[:2]:  # 5 % of 40
        text = json.loads(line)["text"]
        ids = torch.tensor([[*tokenizer(text).input_ids, tokenizer.eos_token_id]])
        with torch.no_grad():
            nats += float(model(ids, labels=ids).loss) * (ids.numel() - 1)
        tokens += ids.numel() - 1
        size += len(text.encode()) - 1
    assert results["eval_tokens"] == tokens and results["eval_bytes"] == size
    assert results["eval_loss"] == pytest.approx(nats / tokens, rel=1e-5)
    assert results["eval_bits_per_byte"] == pytest.approx(nats / math.log(2) / size, rel=1e-5)
    assert results["eval_perplexity"] == pytest.approx(math.exp(nats / tokens), rel=1e-5)


@pytest.mark.parametrize(
    "fields, data",
    [
        ({"gradient_accumulation_steps": 2}, {"packing": "none"}),
        ({"optim": "adafactor", "lr_scheduler_type": "cosine"}, {"streaming": True}),
    ],
)
def test_an_interrupted_run_ends_bit_for_bit_like_another(train, tmp_path, capsys, fields, data):
    # 38 rows, so that the interruption comes in the second epoch.
    model = {"config_overrides": tiny_overrides(dropout=0.1)}
    fields = {"max_steps": 16, "eval_strategy": "steps", "eval_steps": 5} | fields
    results = train("straight", model, data, **fields)
    assert capsys.readouterr().out.count("Step 11 of 16: about ") == 1
    with pytest.raises(KeyboardInterrupt):
        train("broken", model, data, [InterruptAt(13)], **fields)
    assert last_whole_checkpoint(tmp_path / "broken")[0].name == "checkpoint-12"
    resumed = train("broken", model, data, resume_from_checkpoint="last", **fields)
    assert resumed["train_tokens"] == results["train_tokens"] > 0
    straight, broken = tmp_path / "straight", tmp_path / "broken"
    assert largest_difference(weights(straight), weights(broken)) == 0
    assert losses(history(straight)) == losses(history(broken))


def test_another_seed_makes_another_run(train, tmp_path):
    for name, seed in (("one", 0), ("other", 1)):
        train(name, seed=seed, max_steps=2, do_eval=False, save_strategy="no")
    assert losses(history(tmp_path / "other")) != losses(history(tmp_path / "one"))


def test_accumulation_weights_every_token_the_same(train, tmp_path):
    # Rows of different lengths, the last batch smaller than the others.
    model = {"config_overrides": tiny_overrides(redraw_rotations=False)}
    data = {"packing": "none", "block_size": 200}
    fields = {"num_train_epochs": 1, "max_steps": -1, "optim": "sgd", "max_grad_norm": 0.0}
    fields |= {"learning_rate": 0.1, "lr_scheduler_type": "constant"}
    train("whole", model, data, per_device_train_batch_size=8, **fields)
    parts = {"per_device_train_batch_size": 2, "gradient_accumulation_steps": 4}
    train("parts", model, data, **parts, **fields)
    whole, parts = weights(tmp_path / "whole"), weights(tmp_path / "parts")
    assert largest_difference(whole, parts) < 1e-5
    assert len(losses(history(tmp_path / "whole"))) == len(losses(history(tmp_path / "parts"))) == 6


def test_a_folder_with_a_run_is_not_overwritten_unasked(train, tmp_path):
    train("run", resume_from_checkpoint="last")  # there is none: a new run
    with pytest.raises(ValueError, match="holds checkpoint-4 of another run: go on with"):
        train("run")
    before = weights(tmp_path / "run")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Trainer, "training_step", None)
        results = train("run", resume_from_checkpoint="last")  # it has come to its end
        assert largest_difference(before, weights(tmp_path / "run")) == 0
        assert "eval_loss" in results and results["train_tokens"] > 0
        # One that was killed before its record was written gets it now.
        (tmp_path / "run" / "run_record.json").unlink()
        train("run", resume_from_checkpoint="last", do_eval=False)
        assert json.loads((tmp_path / "run" / "run_record.json").read_text())["training"]["steps"]
    with pytest.raises(ValueError, match=r"no whole checkpoint \(there is no such folder\)"):
        train("run", resume_from_checkpoint=str(tmp_path / "nothing"))


def test_a_broken_checkpoint_is_passed_over(train, tmp_path):
    train("run")
    file = tmp_path / "run" / "checkpoint-4" / "optimizer.pt"
    file.write_bytes(file.read_bytes()[:-10])
    with pytest.raises(ValueError, match="checkpoint-2, which 'last' stands for"):
        train("run", resume_from_checkpoint=str(file.parent))
    train("run", resume_from_checkpoint="last", max_steps=6)
    assert last_whole_checkpoint(tmp_path / "run")[0].name == "checkpoint-6"


@pytest.mark.parametrize("writer", ["save_model", "_save_optimizer_and_scheduler"])
def test_a_full_disk_keeps_the_checkpoint_before(train, tmp_path, monkeypatch, writer):
    original = getattr(Trainer, writer)

    def full_at_step_4(trainer, output_dir, *args, **kwargs):
        if trainer.state.global_step == 4:
            raise OSError(errno.ENOSPC, "No space left on device")
        return original(trainer, output_dir, *args, **kwargs)

    monkeypatch.setattr(Trainer, writer, full_at_step_4)
    with pytest.raises(OSError, match="disk is full.*checkpoints before this one are whole"):
        train("run", save_total_limit=1)
    assert last_whole_checkpoint(tmp_path / "run")[0].name == "checkpoint-2"


def test_one_checkpoint_is_kept_only_when_the_next_is_sealed(train, tmp_path, monkeypatch):
    seen = []
    original = CausalLMTrainer._save_checkpoint

    def look(trainer, *args):
        original(trainer, *args)
        seen.append(sorted(path.name for path in (tmp_path / "run").glob("checkpoint-*")))

    monkeypatch.setattr("reformer_hf.training.trainer.rotate", lambda *_: None)
    monkeypatch.setattr(CausalLMTrainer, "_save_checkpoint", look)
    train("run", save_total_limit=1)
    # Without the last call, after the seal, nothing is deleted.
    assert seen == [["checkpoint-2"], ["checkpoint-2", "checkpoint-4"]]
    monkeypatch.undo()
    train("kept", save_total_limit=1)
    assert [path.name for path in (tmp_path / "kept").glob("checkpoint-*")] == ["checkpoint-4"]


@pytest.fixture
def google_format(tmp_path):
    """A checkpoint as transformers' Reformer writes it, without a tokenizer."""
    config = ReformerConfig(
        attention_head_size=8,
        attn_layers=["local", "lsh"],
        axial_pos_embds_dim=[6, 10],
        axial_pos_shape=[8, 16],
        feed_forward_size=24,
        hidden_size=16,
        is_decoder=True,
        local_attn_chunk_length=8,
        lsh_attn_chunk_length=8,
        num_attention_heads=2,
        num_buckets=4,
        num_hashes=2,
        vocab_size=258,
        hash_seed=0,
    )
    path = tmp_path / "google"
    ReformerModelWithLMHead(config).save_pretrained(path)
    return {"model_name_or_path": str(path), "tokenizer_name": "bytes", "config_overrides": None}


CHUNK = {"packing": "blocks"}


def test_frozen_embeddings_of_a_published_format_stay(train, tmp_path, google_format):
    before = weights(tmp_path / "google")
    train("run", google_format | {"freeze_embeddings": True}, CHUNK)
    after = weights(tmp_path / "run")
    moved = {
        name for name in after if name in before and not torch.equal(before[name], after[name])
    }
    assert moved and not any("embeddings" in name for name in moved)
    assert sum("encoder.layers" in name for name in moved) >= 16


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")  # read by PEFT
def test_lora_on_a_published_format_trains_adapters_and_resumes(train, tmp_path, google_format):
    lora = google_format | {"use_lora": True, "lora_r": 2}
    train("straight", lora, CHUNK)
    trained = weights(tmp_path / "straight")
    assert all("lora" in name for name in trained)
    assert all(float(value.abs().max()) > 0 for name, value in trained.items() if "lora_B" in name)
    with pytest.raises(KeyboardInterrupt):
        train("broken", lora, CHUNK, [InterruptAt(3)])
    train("broken", lora, CHUNK, resume_from_checkpoint="last")
    assert largest_difference(trained, weights(tmp_path / "broken")) == 0


def test_trackers_get_the_curve(train, tmp_path):
    train("run", report_to="tensorboard")
    files = (tmp_path / "run").rglob("events.out.tfevents.*")
    content = b"".join(file.read_bytes() for file in files)
    assert b"train/loss" in content and b"eval/bits_per_byte" in content


def test_bfloat16_trains_with_float32_weights(train, tmp_path):
    results = train("run", bf16=True)
    assert math.isfinite(results["train_loss"])
    assert all(value.dtype == torch.float32 for value in weights(tmp_path / "run").values())


def test_what_cannot_be_done_is_said(train):
    with pytest.raises(ValueError, match="do_predict=True: there is no test split here"):
        train("nothing", do_predict=True)
    with pytest.raises(ValueError, match="nothing to do: give --do_train"):
        train("run", do_train=False, do_eval=False)
    with pytest.raises(FloatingPointError, match="diverged"):
        train("run", learning_rate=1e30, max_grad_norm=0.0)


def test_options_that_would_do_nothing_are_refused(train):
    with pytest.raises(ValueError, match="bf16_full_eval=True has no effect with CausalLMTrainer"):
        train("run", bf16_full_eval=True)
    with pytest.raises(ValueError, match="resume_from_checkpoint=last is for do_train: name the"):
        train("run", do_train=False, resume_from_checkpoint="last")


def test_the_order_of_rows_is_that_of_the_arguments(train, tmp_path):
    def first_loss(name, **fields):
        train(name, max_steps=1, do_eval=False, learning_rate=1e-3, **fields)
        return history(tmp_path / name)[0]["loss"]

    seeds = {name: first_loss(name, data_seed=int(name)) for name in ("1", "2")}
    plain = first_loss("plain")
    assert len({*seeds.values(), plain}) == 3 and plain == first_loss("same", data_seed=42)
    assert first_loss("sequential", train_sampling_strategy="sequential") not in seeds.values()


def test_a_tokenizer_gets_a_mask_token_once():
    tokenizer = ReformerHFByteTokenizer()
    add_mask_token(tokenizer)
    assert tokenizer.mask_token == MASK_TOKEN and len(tokenizer) == 259
    assert tokenizer(f"a{MASK_TOKEN}b").input_ids.count(tokenizer.mask_token_id) == 1
    add_mask_token(tokenizer)
    assert len(tokenizer) == 259


class SignalAt(TrainerCallback):
    """Sends a signal to this process in a step."""

    def __init__(self, step, number):
        self.step, self.number = step, number

    def on_pre_optimizer_step(self, args, state, control, **kwargs):
        if state.global_step == self.step:
            os.kill(os.getpid(), self.number)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_saves_the_step_and_the_run_goes_on_bit_for_bit(train, tmp_path, number):
    model = {"config_overrides": tiny_overrides(dropout=0.1)}
    fields = {"max_steps": 6, "save_strategy": "no", "logging_steps": 2}
    train("straight", model, **fields)
    before = signal.getsignal(number)
    with pytest.raises(KeyboardInterrupt, match="checkpoint-3 is whole, and --resume") as caught:
        train("broken", model, callbacks=[SignalAt(2, number)], **fields)
    assert caught.value.signal_number == number and signal.getsignal(number) == before
    assert not (tmp_path / "broken" / "model.safetensors").exists()
    train("broken", model, resume_from_checkpoint="last", **fields)
    assert largest_difference(weights(tmp_path / "straight"), weights(tmp_path / "broken")) == 0
    # The step that was saved is logged, too, so that no entry is the mean of too few losses.
    straight, broken = (
        {entry["step"]: entry["loss"] for entry in history(tmp_path / name) if "loss" in entry}
        for name in ("straight", "broken")
    )
    assert straight.keys() | {3} == broken.keys()
    assert straight[4] == pytest.approx((broken[3] + broken[4]) / 2)
    assert all(straight[step] == broken[step] for step in (2, 6))


def test_an_interruption_before_the_first_checkpoint_says_so(train):
    with pytest.raises(KeyboardInterrupt, match="before the first checkpoint: there is nothing"):
        train("run", callbacks=[InterruptAt(1)])


def test_a_run_goes_on_with_its_own_data_and_model_only(train, tmp_path, capsys):
    train("run", resume_from_checkpoint="last")
    assert "There is no checkpoint to resume from" in capsys.readouterr().out
    again = {"resume_from_checkpoint": "last", "max_steps": 6}
    other = tiny_overrides(num_hashes=4)
    with pytest.raises(ValueError, match="model.config_overrides was .*, now .*num_hashes=4"):
        train("run", {"config_overrides": other}, **again)
    with pytest.raises(ValueError, match="data.block_size was 64, now 32"):
        train("run", data={"block_size": 32}, **again)
    with pytest.raises(ValueError, match="seed was 42, now 7.*Give the old ones"):
        train("run", seed=7, **again)
    file = tmp_path / "data" / "train.jsonl"
    content = file.read_text()
    file.write_text(content.replace("line 0", "LINE 0"))
    with pytest.raises(ValueError, match="data.train_file was '1 files, .*', now '1 files, "):
        train("run", **again)
    file.write_text(content)
    may_change = {"per_device_train_batch_size": 1, "gradient_accumulation_steps": 2}
    may_change |= {"learning_rate": 1e-3, "logging_steps": 3}
    train("run", data={"max_eval_samples": 2}, **may_change, **again)
    assert "Resuming from checkpoint-4" in capsys.readouterr().out


def test_the_clock_stops_training_with_a_checkpoint(train, tmp_path):
    fields = {"eval_strategy": "steps", "eval_steps": 100, "resume_from_checkpoint": "last"}
    assert "eval_loss" in train("run", max_minutes=1e-6, **fields)
    checkpoint, _ = last_whole_checkpoint(tmp_path / "run")
    assert checkpoint.name == "checkpoint-1"
    state = TrainerState.load_from_json(checkpoint / "trainer_state.json")
    assert "eval_loss" in state.log_history[-1]
    # Its time is up for good, unless it is given more.
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Trainer, "training_step", None)
        train("run", max_minutes=1e-6, **fields)
    train("run", max_minutes=5.0, **fields)
    assert last_whole_checkpoint(tmp_path / "run")[0].name == "checkpoint-4"


@pytest.mark.parametrize(("do_eval", "rows"), [(True, 1), (False, 0)])
def test_a_run_of_some_minutes_is_planned_with_its_evaluations(train, monkeypatch, do_eval, rows):
    asked = []

    def fitting_steps(model, arguments, schedule, evaluated):
        asked.append(evaluated)
        return 2

    monkeypatch.setattr(language_model, "fitting_steps", fitting_steps)
    data = {"row_lengths": [32, 64], "tokens_per_step": [64], "max_eval_samples": 1}
    fields = {"max_steps": -1, "do_eval": do_eval, "per_device_train_batch_size": 8}  # not used
    train("run", data=data, max_minutes=5.0, **fields)
    assert asked == [rows]


def test_the_clock_counts_resumed_runs(train, tmp_path):
    with pytest.raises(KeyboardInterrupt):
        train("run", callbacks=[InterruptAt(3)])
    before = TrainerState.load_from_json(tmp_path / "run" / "checkpoint-2" / "trainer_state.json")
    train("run", resume_from_checkpoint="last")
    log = [entry for entry in history(tmp_path / "run") if "seconds" in entry]
    seconds, steps = ([entry[name] for entry in log] for name in ("seconds", "step_seconds"))
    assert seconds == sorted(seconds) and steps == sorted(steps)
    assert 0 < steps[-1] <= seconds[-1]
    recorded = before.log_history[-1]
    assert log[len(before.log_history) - 1] == recorded
    assert steps[len(before.log_history)] >= recorded["step_seconds"] > 0


def test_the_loss_falls_from_that_of_knowing_nothing(train, tmp_path):
    overrides = tiny_overrides().replace("initializer_range=0.1", "initializer_range=0.02")
    train("run", {"config_overrides": overrides}, max_steps=12)
    curve = [entry["loss"] for entry in history(tmp_path / "run") if "loss" in entry]
    assert curve[0] == pytest.approx(math.log(258), rel=0.1)
    assert curve[-1] < curve[0] - 0.5
