"""The table of what is alive at the peak of a step."""

import json
from types import SimpleNamespace

from scripts.studies.million.alive import NODE, Made, at_peak, main


def event(name, children=(), **fields):
    made = SimpleNamespace(name=name, children=children, parent=None, start_time_ns=0)
    made.extra_fields = SimpleNamespace(**fields)
    for child in children:
        child.parent = made
    return made


def memory(time, pointer, size):
    allocation = event("[memory]", ptr=pointer, alloc_size=size)
    allocation.start_time_ns = time
    return allocation


def test_what_is_alive_is_what_was_made_and_not_freed():
    product = event("aten::mm", [memory(1, 7, 100), memory(4, 9, 30)])
    layer = event("reformer_hf/nn/layer.py(3): forward", [event("aten::linear", [product])])
    backward = event(f"{NODE}MmBackward0", [event("aten::mm", [memory(2, 8, 50)])])
    root = event("torch/step", [layer, backward, memory(0, 5, -40), memory(3, 7, -100)])
    peak = at_peak([root])
    assert peak.total == 110  # 40 of before are freed first
    assert peak.made == {
        Made("nn/layer.py(3): forward", "linear"): 100,
        Made("gradient: Mm", "mm"): 50,
    }
    root = event("torch/step", [layer, backward, memory(3, 7, -100), memory(5, 10, 200)])
    assert at_peak([root]).made == {
        Made("gradient: Mm", "mm"): 50,
        Made("nn/layer.py(3): forward", "linear"): 30,
        Made("outside the package", ""): 200,
    }


def test_a_step_is_profiled_and_recorded(tmp_path, capsys):
    sizes = ["--num_tokens", "400", "--num_hidden_layers", "2", "--hidden_size", "16"]
    sizes += ["--num_attention_heads", "2", "--feed_forward_size", "24"]
    assert main([*sizes, "--output_dir", str(tmp_path)]) == 0
    result = json.loads((tmp_path / "million.json").read_text(encoding="utf-8"))
    stream = 4 * 400 * 16
    assert result["bytes"] > 4 * stream
    assert {"nn", "ops"} & {made["place"].partition("/")[0] for made in result["made"]}
    table = (tmp_path / "million.md").read_text(encoding="utf-8")
    assert table.strip() in capsys.readouterr().out
    assert f"| all |  | {result['bytes'] / stream:.2f} |" in table
