"""Repositories that load without this package, and what it does with them itself."""

import ast
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from torch.nn.functional import cross_entropy
from torch.testing import assert_close
from transformers import AutoConfig, AutoModel, AutoModelForCausalLM, AutoTokenizer
from transformers.dynamic_module_utils import get_imports, get_relative_import_files

import reformer_hf
from reformer_hf import (
    ReformerHFByteTokenizer,
    ReformerHFConfig,
    ReformerHFForCausalLM,
    ReformerHFForConditionalGeneration,
)
from reformer_hf.hub.remote_code import (
    add_remote_code,
    auto_classes,
    flat_files,
    flat_name,
    flatten,
    read_source,
    remote_code_files,
    rewritten_imports,
)
from tests.models.seq2seq import FORMS, tiny_seq2seq
from tests.models.tiny import SPARSE_PROJECTIONS, WITH_NGRAMS, WITH_SRU, tiny_lm

WORKER = Path(__file__).with_name("remote_code_worker.py")
HUB_NAME = "someone/tiny-reformer"


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model with its tokenizer and the code."""
    folder = tmp_path_factory.mktemp("remote code") / "tiny.reformer"
    fields = {"attn_layers": ["local", "lsh", "full"], "redraw_rotations": False, **WITH_NGRAMS}
    fields["ff_sparsity_hard_share"] = 0.0  # whatever was drawn before
    fields |= {"lm_head_sparsity": 4, **SPARSE_PROJECTIONS}
    tiny_lm(vocab_size=258, **fields).save_pretrained(folder)
    ReformerHFByteTokenizer().save_pretrained(folder)
    add_remote_code(folder)
    return folder


def put_on_hub(repository: Path, home: Path) -> str:
    """Lay a repository out as if it had been downloaded, as from_pretrained does."""
    commit = "0123456789" * 4
    cached = home / "hub" / f"models--{HUB_NAME.replace('/', '--')}"
    shutil.copytree(repository, cached / "snapshots" / commit)
    (cached / "refs").mkdir()
    (cached / "refs" / "main").write_text(commit)
    return HUB_NAME


@pytest.fixture(scope="module")
def encoder_decoders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Models with their code, by form."""
    root = tmp_path_factory.mktemp("encoder-decoders")
    for form in FORMS:
        fields = {"redraw_rotations": False, **WITH_SRU}
        tiny_seq2seq(decoder_form=form, **fields).save_pretrained(root / form)
        add_remote_code(root / form)
    return {form: root / form for form in FORMS}


