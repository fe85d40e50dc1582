"""One step on a long sequence, at the size of a test."""

import json

import pytest

from scripts.studies.million import __main__ as million
from scripts.studies.million.__main__ import main
from scripts.studies.million.arguments import StepArguments
from tests import processes

TINY = ["--num_tokens", "400", "--num_hidden_layers", "2", "--hidden_size", "16"]
TINY += ["--num_attention_heads", "2", "--feed_forward_size", "24", "--check_tokens", "120"]
TINY += ["--chunk_size_feed_forward", "64", "--chunk_size_lm_head", "100"]


@pytest.mark.parametrize("preset", ["million", "crime-and-punishment"])
def test_a_step_is_checked_done_and_recorded(preset, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(million, "peak_memory_bytes", lambda: 3 * 2**29)
    if preset == "million":  # the other one's check has an interpreter that is really its own
        monkeypatch.setattr(million, "get_context", lambda method: processes.CONTEXT)
    assert main([*TINY, "--preset", preset, "--output_dir", str(tmp_path)]) == 0
    result = json.loads((tmp_path / "result.json").read_text(encoding="utf-8"))
    scope = result["arguments"]["attention_scope"]
    assert scope == {"million": "band"}.get(preset, "chunk")
    assert ("first half of the sequence against it alone" in result["checks"]) == (scope == "band")
    assert 4 < result["loss"] < 8
    assert result["gradient_norm"] > 0
    assert result["peak_memory_gib"] == result["peak_memory_gib_after_forward"] == 1.5
    printed = capsys.readouterr()
    assert "Check, against plain autograd" in printed.out
    assert "100%" in printed.err


def test_presets_fill_in_what_is_left_out():
    arguments = StepArguments(num_hashes=2)
    assert arguments.num_tokens == 2**20
    assert arguments.num_hashes == 2
    config = StepArguments(preset="crime-and-punishment").config()
    assert config.hidden_dropout_prob == 0.05
    assert config.num_buckets == [64, 128]
    assert config.axial_pos_shape[0] * config.axial_pos_shape[1] == 2**19
