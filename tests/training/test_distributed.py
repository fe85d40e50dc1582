"""The training scripts on several processes over gloo give what one process gives."""

import contextlib
import json
import math
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
import yaml
from accelerate.commands.launch import _validate_launch_command, launch_command_parser
from accelerate.utils.launch import prepare_multi_gpu_env
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from reformer_hf.training.checkpoints import is_whole, last_whole_checkpoint
from tests import processes
from tests.training.runs import largest_difference, tiny_overrides, weights, write_documents

pytestmark = pytest.mark.distributed
ROOT = Path(__file__).parents[2]
CONFIGS = ROOT / "scripts" / "configs"
WORKER = Path(__file__).with_name("distributed_worker.py")
NO_RECIPE = ",position_embedding_type=axial,conv_kernel=0,use_qk_norm=false"
NO_RECIPE += ",lsh_local_round=false,ngram_sizes=[]"
"""What the worker, which is no script, makes of fields that are not given."""
TOLERANCE = 2e-5  # of weights of size 0.1 to 1, in float32, after steps of 0.01


def launch(config):
    """The command of `accelerate launch` and the environment that it gives each process."""
    options = ["--config_file", str(CONFIGS / config), "--main_process_port", "0"]
    command = [sys.executable, "-m", "accelerate.commands.launch", *options]
    arguments, *_ = _validate_launch_command(launch_command_parser().parse_args([*options, "-"]))
    environment = prepare_multi_gpu_env(arguments)
    names = [name for name in environment if name.startswith(("ACCELERATE_", "FSDP_"))]
    return command, {name: environment[name] for name in names}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Documents of different lengths; 38 rows, so that the last batch of 8 has 6."""
    root = tmp_path_factory.mktemp("data")
    write_documents(root / "train.jsonl")
    return root


def shared(data, output, **fields):
    values = {
        "train_file": data / "train.jsonl",
        "packing": "none",
        "block_size": 200,
        "cache_dir": data / "cache",
        "config_overrides": tiny_overrides(redraw_rotations=False) + NO_RECIPE,
        "learning_rate": 1e-2,
        "num_train_epochs": 2,
        "max_grad_norm": 1.0,
        "logging_steps": 1,
        "output_dir": output,
    } | fields
    return [part for name, value in values.items() for part in (f"--{name}", str(value))]


def loop_arguments(data, output, batch_size, accumulation=1, **fields):
    return shared(
        data,
        output,
        per_device_train_batch_size=batch_size,
        gradient_accumulation_steps=accumulation,
        **fields,
    )


@pytest.fixture(scope="module")
def alone(data):
    """What one process does with all the rows of a step in one batch: the folder of its run."""
    processes.run(1, WORKER, *loop_arguments(data, data / "alone", 8))
    return data / "alone"


def gradients(output):
    """Those of the first step, not clipped, as the worker leaves them."""
    return load_file(output / "gradients.safetensors")


def check_gradients(output, alone):
    expected, found = gradients(alone), gradients(output)
    assert expected.keys() == found.keys()
    for name, gradient in expected.items():
        scale = float(gradient.abs().max())
        assert scale > 0, name
        assert float((found[name] - gradient).abs().max()) < 1e-4 * scale, name


def check_results(output, alone):
    expected, results = weights(alone), json.loads((alone / "all_results.json").read_text())
    assert largest_difference(weights(output), expected) < TOLERANCE
    found = json.loads((output / "all_results.json").read_text())
    for name in ("eval_loss", "eval_bits_per_byte", "eval_tokens", "eval_bytes"):
        assert found[name] == pytest.approx(results[name], rel=1e-4)


FOUR = pytest.param(4, marks=pytest.mark.slow)


@pytest.mark.parametrize("count", [2, FOUR])
def test_the_trainer_learns_the_same(data, alone, tmp_path, count):
    trainer = shared(
        data,
        tmp_path / "run",
        per_device_train_batch_size=8 // (2 * count),
        gradient_accumulation_steps=2,
        optim="adamw_torch",
        save_steps=5,
        ddp_backend="gloo",
        report_to="none",
    )
    flags = ["--do_train", "--do_eval", "--use_cpu"]
    printed = processes.run(count, ROOT / "scripts/train_clm.py", *trainer, *flags)
    check_results(tmp_path / "run", alone)
    assert printed.count(" 0/10 [00:00") == 1  # the bar of one process
    state = json.loads((tmp_path / "run" / "trainer_state.json").read_text())
    norm = sum(float(gradient.square().sum()) for gradient in gradients(alone).values()) ** 0.5
    assert state["log_history"][0]["grad_norm"] == pytest.approx(norm, rel=1e-4)
    assert is_whole(tmp_path / "run" / "checkpoint-10")
    assert {f"rng_state_{rank}.pth" for rank in range(count)} <= {
        path.name for path in (tmp_path / "run" / "checkpoint-10").iterdir()
    }


@pytest.mark.parametrize(
    "script", ["train_clm.py", pytest.param("train_clm_no_trainer.py", marks=pytest.mark.slow)]
)
def test_rows_that_grow_are_the_same_on_two_processes(data, tmp_path, script):
    """Steps of 4, 2 and 1 rows; of the last ones one process has a blank row."""
    fields = {"packing": "documents", "tokens_per_step": 200, "gradient_accumulation_steps": 1}
    trains = script == "train_clm.py"
    fields |= {"max_steps": 6, "optim": "adamw_torch"} if trains else {"max_train_steps": 6}
    arguments = ["--row_lengths", "50", "100", "200"]
    if trains:
        arguments += ["--do_train", "--use_cpu", "--report_to", "none"]
    for count in (1, 2):
        given = [*shared(data, tmp_path / str(count), **fields), *arguments]
        processes.run(count, ROOT / "scripts" / script, *given)
    assert largest_difference(weights(tmp_path / "2"), weights(tmp_path / "1")) < TOLERANCE


@pytest.fixture(scope="module")
def spread(data):
    """What two processes do that hold each row together: the folder of their run."""
    arguments = loop_arguments(data, data / "spread", 2, 2, sequence_parallel_size=2)
    processes.run(2, WORKER, *arguments)
    return data / "spread"


def test_rows_may_be_spread_over_the_processes(alone, spread):
    check_gradients(spread, alone)
    check_results(spread, alone)


@pytest.mark.slow
def test_the_trainer_spreads_rows_over_the_processes(data, alone, tmp_path):
    trainer = shared(
        data,
        tmp_path / "run",
        per_device_train_batch_size=2,
        gradient_accumulation_steps=2,
        sequence_parallel_size=2,
        optim="adamw_torch",
        ddp_backend="gloo",
        report_to="none",
    )
    flags = ["--do_train", "--do_eval", "--use_cpu"]
    processes.run(2, ROOT / "scripts/train_clm.py", *trainer, *flags)
    check_results(tmp_path / "run", alone)


def wait_for(checkpoint, exit_status):
    deadline = time.monotonic() + 600
    while not (checkpoint / "seal.json").exists():
        assert exit_status() is None, "it ended before it could be killed"
        assert time.monotonic() < deadline, f"no {checkpoint.name} in ten minutes"
        time.sleep(0.01)


FRESH_STORE = {"TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1"}
"""Else processes that are started again read where the ones before listened, and wait for ever."""


def kill_one_of_a_launcher(count, command, script, checkpoint):
    """Kill the last of its processes; returns the launcher's exit status."""
    process = subprocess.Popen(
        command,
        env=os.environ | {"PYTHONPATH": str(ROOT), "ACCELERATE_USE_CPU": "true"} | FRESH_STORE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        wait_for(checkpoint, process.poll)
        ranks = [
            child
            for child in psutil.Process(process.pid).children(recursive=True)
            if str(script) in child.cmdline()
            and "accelerate.commands.launch" not in child.cmdline()
        ]
        assert len(ranks) == count
        ranks[-1].kill()
        return process.wait(timeout=600)
    finally:
        started = [] if process.poll() is not None else psutil.Process(process.pid).children(True)
        process.kill()
        for child in started:  # nothing else ends them
            with contextlib.suppress(psutil.NoSuchProcess):
                child.kill()


def kill_one_of(count, environment, arguments, checkpoint):
    """The other ones end by themselves, since they cannot reach it."""
    log, store = checkpoint.parent.with_name("log"), processes.new_store()
    ranks = processes.start_ranks(count, WORKER, *arguments, log=log, store=store, **environment)
    try:
        wait_for(checkpoint, lambda: ranks[-1].exitcode)
        ranks[-1].kill()
        for rank in ranks:
            rank.join(600)
        assert ranks[-1].exitcode == -signal.SIGKILL
        assert all(rank.exitcode not in (0, None) for rank in ranks), log.read_text()[-3000:]
    finally:
        for rank in ranks:
            rank.kill()


@pytest.mark.parametrize(
    ("count", "launched"), [(2, False), pytest.param(4, True, marks=pytest.mark.slow)]
)
def test_a_process_that_is_killed_costs_no_more_than_the_steps_since_the_checkpoint(
    data, alone, tmp_path, count, launched
):
    script, output = ROOT / "scripts/train_clm_no_trainer.py", tmp_path / "run"
    arguments = loop_arguments(
        *(data, output, 4 // count, 2), checkpointing_steps=1, save_total_limit=3
    )
    launcher, environment = launch("accelerate_ddp.yaml")
    if launched:
        command = [*launcher, "--num_processes", str(count), WORKER, *arguments]
        assert kill_one_of_a_launcher(count, command, WORKER, output / "checkpoint-2") != 0
    else:
        kill_one_of(count, environment, arguments, output / "checkpoint-2")
    check_gradients(output, alone)
    assert not (output / "all_results.json").exists()
    last = last_whole_checkpoint(output)[0]
    step = int(last.name.removeprefix("checkpoint-"))
    assert 2 <= step < 10
    shutil.copytree(last, tmp_path / "last")

    again = ["--resume_from_checkpoint", "last"]
    processes.run(count, script, *arguments, *again, **environment)
    check_results(output, alone)

    # One process takes over what several have begun.
    alone_now = loop_arguments(data, tmp_path / "one", 8, resume_from_checkpoint=tmp_path / "last")
    processes.run(1, script, *alone_now)
    check_results(tmp_path / "one", alone)


@pytest.mark.slow
def test_rows_that_lose_a_process_go_on_from_the_checkpoint(data, spread, tmp_path):
    output = tmp_path / "run"
    fields = {"checkpointing_steps": 1, "save_total_limit": 3, "sequence_parallel_size": 2}
    arguments = loop_arguments(data, output, 2, 2, **fields)
    kill_one_of(2, {}, arguments, output / "checkpoint-2")
    assert not (output / "all_results.json").exists()
    again = ["--resume_from_checkpoint", "last"]
    printed = processes.run(2, ROOT / "scripts/train_clm_no_trainer.py", *arguments, *again)
    assert "checkpoint-" in printed
    assert largest_difference(weights(output), weights(spread)) == 0


@pytest.mark.slow
@pytest.mark.parametrize("name", ["train_clm.py", "train_clm_no_trainer.py"])
def test_torchrun_starts_all_processes_again_from_the_last_checkpoint(data, alone, tmp_path, name):
    script, output = ROOT / "scripts" / name, tmp_path / "run"
    if name == "train_clm.py":
        fields = {"per_device_train_batch_size": 2, "gradient_accumulation_steps": 2}
        fields |= {"optim": "adamw_torch", "save_steps": 2, "report_to": "none"}
        arguments = [*shared(data, output, **fields), "--do_train", "--do_eval", "--use_cpu"]
    else:
        arguments = loop_arguments(data, output, 2, 2, checkpointing_steps=2)
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    launcher += ["--nproc_per_node", "2", "--max-restarts", "1"]
    command = [*launcher, script, *arguments, "--resume_from_checkpoint", "last"]
    assert kill_one_of_a_launcher(2, command, script, output / "checkpoint-2") == 0
    check_results(output, alone)


@pytest.mark.parametrize("config", ["accelerate_fsdp2.yaml", "accelerate_fsdp2_offload.yaml"])
def test_fsdp_learns_the_same_and_its_checkpoints_load_anywhere(data, alone, tmp_path, config):
    output = tmp_path / "run"
    arguments = loop_arguments(data, output, 2, 2, checkpointing_steps=5)
    environment = launch(config)[1]
    processes.run(2, WORKER, *arguments, **environment)
    check_results(output, alone)
    check_gradients(output, alone)
    # In one process the last checkpoint is the model that the run ended with.
    model = AutoModelForCausalLM.from_pretrained(output / "checkpoint-10")
    assert largest_difference(model.state_dict(), weights(output)) == 0
    if config == "accelerate_fsdp2.yaml":
        shutil.rmtree(output / "checkpoint-10")
        (output / "all_results.json").unlink()
        again = ["--resume_from_checkpoint", "last"]
        processes.run(2, WORKER, *arguments, *again, **environment)
        check_results(output, alone)


@pytest.mark.slow
@pytest.mark.parametrize("config", ["accelerate_fsdp2.yaml", "accelerate_fsdp2_offload.yaml"])
def test_fsdp_learns_the_same_with_the_optimizer_in_backward(data, tmp_path, config):
    """Gradients of both, a step at a time: clipping would be of layers, not of the model."""
    fields = {"max_grad_norm": 0, "max_train_steps": 4}
    processes.run(1, WORKER, *loop_arguments(data, tmp_path / "alone", 8, **fields))
    arguments = loop_arguments(data, tmp_path / "run", 4, **fields, checkpointing_steps=2)
    arguments += ["--optimizer_in_backward", "true"]
    processes.run(2, WORKER, *arguments, **launch(config)[1])
    straight = weights(tmp_path / "run")
    assert largest_difference(straight, weights(tmp_path / "alone")) < TOLERANCE
    shutil.rmtree(tmp_path / "run" / "checkpoint-4")
    (tmp_path / "run" / "model.safetensors").unlink()
    again = ["--resume_from_checkpoint", "last"]
    processes.run(2, WORKER, *arguments, *again, **launch(config)[1])
    assert largest_difference(weights(tmp_path / "run"), straight) == 0


MUON = {"muon_learning_rate": 2e-2, "max_train_steps": 4}
# Muon multiplies in bfloat16. The order in which shards are added up changes an update by about a
# fiftieth; this is a tenth of what all updates together are, the sum of the rates.
OF_SHARDS = 5e-3


@pytest.fixture(scope="module")
def alone_with_muon(data):
    processes.run(1, WORKER, *loop_arguments(data, data / "muon", 8, **MUON))
    return weights(data / "muon")


@pytest.mark.parametrize(
    "config, tolerance",
    [("accelerate_ddp.yaml", TOLERANCE), ("accelerate_fsdp2.yaml", OF_SHARDS)],
)
def test_muon_learns_the_same(data, alone_with_muon, tmp_path, config, tolerance):
    arguments = loop_arguments(data, tmp_path / "run", 2, 2, **MUON)
    processes.run(2, WORKER, *arguments, **launch(config)[1])
    assert largest_difference(weights(tmp_path / "run"), alone_with_muon) < tolerance


@pytest.mark.slow
@pytest.mark.parametrize("config", ["accelerate_ddp.yaml", "accelerate_fsdp2.yaml"])
def test_muon_goes_on_bit_for_bit(data, tmp_path, config):
    output = tmp_path / "run"
    arguments = loop_arguments(data, output, 2, 2, checkpointing_steps=2, **MUON)
    processes.run(2, WORKER, *arguments, **launch(config)[1])
    straight = weights(output)
    shutil.rmtree(output / "checkpoint-4")
    (output / "model.safetensors").unlink()
    again = ["--resume_from_checkpoint", "last"]
    processes.run(2, WORKER, *arguments, *again, **launch(config)[1])
    assert largest_difference(weights(output), straight) == 0


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("accelerate_*.yaml")), ids=lambda p: p.stem)
def test_accelerate_reads_the_sample_configurations(path):
    from accelerate.commands.config.config_args import load_config_from_file

    config = load_config_from_file(str(path))
    fields = yaml.safe_load(path.read_text())
    assert config.distributed_type.value == fields["distributed_type"]
    assert config.num_processes == fields["num_processes"]
    assert config.fsdp_config == fields.get("fsdp_config", {})
    assert math.isfinite(config.num_machines)


