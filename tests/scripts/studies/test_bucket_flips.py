"""The flip report: float64 against itself flips nothing, a coarse precision flips some."""

import json

import torch

from reformer_hf import ReformerHFConfig, ReformerHFForCausalLM
from scripts.studies.bucket_flips import PRECISIONS, flip_rate, main, measure


def tiny_model() -> ReformerHFForCausalLM:
    torch.manual_seed(0)
    config = ReformerHFConfig(
        vocab_size=50,
        hidden_size=32,
        num_attention_heads=2,
        attention_head_size=8,
        attn_layers=["local", "lsh", "lsh"],
        axial_pos_shape=[16, 16],
        axial_pos_embds_dim=[16, 16],
        num_hashes=2,
        num_buckets=32,
    )
    return ReformerHFForCausalLM(config).double().eval()


def test_flips_are_counted_by_precision():
    rates = measure(tiny_model(), torch.randint(50, (1, 200)))
    assert set(rates) == set(PRECISIONS)
    for scope in ("layer", "model"):
        assert rates["float32"][scope] < 1e-3
        assert 1e-4 < rates["bfloat16 parameters"][scope] < 0.2
        assert 1e-4 < rates["bfloat16 autocast"][scope] < 0.2


def test_the_rate_is_the_share_of_different_ids():
    same = torch.zeros(1, 1, 1, 4, dtype=torch.int64)
    other = torch.tensor([[[[0, 0, 1, 0]]]])
    assert flip_rate([same, other], [same, same]) == 0.125


def test_the_report_of_random_weights(tmp_path, capsys):
    path = tmp_path / "result.json"
    assert main(["--num_tokens", "100", "--output_file", str(path)]) == 0
    report = json.loads(path.read_text())
    assert (report["model"], report["tokens"]) == ("random weights", 100)
    assert set(report["flip_rate"]) == set(PRECISIONS)
    assert "bfloat16 autocast" in capsys.readouterr().out
