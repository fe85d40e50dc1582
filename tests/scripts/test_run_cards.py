"""Each training script leaves the card of its run, and sends that card to the Hub."""

import json

import pytest
from huggingface_hub import ModelCard

from scripts import train_classification, train_clm, train_clm_no_trainer, train_mlm, train_seq2seq
from tests.hub.conftest import TOKEN, hub, waits  # noqa: F401 (fixtures)
from tests.hub.fake_validation import metadata_errors
from tests.training.runs import tiny_overrides


def write_rows(folder):
    lines = [{"text": f"line {i} " * 8, "label": ["odd", "even"][i % 2]} for i in range(40)]
    (folder / "rows.jsonl").write_text("\n".join(map(json.dumps, lines)))
    pairs = [{"translation": {"en": f"word {i}", "de": f"Wort {i}"}} for i in range(20)]
    (folder / "pairs.jsonl").write_text("\n".join(map(json.dumps, pairs)))


def run(script, folder, *more):
    """Train for two steps; returns the folder that has the card."""
    write_rows(folder)
    output = folder / "run"
    common = ["--output_dir", str(output), "--seed", "1"]
    if script is train_seq2seq:
        pairs = str(folder / "pairs.jsonl")
        common += ["--train_file", pairs, "--validation_file", pairs, "--do_train", "--do_eval"]
        common += ["--source_lang", "en", "--target_lang", "de", "--tokenizer_name", "bytes"]
        sizes = "hidden_size=16,num_attention_heads=2,num_hidden_layers=1"
        common += ["--config_overrides", sizes]
        common += ["--max_source_length", "32", "--max_target_length", "32", "--max_steps", "2"]
        assert script.main([*common, "--use_cpu", "--report_to", "none", *more]) == 0
        return output
    common += ["--train_file", str(folder / "rows.jsonl"), "--cache_dir", str(folder / "cache")]
    common += ["--config_overrides", tiny_overrides()]
    if script is train_clm_no_trainer:
        common += ["--max_train_steps", "2", "--block_size", "64"]
    else:
        common += ["--max_steps", "2", "--do_train", "--do_eval", "--use_cpu"]
        common += ["--report_to", "none", "--save_strategy", "no"]
        common += ["--max_seq_length" if script is train_classification else "--block_size", "64"]
    assert script.main([*common, *more]) == 0
    return output


@pytest.mark.parametrize(
    "script, tag, metric",
    [
        (train_clm, "text-generation", "bits_per_byte"),
        (train_clm_no_trainer, "text-generation", "bits_per_byte"),
        (train_mlm, "fill-mask", "perplexity"),
        (train_classification, "text-classification", "accuracy"),
        (train_seq2seq, "text2text-generation", "loss"),
    ],
    ids=lambda value: getattr(value, "__name__", value),
)
def test_a_run_leaves_its_card(script, tag, metric, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("ACCELERATE_USE_CPU", "true")
    folder = run(script, tmp_path)
    card = ModelCard.load(folder / "README.md")
    assert metadata_errors(card.content) == []
    assert card.data.pipeline_tag == tag
    assert metric in {result.metric_type for result in card.data.eval_results}
    assert f"on the file {'pairs' if script is train_seq2seq else 'rows'}.jsonl" in card.content
    assert " 2 steps" in f" {card.content}".replace("\n", " ")
    assert str(tmp_path) not in card.content
    record = json.loads((folder / "run_record.json").read_text())
    assert record["training"]["steps"] == 2
    simple = {train_classification: "majority class", train_seq2seq: "tokens"}
    if script in simple:
        assert f"| this model | {simple[script]} |" in card.content
        assert record["comparison"]["verdict"] in card.content.replace("\n", " ")


@pytest.mark.parametrize("script", [train_clm, train_seq2seq], ids=lambda value: value.__name__)
def test_card_and_model_go_to_the_hub_without_the_token(
    script,
    hub,  # noqa: F811
    tmp_path,
    monkeypatch,
    capsys,
):
    monkeypatch.setenv("HF_TOKEN", "hf_" + "b" * 34)  # the argument is what counts
    (tmp_path / "run" / "_broken-checkpoint-1").mkdir(parents=True)
    (tmp_path / "run" / "_broken-checkpoint-1" / "optimizer.pt").write_bytes(b"x")
    folder = run(script, tmp_path, "--push_to_hub", "--hub_model_id", "a-run", "--hub_token", TOKEN)
    sent = hub.repositories["ada/a-run"].at("main").files
    assert sent["README.md"] == (folder / "README.md").read_bytes()
    assert not [name for name in sent if "run_settings" in name or "broken" in name]
    assert "run_record.json" in sent and "model.safetensors" in sent
    written = [path.read_bytes() for path in (tmp_path / "run").rglob("*") if path.is_file()]
    assert not any(TOKEN.encode() in content for content in [*sent.values(), *written])
