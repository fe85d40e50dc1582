"""Settings files mean what stands in them."""

import json

import pytest

from reformer_hf.training.arguments import (
    DataTrainingArguments,
    LoopArguments,
    PretrainedModelArguments,
    ReformerTrainingArguments,
)
from reformer_hf.training.parsing import parse_arguments
from reformer_hf.training.settings_files import read_settings, read_yaml

KINDS = (PretrainedModelArguments, DataTrainingArguments, ReformerTrainingArguments)


def parse(tmp_path, text, *arguments, name="a.yaml", kinds=KINDS):
    (tmp_path / name).write_bytes(text if isinstance(text, bytes) else text.encode())
    fixed = ["--train_file", "a", "--use_cpu", "true"] if kinds == KINDS else []
    parsed = parse_arguments(kinds, [str(tmp_path / name), *fixed, *arguments])
    return {name: value for each in parsed for name, value in vars(each).items()}


@pytest.mark.parametrize(
    "number", ["1e-5", "1E-5", "1e-05", "1.0e-5", "0.00001", ".1e-4", '"1e-5"']
)
def test_a_small_number_is_a_number_at_any_depth(tmp_path, number):
    for text in (
        f"lr_scheduler_kwargs: {{min_lr: {number}}}\nlearning_rate: {number}\n",
        f"lr_scheduler_kwargs:\n  min_lr: {number}\nlearning_rate:   {number} # small\n",
    ):
        found = parse(tmp_path, text)
        assert found["lr_scheduler_kwargs"] == {"min_lr": 1e-5} and found["learning_rate"] == 1e-5


def test_so_it_is_on_the_command_line_and_in_json(tmp_path):
    for text in ('{"min_lr": 1e-5}', "{min_lr: 1e-5}", '{"min_lr": "1e-5"}'):
        found = parse(tmp_path, "max_steps: 1", "--lr_scheduler_kwargs", text)
        assert found["lr_scheduler_kwargs"] == {"min_lr": 1e-5}
    values = {"lr_scheduler_kwargs": {"min_lr": 1e-5}, "learning_rate": 1e-5, "max_steps": 3}
    text = json.dumps(values | {"do_train": True, "run_name": "ü", "eval_steps": None})
    found = parse(tmp_path, text, name="a.JSON")
    assert {name: found[name] for name in values} == values
    assert found["do_train"] is True and found["run_name"] == "ü"


@pytest.mark.parametrize(
    "line, expected",
    [
        ("save_strategy: no", "no"),
        ("eval_strategy: no", "no"),
        ("lr_scheduler_type: constant", "constant"),
        ("run_name: on", "on"),
        ("run_name: 010", "010"),
        ("run_name: 1_000", "1_000"),
        ("run_name: 12:30:45", "12:30:45"),
        ("run_name: 2026-01-01", "2026-01-01"),
        ("run_name: 12e4567", "12e4567"),
        ("run_name: 'null'", "null"),
        ("run_name: none", "none"),
        ("run_name: null", None),
        ("run_name: ~", None),
        ("run_name:", None),
        ("max_steps: 010", 10),
        ("do_train: yes", True),
        ("do_train: on", True),
        ("do_train: True", True),
        ("do_train: off", False),
        ("do_train: 0", False),
        ("keep_linebreaks: no", False),
        ("keep_linebreaks: true", True),
        ("report_to: none", []),
        ("report_to: [none]", []),
        ("lora_target_modules: query_key", ["query_key"]),
        ("lora_target_modules: [no, 010]", ["no", "010"]),
        ("label_names: [labels]", ["labels"]),
        ("accelerator_config: {split_batches: false}", None),
        ("greater_is_better: no", False),
    ],
)
def test_words_are_what_stands_there(tmp_path, line, expected):
    name = line.partition(":")[0]
    more = {
        "lora_target_modules": "use_lora: true\n",
        "greater_is_better": "eval_strategy: epoch\n",
    }
    more = more.get(name, "")
    found = parse(tmp_path, more + line)[name]
    if name == "accelerator_config":
        assert found.split_batches is False
    else:
        assert found == expected and type(getattr(found, "value", found)) is type(expected)


def test_the_loop_reads_its_files_in_the_same_way(tmp_path):
    kinds = (LoopArguments,)
    found = parse(tmp_path, "mixed_precision: no\ncheckpointing_steps: 5\n", kinds=kinds)
    assert found["mixed_precision"] == "no" and found["checkpointing_steps"] == "5"
    with pytest.raises(ValueError, match="optim: .*|argument --optim: invalid choice: 'no'"):
        parse(tmp_path, "optim: no", kinds=kinds)


