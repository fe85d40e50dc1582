import os
import sysconfig
from pathlib import Path

import datasets
import pytest

from reformer_hf.training.arguments import CorpusArguments
from reformer_hf.training.corpus import open_corpus


def documents_of(path, **kwargs):
    corpus = open_corpus(CorpusArguments(corpus=str(path)), **kwargs)
    return [(name, content.tobytes()) for name, content in corpus.documents()]


def test_the_default_is_the_standard_library_in_order():
    corpus = open_corpus(CorpusArguments())
    names = [document.name for document in corpus.documents()]
    assert names == sorted(names)
    assert "argparse.py" in names and "json/decoder.py" in names
    assert not any("site-packages" in name for name in names)
    argparse = next(each for each in corpus.documents() if each.name == "argparse.py")
    source = Path(sysconfig.get_path("stdlib"), "argparse.py").read_bytes()
    assert argparse.content.tobytes() == source


def test_a_file_is_one_document_of_its_exact_bytes(tmp_path):
    path = tmp_path / "a.txt"
    path.write_bytes(b"caf\xe9\r\n\x01")
    assert documents_of(path) == [("a.txt", b"caf\xe9\r\n\x01")]


def test_a_folder_gives_its_text_files_by_relative_path(tmp_path):
    (tmp_path / "b").mkdir()
    (tmp_path / ".hidden").mkdir()
    for name, content in {
        "b/z.txt": b"z",
        "b.md": b"b",
        "binary.bin": b"\0\1",
        "empty.txt": b"",
        ".secret": b"s",
        ".hidden/x.txt": b"x",
    }.items():
        (tmp_path / name).write_bytes(content)
    assert documents_of(tmp_path) == [("b.md", b"b"), ("b/z.txt", b"z")]


def test_the_run_does_not_train_on_its_own_output(tmp_path):
    (tmp_path / "a.txt").write_text("a")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "metrics.json").write_text("{}")
    assert [name for name, _ in documents_of(tmp_path, exclude=tmp_path / "out")] == ["a.txt"]
    assert len(documents_of(tmp_path)) == 2


@pytest.mark.parametrize(
    "content, message",
    [(b"", r"a\.txt: the file is empty \(0 bytes\)"), (b"PK\0\0", r"a\.txt: 4 bytes, but binary")],
)
def test_a_file_without_text_is_refused(tmp_path, content, message):
    path = tmp_path / "a.txt"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=message):
        documents_of(path)


@pytest.mark.parametrize("contents", [[], [b""], [b"\0", b""]])
def test_a_folder_without_text_is_refused(tmp_path, contents):
    for index, content in enumerate(contents):
        (tmp_path / f"{index}.txt").write_bytes(content)
    with pytest.raises(ValueError, match=f"none of its {len(contents)} files is text"):
        documents_of(tmp_path)


def test_an_unreadable_file_is_named(tmp_path):
    (tmp_path / "a.txt").write_text("a")
    os.symlink(tmp_path / "nowhere", tmp_path / "b.txt")
    with pytest.raises(OSError, match=r"cannot read this part of the corpus.*b\.txt"):
        documents_of(tmp_path)


def test_a_name_that_is_neither_here_nor_on_the_hub(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    with pytest.raises(OSError, match="no such file or folder, and no dataset") as caught:
        open_corpus(CorpusArguments(corpus="nobody/nothing-of-this-name"))
    assert caught.value.filename == "nobody/nothing-of-this-name"
    assert "leave out --corpus" in str(caught.value)


@pytest.fixture
def hub_rows(monkeypatch):
    rows = datasets.Dataset.from_dict({"text": ["one", "", None, "zwei é"], "id": [1, 2, 3, 4]})
    asked = []

    def load_dataset(*args, **kwargs):
        asked.append((args, kwargs))
        return rows

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    return asked


def test_rows_of_a_hub_dataset(hub_rows):
    arguments = CorpusArguments(corpus="some/dataset", dataset_config_name="en")
    documents = [(d.name, d.content.tobytes()) for d in open_corpus(arguments).documents()]
    assert documents == [("train/0", b"one"), ("train/3", "zwei é".encode())]
    assert hub_rows == [(("some/dataset", "en"), {"split": "train"})]


def test_a_wrong_column_is_refused(hub_rows):
    arguments = CorpusArguments(corpus="some/dataset", text_column_name="content")
    with pytest.raises(ValueError, match=r"text_column_name='content'.*\['text', 'id'\]"):
        open_corpus(arguments)