UNEVEN = {"train": 21, "validation": 9, "test": 5}
"""Rows that no process count here divides: in the last batch of two one has blank rows only."""


def learn_on_one_and_two(script, rows, root, *options):
    """Learn and predict the same rows; returns the folders of both runs."""
    arguments = ["--do_train", "--do_eval", "--do_predict", "--use_cpu", "--report_to", "none"]
    arguments += ["--num_train_epochs", "2"]
    for split, count in UNEVEN.items():
        file = root / f"{split}.jsonl"
        file.write_text("".join(json.dumps(row) + "\n" for row in rows[:count]))
        arguments += [f"--{split}_file", file]
        rows = rows[count:]
    for count, accumulation in ((1, 1), (2, 2)):
        batch = ["--gradient_accumulation_steps", accumulation, "--output_dir", root / str(count)]
        batch += ["--per_device_train_batch_size", 8 // (count * accumulation)]
        batch += ["--per_device_eval_batch_size", 4 // count]
        processes.run(count, ROOT / "scripts" / script, *arguments, *batch, *options)
    # AdamW makes steps of 0.01 also of gradients that are little more than rounding.
    assert largest_difference(weights(root / "2"), weights(root / "1")) < 5 * TOLERANCE
    return root / "1", root / "2"


def check_metrics(alone, two, names):
    """The loss of an evaluation, and of training, is the same to rounding; the scores are equal."""
    expected, found = (json.loads((each / "all_results.json").read_text()) for each in (alone, two))
    for name in {"train_loss", "eval_loss", "predict_loss"} & expected.keys():
        assert found[name] == pytest.approx(expected[name], rel=1e-4), name
    for name in names:
        assert found[name] == pytest.approx(expected[name], rel=1e-9), name


ANIMALS = ("cat", "dog", "owl")
ADAM = ["--learning_rate", "1e-2", "--optim", "adamw_torch"]
KINDS = {
    "label": ["eval_accuracy", "eval_f1_macro"],
    "labels": ["eval_f1_micro", "eval_accuracy"],
    "size": [],
    "ner_tags": ["eval_accuracy", "eval_entity_f1", "eval_entity_recall"],
}
"""Metrics by the column of labels: a class, several, a number, classes of words."""


@pytest.mark.parametrize(
    "column",
    ["ner_tags", *(pytest.param(n, marks=pytest.mark.slow) for n in ("label", "labels", "size"))],
)
def test_a_classifier_learns_the_same(tmp_path, column):
    rows = []
    for index in range(sum(UNEVEN.values())):
        animal, words = ANIMALS[index % 3], 1 + index * 7 % 11  # of lengths that differ
        values = {"label": animal, "labels": [animal, *["long"] * (words > 5)], "size": words / 4}
        values["ner_tags"] = ["O"] * words + [f"B-{animal}"]
        tokens = ["a"] * words + [animal]
        text = {"tokens": tokens} if column == "ner_tags" else {"text": " ".join(tokens)}
        rows.append({**text, column: values[column]})
    options = ["--config_overrides", tiny_overrides(redraw_rotations=False) + NO_RECIPE]
    options += ["--max_seq_length", "64", "--cache_dir", tmp_path / "cache"]
    options += ["--label_column_name", column]
    options += ADAM if column != "size" else ["--learning_rate", "0.1", "--optim", "sgd"]
    options += ["--task_name", "token"] if column == "ner_tags" else []
    alone, two = learn_on_one_and_two("train_classification.py", rows, tmp_path, *options)
    check_metrics(alone, two, KINDS[column])
    expected, found = (
        [json.loads(line) for line in (each / "predictions.jsonl").read_text().splitlines()]
        for each in (alone, two)
    )
    assert len(expected) == UNEVEN["test"]
    if column == "size":
        results = json.loads((two / "all_results.json").read_text())
        assert results["eval_mse"] == pytest.approx(results["eval_loss"], rel=1e-5)
        assert found == pytest.approx(expected, abs=1e-3)
    else:
        assert found == expected
        files = sorted(path.name for path in alone.glob("*.csv"))
        assert "class_scores.csv" in files
        for name in files:
            assert (two / name).read_text() == (alone / name).read_text(), name


def test_a_translator_learns_the_same(tmp_path):
    rows = [
        {"en": " ".join(["a"] * (index * 3 % 7) + [ANIMALS[index % 3]]), "de": ANIMALS[index % 3]}
        for index in range(sum(UNEVEN.values()))
    ]
    sizes = "hidden_size=16,num_hidden_layers=1,num_attention_heads=2,feed_forward_size=16"
    dropout = "".join(
        f",{name}=0"
        for name in (
            *("hidden_dropout_prob", "local_attention_probs_dropout_prob"),
            "lsh_attention_probs_dropout_prob",
        )
    )
    options = ["--source_lang", "en", "--target_lang", "de", "--predict_with_generate"]
    options += ["--config_overrides", sizes + dropout, "--vocab_size", "280"]
    options += ["--max_source_length", "24", "--max_target_length", "8"]
    options += ["--cache_dir", tmp_path / "cache", *ADAM]
    alone, two = learn_on_one_and_two("train_seq2seq.py", rows, tmp_path, *options)
    check_metrics(alone, two, ["eval_bleu", "predict_bleu", "eval_samples", "predict_samples"])
    name = "generated_predictions.txt"
    assert len((two / name).read_text().splitlines()) == UNEVEN["test"]
    assert (two / name).read_text() == (alone / name).read_text()
    assert (two / "spiece.model").read_bytes() == (alone / "spiece.model").read_bytes()


def train_masked(data, output, **fields):
    """Train on two processes: what they printed, and the results."""
    fields |= {"packing": "documents", "max_steps": 4, "optim": "adamw_torch"}
    arguments = shared(data, output, per_device_train_batch_size=2, **fields)
    flags = ["--do_train", "--do_eval", "--use_cpu", "--report_to", "none"]
    printed = processes.run(2, ROOT / "scripts/train_mlm.py", *arguments, *flags)
    return printed, json.loads((output / "all_results.json").read_text())


def test_a_masked_model_trains_on_two_processes(data, tmp_path):
    printed, results = train_masked(data, tmp_path / "run")
    assert 0 < results["eval_loss"] < math.log(300) and results["eval_tokens"] > 0
    assert printed.count(" 0/4 [00:00") == 1
    assert (tmp_path / "run" / "README.md").is_file()
    # The same rows with the same masks, each spread over both.
    _, results_of_parts = train_masked(data, tmp_path / "parts", sequence_parallel_size=2)
    assert largest_difference(weights(tmp_path / "parts"), weights(tmp_path / "run")) < TOLERANCE
    for name in ("eval_loss", "eval_tokens"):
        assert results_of_parts[name] == pytest.approx(results[name], rel=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("flag", ["--streaming", "--use_lora"])
@pytest.mark.parametrize("script", ["train_clm.py", "train_clm_no_trainer.py"])
def test_streams_and_adapters_train_on_two_processes(data, tmp_path, script, flag):
    output = tmp_path / "run"
    arguments = shared(data, output, packing="documents", per_device_train_batch_size=2)
    if script == "train_clm.py":
        flags = ["--max_steps", "4", "--do_train", "--do_eval", "--use_cpu", "--report_to", "none"]
    else:
        flags = ["--max_train_steps", "4", "--checkpointing_steps", "2"]
    processes.run(2, ROOT / "scripts" / script, *arguments, *flags, flag)
    results = json.loads((output / "all_results.json").read_text())
    assert 0 < results["eval_loss"] < math.log(300) and results["eval_tokens"] > 0
    assert (output / "adapter_model.safetensors").is_file() == (flag == "--use_lora")


@pytest.mark.parametrize(
    "script", ["train_clm.py", pytest.param("train_clm_no_trainer.py", marks=pytest.mark.slow)]
)
def test_a_signal_to_one_process_stops_all_with_a_checkpoint(data, tmp_path, script):
    output, path = tmp_path / "run", ROOT / "scripts" / script
    arguments = shared(data, output, per_device_train_batch_size=2)
    if script == "train_clm.py":
        arguments += ["--max_steps", "100000", "--save_steps", "2", "--save_total_limit", "2"]
        arguments += ["--do_train", "--use_cpu", "--report_to", "none"]
    else:
        arguments += ["--max_train_steps", "100000", "--checkpointing_steps", "2"]
    log, store = tmp_path / "log", processes.new_store()
    ranks = processes.start_ranks(2, path, *arguments, log=log, store=store)
    try:
        deadline = time.monotonic() + 600
        while last_whole_checkpoint(output)[0] is None:
            assert ranks[0].exitcode is None and time.monotonic() < deadline, log.read_text()
            time.sleep(0.1)
        ranks[1].terminate()
        for rank in ranks:
            rank.join(600)
        # The other one learns it from that one, and ends as if by Ctrl-C.
        assert [rank.exitcode for rank in ranks] == [128 + signal.SIGINT, 128 + signal.SIGTERM]
    finally:
        for rank in ranks:
            rank.kill()
    assert "is whole, and --resume_from_checkpoint last goes on from it" in log.read_text()
    checkpoint, broken = last_whole_checkpoint(output)
    assert checkpoint is not None and broken == []