@pytest.mark.parametrize(
    "text, message",
    [
        ("max_steps: 1\nmax_steps: 2", "'max_steps' stands twice, again in line 2"),
        ("lr_scheduler_kwargs: {a: 1, a: 2}", "'a' stands twice"),
        ("max_step: 1", "no argument 'max_step': did you mean max_steps"),
        ("1: 2", "no argument '1'"),
        ("max_steps:\t1\n\tseed: 2", r"cannot be read \(line 1, column 11: .*'\\t'"),
        ("\tmax_steps: 1", r"cannot be read .*line 1"),
        ("", "holds no names with values"),
        ("# nothing\n", "holds no names with values"),
        ("- max_steps", "holds no names with values"),
        ("max_steps", "holds no names with values"),
        ("max_steps: [", "cannot be read"),
        ("a: 1\n---\nb: 2", "cannot be read"),
        ("max_steps: many", "max_steps.*invalid int value: 'many'"),
        ("max_steps: null", "max_steps: null is no value"),
        ("max_steps: [1]", r"max_steps: \['1'\] does not fit"),
        ("max_steps: {a: 1}", "max_steps: {'a': 1} does not fit"),
        ("do_train: perhaps", "do_train"),
        ("packing: no", "packing"),
        ("lr_scheduler_kwargs: low", "lr_scheduler_kwargs='low'"),
        (b"run_name: \xff", "cannot be read"),
    ],
)
def test_what_does_not_fit_is_one_readable_line(tmp_path, text, message):
    with pytest.raises(ValueError, match=message) as caught:
        parse(tmp_path, text)
    assert "\n" not in str(caught.value)
    if not message.startswith("lr_"):
        assert str(caught.value).startswith(f"{tmp_path / 'a.yaml'}: ")


@pytest.mark.parametrize(
    "text, message",
    [
        ('{"max_steps": 1, "max_steps": 2}', "'max_steps' stands twice"),
        ("[1]", "holds no names"),
        ("{", "cannot be read"),
        ("", "cannot be read"),
        ('{"max_steps": "many"}', "invalid int value: 'many'"),
        ('{"max_steps": 1.5}', "invalid int value: '1.5'"),
        ('{"max_steps": null}', "null is no value"),
        ('{"max_steps": true}', "invalid int value: 'true'"),
    ],
)
def test_so_it_is_in_json(tmp_path, text, message):
    with pytest.raises(ValueError, match=message):
        parse(tmp_path, text, name="a.json")


@pytest.mark.parametrize("name, text", [("a.yml", "max_steps: 3"), ("a.json", '{"max_steps": 3}')])
def test_a_byte_order_mark_is_no_part_of_a_name(tmp_path, name, text):
    assert parse(tmp_path, b"\xef\xbb\xbf" + text.encode(), name=name)["max_steps"] == 3


def test_anchors_and_merged_names_are_yaml_too(tmp_path):
    (tmp_path / "a.yaml").write_text("a: &x {m: 1, n: 2}\nb: {<<: *x, n: 3}\n<<: {c: no, a: z}\n")
    assert read_settings(tmp_path / "a.yaml") == {
        "a": {"m": 1, "n": 2},
        "b": {"m": 1, "n": 3},
        "c": "no",
    }


@pytest.mark.parametrize(
    "text, value",
    [("[1e3, -.5, 1., +2]", [1e3, -0.5, 1.0, 2]), ("010", 10), ("no", "no"), ("TRUE", True)],
)
def test_a_value_is_that_of_yaml_1_2(text, value):
    assert read_yaml(text) == value and str(read_yaml(text)) == str(value)
    assert read_yaml(".inf") == float("inf") and read_yaml("") is None


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["--max_step", "3"], "no argument '--max_step': did you mean max_steps"),
        (["--max_steps", "3", "a.yaml"], "a.yaml: a file of settings comes first"),
        (["--max_steps", "x"], "argument --max_steps.*invalid int value: 'x'"),
        (["stray"], "no argument 'stray'"),
        (
            ["--lr_scheduler_kwargs", "{min_lr: [}"],
            "lr_scheduler_kwargs='{min_lr: .*cannot be read",
        ),
    ],
)
def test_the_command_line_is_refused_in_one_line(arguments, message):
    with pytest.raises(ValueError, match=message) as caught:
        parse_arguments(KINDS, ["--train_file", "a", *arguments])
    assert "\n" not in str(caught.value)
