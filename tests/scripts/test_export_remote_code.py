import json

from scripts.export_remote_code import main
from tests.models.tiny import tiny_lm


def test_it_adds_the_code(tmp_path, capsys):
    tiny_lm().save_pretrained(tmp_path)
    assert main([str(tmp_path)]) == 0
    assert f"{tmp_path}: " in capsys.readouterr().out
    auto_map = json.loads((tmp_path / "config.json").read_text())["auto_map"]
    assert auto_map["AutoModelForCausalLM"] == "modeling_reformer_hf.ReformerHFForCausalLM"
    assert (tmp_path / "modeling_reformer_hf.py").is_file()


def test_a_mistake_is_a_message(tmp_path, capsys):
    assert main([str(tmp_path / "absent")]) == 1
    assert "error: " in capsys.readouterr().err