@pytest.fixture(scope="module")
def runs(
    repository: Path, encoder_decoders: dict[str, Path], tmp_path_factory: pytest.TempPathFactory
) -> dict[str, tuple[Path, Path, dict[str, Any]]]:
    """What was loaded without this package, what was saved afterwards, and what was found.

    One process does it all: its imports take longer than its work.
    """
    home, root = tmp_path_factory.mktemp("home"), tmp_path_factory.mktemp("runs")
    folders = {"folder": repository, "Hub": repository, "saved again": root / "folder" / "saved"}
    folders |= encoder_decoders
    names = folders | {"Hub": put_on_hub(repository, home)}
    pairs = [str(part) for name in folders for part in (names[name], root / name)]
    finished = subprocess.run(
        [sys.executable, "-W", "error", str(WORKER), *pairs],
        env={**os.environ, "HF_HOME": str(home), "HF_MODULES_CACHE": str(home / "modules")},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert finished.returncode == 0, finished.stderr
    return {
        name: (folder, root / name / "saved", torch.load(root / name / "results.pt"))
        for name, folder in folders.items()
    }


@pytest.fixture(params=["folder", "Hub", "saved again"])
def run(request: pytest.FixtureRequest, runs: dict) -> tuple[Path, Path, dict[str, Any]]:
    return runs[request.param]


def code_in(folder: Path) -> dict[str, str]:
    return {file.name: file.read_text(encoding="utf-8") for file in folder.glob("*.py")}


class TestWithoutThePackage:
    def test_every_auto_class_loads_its_model(self, run):
        expected = {name: cls.__name__ for name, cls in auto_classes(False).items()}
        assert {"AutoConfig": "ReformerHFConfig", **run[2]["classes"]} == expected

    def test_logits_and_generated_tokens_are_the_packages(self, run):
        folder, _, results = run
        model = ReformerHFForCausalLM.from_pretrained(folder)
        inputs = {"input_ids": results["ids"], "attention_mask": results["mask"]}
        assert results["mask"].sum() < results["mask"].numel()
        assert torch.equal(results["ids"][0, -9:], torch.tensor([*b"def f(x):"]) + 2)
        assert_close(model(**inputs).logits, results["logits"], rtol=1e-5, atol=1e-5)
        generated = model.generate(**inputs, max_new_tokens=8, do_sample=False)
        assert generated.shape == (2, 17)
        assert torch.equal(results["cached"], generated)
        assert torch.equal(results["uncached"], generated)

    def test_a_trainers_label_smoothing_asks_for_the_next_token(self, runs):
        _, _, results = runs["folder"]
        logits, ids = results["logits"][0], results["ids"][0]
        assert results["mask"][0].all()
        expected = cross_entropy(logits[:-1], ids[1:], label_smoothing=0.1)
        assert_close(results["smoothed"], expected, rtol=1e-5, atol=1e-5)

    def test_a_training_step_is_the_packages(self, run):
        folder, _, results = run
        model = ReformerHFForCausalLM.from_pretrained(folder).train()
        inputs = {"input_ids": results["ids"], "attention_mask": results["mask"]}
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        loss = model(**inputs, labels=results["ids"]).loss
        loss.backward()
        start = {name: weight.clone() for name, weight in model.state_dict().items()}
        optimizer.step()
        assert_close(results["loss"], loss.detach())
        assert_close(results["trained"], dict(model.state_dict()))
        assert not torch.equal(start["lm_head.bias"], results["trained"]["lm_head.bias"])

    def test_what_it_saves_is_a_whole_repository(self, run):
        folder, saved, results = run
        assert code_in(saved) == code_in(folder)
        assert_auto_map_is_whole(saved)
        model = ReformerHFForCausalLM.from_pretrained(saved)
        assert_close(dict(model.state_dict()), results["trained"], rtol=0, atol=0)


@pytest.mark.parametrize("form", FORMS)
def test_an_encoder_decoder_needs_no_package(form, runs):
    folder, saved_folder, results = runs[form]
    model = ReformerHFForConditionalGeneration.from_pretrained(folder)
    inputs = {"input_ids": results["ids"], "labels": results["labels"]}
    assert_close(model(**inputs).logits, results["logits"], rtol=1e-5, atol=1e-5)
    states = model.base_model(results["ids"]).last_hidden_state
    assert_close(states, results["states"], rtol=1e-5, atol=1e-5)
    options = {"max_new_tokens": 6, "num_beams": 2, "do_sample": False}
    assert torch.equal(model.generate(results["ids"], **options), results["generated"])
    loss = model.train()(**inputs).loss
    loss.backward()
    torch.optim.SGD(model.parameters(), lr=0.1).step()
    assert_close(results["loss"], loss.detach())
    assert_close(results["trained"], dict(model.state_dict()))
    saved = ReformerHFForConditionalGeneration.from_pretrained(saved_folder)
    assert_close(dict(saved.state_dict()), results["trained"], rtol=0, atol=0)


def assert_auto_map_is_whole(folder: Path) -> None:
    """Every Auto class has an entry, and every entry has its file with all that it imports."""
    auto_map = json.loads((folder / "config.json").read_text())["auto_map"]
    assert auto_map.keys() == auto_classes(False).keys()
    for name, cls in auto_classes(False).items():
        stem, class_name = auto_map[name].rpartition("--")[2].split(".")
        assert class_name == cls.__name__
        tree = ast.parse((folder / f"{stem}.py").read_text())
        assert class_name in {node.name for node in tree.body if isinstance(node, ast.ClassDef)}
        for file in get_relative_import_files(folder / f"{stem}.py"):
            assert Path(file).is_file()


class TestWithThePackage:
    @pytest.mark.parametrize("trust", [None, True, False])
    def test_its_own_classes_load(self, repository, trust):
        config = AutoConfig.from_pretrained(repository, trust_remote_code=trust)
        assert type(config) is ReformerHFConfig
        for name, cls in auto_classes(False).items():
            if name != "AutoConfig":
                auto_class = getattr(transformers, name)
                loaded = auto_class.from_pretrained(
                    repository,
                    trust_remote_code=trust,
                    is_decoder=name != "AutoModelForMaskedLM",  # which is never causal
                )
                assert type(loaded) is cls
        text = "naïve\n"
        tokenizer = AutoTokenizer.from_pretrained(repository, trust_remote_code=trust)
        assert tokenizer(text).input_ids == ReformerHFByteTokenizer()(text).input_ids

    def test_saving_leaves_the_map_out_that_names_the_code(self, repository, tmp_path):
        model = AutoModelForCausalLM.from_pretrained(repository)
        assert model.config.auto_map  # as read
        model.save_pretrained(tmp_path)
        model.config.save_pretrained(tmp_path / "config")
        for folder in (tmp_path, tmp_path / "config"):
            assert "auto_map" not in json.loads((folder / "config.json").read_text())
            assert code_in(folder) == {}
        assert type(AutoModel.from_pretrained(tmp_path)) is auto_classes(False)["AutoModel"]

    def test_adding_code_twice_changes_nothing(self, repository, tmp_path):
        shutil.copytree(repository, tmp_path / "copy")
        assert {file.name for file in add_remote_code(tmp_path / "copy")} == code_in(
            repository
        ).keys()
        for file in repository.iterdir():
            assert (tmp_path / "copy" / file.name).read_bytes() == file.read_bytes()


class TestFiles:
    def test_the_map_names_all_and_only_what_is_registered(self, repository):
        assert_auto_map_is_whole(repository)
        classes = auto_classes(False)
        assert {"AutoConfig", "AutoModel", "AutoModelForCausalLM"} <= classes.keys()
        assert all(cls.__module__.startswith("reformer_hf.") for cls in classes.values())

    def test_an_encoder_decoder_is_mapped_to_its_own_classes_alone(self, tmp_path):
        tiny_seq2seq().save_pretrained(tmp_path)
        add_remote_code(tmp_path)
        auto_map = json.loads((tmp_path / "config.json").read_text())["auto_map"]
        assert auto_map.keys() == {"AutoConfig", "AutoModel", "AutoModelForSeq2SeqLM"}
        assert auto_map["AutoModel"].endswith(".ReformerHFEncoderDecoderModel")

    def test_every_file_is_imported(self, repository):
        entry = repository / f"{flat_name(ReformerHFConfig.__module__)}.py"
        imported = {Path(file).name for file in get_relative_import_files(entry)}
        assert imported == code_in(repository).keys()

    def test_they_need_no_package_that_transformers_does_not_need(self, repository):
        needed = {name for file in repository.glob("*.py") for name in get_imports(file)}
        known = {"torch", "transformers", "huggingface_hub", "safetensors", "tokenizers", "numpy"}
        assert needed - set(sys.stdlib_module_names) <= known

    def test_they_are_the_packages_but_for_import_lines(self):
        files = remote_code_files()
        source = read_source("reformer_hf.ops.hashing").splitlines()
        flat = files["ops_hashing.py"].splitlines()
        assert flat[0].startswith("# From reformer_hf ") and "reformer_hf/ops/hashing.py" in flat[0]
        changed = [new for old, new in zip(source, flat[1:], strict=True) if old != new]
        assert changed and all(line.startswith("from .") for line in changed)


def test_imports_are_rewritten_at_any_depth_and_nothing_else():
    source = '''"""Says from reformer_hf.ops.hashing import x."""
import math, reformer_hf_other
from jaxtyping import Float
from reformer_hf.ops.hashing import (  # from reformer_hf.ops.sorting import y
    hash_vectors,
)
def f():
    from reformer_hf.nn.past.base import Past
    from reformer_hf.models.cache_reformer_hf import ReformerHFCache
    from reformer_hf_other.ops import z
'''
    assert flatten(source, "reformer_hf.ops.x").splitlines()[1:] == [
        '"""Says from reformer_hf.ops.hashing import x."""',
        "import math, reformer_hf_other",
        "from .shape_annotations import Float",
        "from .ops_hashing import (  # from reformer_hf.ops.sorting import y",
        "    hash_vectors,",
        ")",
        "def f():",
        "    from .nn_past_base import Past",
        "    from .cache_reformer_hf import ReformerHFCache",
        "    from reformer_hf_other.ops import z",
    ]


@pytest.mark.parametrize(
    "line",
    [
        "import reformer_hf.ops.hashing",
        "import math, jaxtyping",
        "from reformer_hf import ReformerHFConfig",
        "from . import hashing",
        "from .hashing import hash_vectors",
    ],
)
def test_imports_that_flat_files_cannot_have_are_refused(line):
    with pytest.raises(ValueError, match=r"reformer_hf\.ops\.x, line 2.* does not work in flat"):
        rewritten_imports(f"import math\n{line}", "reformer_hf.ops.x")


def test_packages_are_refused():
    with pytest.raises(ValueError, match=r"reformer_hf\.ops is not a module"):
        read_source("reformer_hf.ops")


@pytest.fixture
def add_modules(tmp_path, monkeypatch):
    """Adds modules to this package, by name without `reformer_hf.`, for one test."""
    known = set(sys.modules)
    monkeypatch.setattr(reformer_hf, "__path__", [*reformer_hf.__path__, str(tmp_path)])

    def add(**sources: str) -> None:
        for name, source in sources.items():
            file = tmp_path / f"{name.replace('__', '/')}.py"
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(source)
            for parent in file.relative_to(tmp_path).parents[:-1]:
                (tmp_path / parent / "__init__.py").touch()

    yield add
    for name in set(sys.modules) - known:
        del sys.modules[name]


class TestSubPackages:
    def test_imports_are_followed_at_any_depth(self, add_modules):
        add_modules(
            extra__modeling_x="from reformer_hf.extra.files.reading import read\n",
            extra__files__reading="if 1:\n    from reformer_hf.extra.deep.er.end import end\n",
            extra__deep__er__end="from jaxtyping import Float\nend = Float\n",
            extra__unused="",
        )
        files = flat_files({"reformer_hf.extra.modeling_x"})
        assert files.keys() == {
            "extra_modeling_x.py",
            "extra_files_reading.py",
            "extra_deep_er_end.py",
            "shape_annotations.py",
        }
        assert "from .extra_files_reading import read" in files["extra_modeling_x.py"]
        assert "    from .extra_deep_er_end import end" in files["extra_files_reading.py"]

    @pytest.mark.parametrize(
        ("first", "second", "name"),
        [
            ("extra__a__modeling_reformer_hf", "extra__b__modeling_reformer_hf", "modeling_ref"),
            ("extra__a__b", "extra__a_b", "extra_a_b.py"),
            ("extra__x", "shape_annotations", "shape_annotations.py"),
        ],
    )
    def test_two_modules_of_one_name_are_refused(self, add_modules, first, second, name):
        add_modules(**{first: "", second: ""})
        modules = {f"reformer_hf.{each.replace('__', '.')}" for each in (first, second)}
        with pytest.raises(ValueError, match=f"would both become {name}.*rename one"):
            flat_files(modules)

    def test_packages_hold_no_names(self, add_modules):
        add_modules(
            extra__a="from reformer_hf.extra.files import reading\n", extra__files__reading=""
        )
        with pytest.raises(ValueError, match=r"reformer_hf\.extra\.files is not a module"):
            flat_files({"reformer_hf.extra.a"})


class TestRefusals:
    def test_no_model(self, tmp_path):
        with pytest.raises(ValueError, match=r"no config\.json: give a folder"):
            add_remote_code(tmp_path)

    def test_other_models(self, tmp_path):
        (tmp_path / "config.json").write_text('{"model_type": "reformer"}')
        with pytest.raises(ValueError, match="model_type='reformer': only .*convert_checkpoint"):
            add_remote_code(tmp_path)
        assert [file.name for file in tmp_path.iterdir()] == ["config.json"]

    @pytest.mark.parametrize(
        ("name", "text", "message"),
        [
            (
                "tokenizer_config.json",
                '{"tokenizer_class": "ReformerHFTokenizer"}',
                "tokenizer_class='ReformerHFTokenizer' and .* no tokenizer.json.*save_pretrained",
            ),
            ("spiece.model", "", "spiece.model but no tokenizer.json.*save_pretrained"),
        ],
    )
    def test_tokenizers_that_need_the_package(self, tmp_path, name, text, message):
        (tmp_path / "config.json").write_text('{"model_type": "reformer_hf"}')
        (tmp_path / name).write_text(text)
        with pytest.raises(ValueError, match=message):
            add_remote_code(tmp_path)
        assert len(list(tmp_path.iterdir())) == 2
