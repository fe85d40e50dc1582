"""The difference of cached and uncached logits: none in the band scope, some in the chunk scope."""

import json

from scripts.studies import cached_difference
from scripts.studies.cached_difference import main


def test_bands_agree_and_chunks_do_not(tmp_path, monkeypatch):
    monkeypatch.setattr(cached_difference, "LAYOUTS", {"twice": 2})
    (tmp_path / "text").write_bytes(bytes(range(32, 127)) * 4)
    path = tmp_path / "result.json"
    options = ["--text_file", str(tmp_path / "text"), "--output_file", str(path)]
    assert main([*options, "--prompt_tokens", "300", "--new_tokens", "4"]) == 0
    models = json.loads(path.read_text())["models"]
    assert models["band: twice"]["largest_logit_difference"] < 1e-9
    assert models["chunk: twice"]["largest_logit_difference"] > 1e-3
