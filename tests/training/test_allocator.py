"""With glibc freed memory is used again: more layers take hardly more."""

import os
import platform
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from reformer_hf import ReformerHFForCausalLM, ReformerHFForConditionalGeneration
from reformer_hf.models.tokenization_reformer_hf import ReformerHFByteTokenizer
from reformer_hf.training import allocator
from reformer_hf.training.arguments import PretrainedModelArguments
from reformer_hf.training.build import build_model

ROOT = Path(__file__).parents[2]
DEEP = [(-3, 2**23), (-1, 2**28)]  # of M_MMAP_THRESHOLD and M_TRIM_THRESHOLD


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="about glibc")
@pytest.mark.skipif(not allocator.has_large_pages(), reason="the system gives no large pages")
def test_memory_is_flat_in_depth():
    """6 layers grow the process 1.1 times as much as 2; with glibc as it is, twice as much."""
    theirs = {"LD_PRELOAD", *allocator.THRESHOLDS}
    kept = {name: value for name, value in os.environ.items() if name not in theirs}
    finished = subprocess.run(
        [sys.executable, "-m", "tests.training.memory_by_depth", "24"],
        cwd=ROOT,
        env=kept | allocator.ALIGN_TO_PAGES | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert finished.returncode == 0, finished.stderr
    few, many = map(int, finished.stdout.split())
    assert many < 1.4 * few
    assert "large blocks are aligned to pages" in finished.stderr


@pytest.mark.parametrize(
    "environment", [{"THP_MEM_ALLOC_ENABLE": "0"}, {"LD_PRELOAD": "libtcmalloc_minimal.so.4"}]
)
def test_what_the_environment_chooses_stays(environment, monkeypatch, capsys):
    for name, value in (allocator.ALIGN_TO_PAGES | environment).items():
        monkeypatch.setenv(name, value)
    assert not allocator.reuse_freed_memory()
    assert capsys.readouterr() == ("", "")


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="about glibc")
@pytest.mark.parametrize(("sides", "told"), [((6,), []), ((7,), DEEP), ((3, 4), DEEP)])
def test_a_model_that_is_built_says_its_depth(sides, told, monkeypatch):
    """An encoder and a decoder count together."""
    fields = ["num_hidden_layers"] if len(sides) == 1 else ["encoder_layers", "decoder_layers"]
    model_class = ReformerHFForCausalLM
    overrides = dict(zip(fields, sides, strict=True)) | {"hidden_size": 8, "num_attention_heads": 1}
    if len(sides) == 2:
        model_class = ReformerHFForConditionalGeneration
        overrides |= {"is_encoder_decoder": True, "decoder_start_token_id": 2}
    calls = []
    glibc = SimpleNamespace(mallopt=lambda *option: not calls.append(option))
    monkeypatch.setattr(allocator.ctypes, "CDLL", lambda name: glibc)
    monkeypatch.setattr(allocator, "has_large_pages", lambda: True)
    for name in ("LD_PRELOAD", "GLIBC_TUNABLES", *allocator.THRESHOLDS):
        monkeypatch.delenv(name, raising=False)
    arguments = PretrainedModelArguments(
        config_overrides=",".join(f"{name}={value}" for name, value in overrides.items())
    )
    monkeypatch.setattr(allocator, "_ALIGNED", aligned := [])
    build_model(model_class, arguments, ReformerHFByteTokenizer(), 64)
    assert not calls
    aligned.append(True)  # as `reuse_freed_memory` says
    build_model(model_class, arguments, ReformerHFByteTokenizer(), 64)
    assert calls == told
    monkeypatch.setenv("GLIBC_TUNABLES", "glibc.malloc.mmap_threshold=1048576")
    assert not allocator.fit_to_depth(7) and calls == told


@pytest.mark.parametrize("script", sorted((ROOT / "scripts").glob("train_*.py")))
def test_training_scripts_ask_before_anything_makes_a_tensor(script):
    before, found, _ = script.read_text(encoding="utf-8").partition(
        'os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")'
    )
    assert found and not any(word in before for word in ("import torch", "import reformer_hf"))
