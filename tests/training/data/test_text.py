import csv
import json
import os

import pytest
from datasets import Dataset, IterableDataset
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from reformer_hf.training.arguments import DataTrainingArguments
from reformer_hf.training.data.text import find_files, load_texts

TEXTS = ["one\ntwo\n", "drei é 🙂", "four\r\nfive"]


def write(folder, kind):
    """The texts as files of a kind; returns what train_file is."""
    folder.mkdir()
    rows = Dataset.from_list([{"id": index, "text": text} for index, text in enumerate(TEXTS)])
    if kind == "txt":
        for index, text in enumerate(TEXTS):
            (folder / f"{index}.txt").write_text(text, encoding="utf-8", newline="")
        return folder / "*.txt"
    path = folder / f"data.{kind}"
    if kind in ("jsonl", "ndjson"):
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    elif kind == "json":
        path.write_text(json.dumps(list(rows)), encoding="utf-8")
    else:
        rows.to_parquet(path)
    return path


def write_table(path):
    with path.open("w", encoding="utf-8-sig", newline="") as file:
        writer = csv.writer(file, "excel" if path.suffix == ".CSV" else "excel-tab")
        writer.writerows([("id", "text"), *enumerate(["null", "00000101", "\u2028 é", "", "NA"])])
    return str(path)


def load(tmp_path, **fields):
    return load_texts(DataTrainingArguments(**fields), cache_dir=str(tmp_path / "cache"))


@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize("kind", ["txt", "json", "jsonl", "ndjson", "parquet"])
def test_files_of_every_kind_give_their_texts_in_order(tmp_path, kind, streaming):
    path = str(write(tmp_path / "data", kind))
    texts = load(tmp_path, train_file=path, validation_file=path, streaming=streaming)
    assert sorted(texts) == ["train", "validation"]
    assert isinstance(texts["train"], IterableDataset if streaming else Dataset)
    for split in texts.values():
        assert [row["text"] for row in split] == TEXTS


@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize("name", ["a.CSV", "a.tsv"])
def test_fields_of_tables_are_text(tmp_path, name, streaming):
    path = write_table(tmp_path / name)
    rows = load(tmp_path, train_file=path, streaming=streaming)["train"]
    assert [row["text"] for row in rows] == ["null", "00000101", "\u2028 é", "", "NA"]


@pytest.mark.parametrize("streaming", [False, True])
def test_a_byte_order_mark_and_line_ends(tmp_path, streaming):
    (tmp_path / "a.txt").write_bytes(b"\xef\xbb\xbf\xef\xbb\xbfone\r\ntwo\rthree\n\0")
    texts = load(tmp_path, train_file=str(tmp_path / "a.txt"), streaming=streaming)["train"]
    assert "".join(row["text"] for row in texts) == "\ufeffone\r\ntwo\rthree\n\0"


@settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
@given(content=st.text("a \t\n\r\ufeff\u2028\x85\x0b\x1c\0 é🙂", min_size=1, max_size=40))
def test_texts_reach_the_model_as_open_reads_them(tmp_path, content):
    (tmp_path / "a.txt").write_text(content * 3000, encoding="utf-8", newline="")
    with open(tmp_path / "a.txt", encoding="utf-8-sig", newline="") as file:
        expected = file.read()
    texts = list(load(tmp_path, train_file=str(tmp_path / "a.txt"), streaming=True)["train"])
    assert "".join(row["text"] for row in texts) == expected
    assert [row["ends_document"] for row in texts][-1:] == [True] * bool(expected)


def test_only_the_column_of_text_matters(tmp_path):
    rows = [{"id": 1, "text": "a"}, {"id": "x", "text": None}, {"id": {"": []}}]
    (tmp_path / "a.jsonl").write_text("\n".join(map(json.dumps, rows)))
    texts = load(tmp_path, train_file=str(tmp_path / "a.jsonl"))["train"]
    assert list(texts) == [{"text": "a"}, {"text": None}, {"text": None}]


def test_a_long_text_file_is_read_in_pieces_that_end_with_words(tmp_path):
    text = "".join(f"line {index}\n" for index in range(20_000))
    (tmp_path / "a.txt").write_text(text)
    (tmp_path / "b.txt").write_text("short")
    pieces = list(load(tmp_path, train_file=str(tmp_path / "?.txt"))["train"])
    assert len(pieces) > 10
    ends = [piece["ends_document"] for piece in pieces]
    assert ends == [False] * (len(pieces) - 2) + [True, True]
    assert "".join(piece["text"] for piece in pieces[:-1]) == text
    assert all(piece["text"].startswith(" ") for piece in pieces[1:-1])


def test_a_line_longer_than_memory_allows_is_cut(tmp_path):
    (tmp_path / "a.txt").write_text("x" * 300_000)
    pieces = list(load(tmp_path, train_file=str(tmp_path / "a.txt"))["train"])
    assert max(len(piece["text"]) for piece in pieces) <= 1 << 15
    assert sum(len(piece["text"]) for piece in pieces) == 300_000


def test_line_breaks_can_be_left_out(tmp_path):
    (tmp_path / "a.txt").write_text("one\x0b\ntwo\r\n\u2028\x1c\x85\r", newline="")
    texts = load(tmp_path, train_file=str(tmp_path / "a.txt"), keep_linebreaks=False)
    assert texts["train"][0]["text"] == "one\x0btwo\u2028\x1c\x85"


def test_a_file_that_was_changed_is_read_again(tmp_path):
    path = tmp_path / "a.txt"
    for text in ("before", "behind"):
        path.write_text(text)
        assert load(tmp_path, train_file=str(path))["train"][0]["text"] == text


@pytest.mark.parametrize("ending", ["txt", "parquet"])
def test_a_copy_that_keeps_its_date_is_read_again(tmp_path, ending):
    path = tmp_path / f"a.{ending}"
    for text in ("before", "behind"):
        if ending == "txt":
            path.write_text(text)
        else:
            Dataset.from_dict({"text": [text]}).to_parquet(path)
        os.utime(path, (1e9, 1e9))
        assert load(tmp_path, train_file=str(path))["train"][0]["text"] == text


@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize("content", ["\ufeff", "\n\r\n"])
def test_a_file_without_text_is_said(tmp_path, content, streaming):
    (tmp_path / "a.txt").write_text(content, encoding="utf-8")
    with pytest.raises(ValueError, match=r"^/.*a\.txt: a file without text; name one with text"):
        texts = load(
            tmp_path,
            train_file=str(tmp_path / "a.txt"),
            keep_linebreaks=False,
            streaming=streaming,
        )
        list(texts["train"])


@pytest.mark.parametrize("streaming", [False, True])
def test_tables_of_a_local_dataset_are_read_like_files(tmp_path, streaming):
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "train.csv").write_text("text\n00101\n2020-01-01\nNA\n")
    texts = load(tmp_path, dataset_name=str(tmp_path / "data"), streaming=streaming)
    assert [row["text"] for row in texts["train"]] == ["00101", "2020-01-01", "NA"]


def test_a_local_dataset_is_loaded_by_name(tmp_path):
    write(tmp_path / "data", "parquet")
    texts = load(tmp_path, dataset_name=str(tmp_path / "data"))
    assert list(texts) == ["train"] and list(texts["train"]["text"]) == TEXTS


def test_what_cannot_be_read_is_said(tmp_path):
    with pytest.raises(OSError, match=r"train_file=.*nothing.*: there is no such file"):
        load(tmp_path, train_file=str(tmp_path / "nothing.txt"))
    with pytest.raises(OSError, match="could not be loaded from no/such"):
        load(tmp_path, dataset_name="no/such")
    (tmp_path / "latin.txt").write_bytes("é".encode("latin-1"))
    for streaming in (False, True):
        with pytest.raises(ValueError, match=r"^/.*latin\.txt: byte 0 \(0xe9, line 1\).*UTF-8$"):
            texts = load(tmp_path, train_file=str(tmp_path / "latin.txt"), streaming=streaming)
            list(texts["train"])
    (tmp_path / "empty.txt").touch()
    with pytest.raises(ValueError, match=r"empty\.txt: a file without text"):
        load(tmp_path, train_file=str(tmp_path / "empty.txt"))
    (tmp_path / "a.json").write_text("[]")
    with pytest.raises(ValueError, match="different kinds; give either texts or rows"):
        load(
            tmp_path,
            train_file=str(tmp_path / "latin.txt"),
            validation_file=str(tmp_path / "a.json"),
        )


def test_a_pattern_names_files_in_order(tmp_path):
    for name in ("b", "a", "c"):
        (tmp_path / name).touch()
    (tmp_path / "d").mkdir()
    assert [path.name for path in find_files("x", str(tmp_path / "*"))] == ["a", "b", "c"]


def test_a_pattern_reaches_into_folders_but_not_into_installed_packages(tmp_path):
    names = ["a.txt", "b/c.txt", "b/d/e.txt", ".hidden/f.txt", "lib/site-packages/g.txt"]
    for name in names:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("text")

    def found(pattern, **options):
        paths = find_files("x", str(tmp_path / pattern), **options)
        return [path.relative_to(tmp_path).as_posix() for path in paths]

    assert found("**/*.txt") == names[:3]
    assert found("b/**/*.txt") == found("b/**/**/*.txt") == names[1:3]
    assert found("lib/site-packages/*.txt") == names[4:]
    assert found("") == names[:3]
    assert found("", exclude=tmp_path / "b") == names[:1]


def test_links_name_no_file_twice(tmp_path):
    for name in ("a/b.txt", "a/z.txt", "c.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(name)
    (tmp_path / "a" / "all").symlink_to(tmp_path)
    (tmp_path / "link.txt").symlink_to(tmp_path / "c.txt")
    for pattern in ("", "**/*.txt"):
        found = find_files("x", str(tmp_path / pattern))
        assert found == [tmp_path / name for name in ("a/b.txt", "a/z.txt", "c.txt")]


def test_a_name_that_looks_like_a_pattern_is_a_name(tmp_path):
    for name in ("a[1].txt", "a1.txt"):
        (tmp_path / name).write_text("text")
    assert find_files("x", str(tmp_path / "a[1].txt")) == [tmp_path / "a[1].txt"]
    assert find_files("x", str(tmp_path / "a[0-9].txt")) == [tmp_path / "a1.txt"]


def test_a_folder_gives_its_text_files(tmp_path):
    contents = {"z.txt": b"z", "b.md": b"b", "c.bin": b"\0\1", "empty": b"", "d.parquet": b"PAR1\0"}
    for name, content in contents.items():
        (tmp_path / name).write_bytes(content)
    assert [path.name for path in find_files("x", str(tmp_path))] == ["b.md", "d.parquet", "z.txt"]
    (tmp_path / "no").mkdir()
    with pytest.raises(OSError, match="x=.*no: the folder holds no text"):
        find_files("x", str(tmp_path / "no"))
    (tmp_path / "e.txt").symlink_to(tmp_path / "nowhere")
    with pytest.raises(OSError, match="e.txt"):
        find_files("x", str(tmp_path))


def test_a_folder_of_texts_is_loaded(tmp_path):
    write(tmp_path / "data", "txt")
    texts = load(tmp_path, train_file=str(tmp_path / "data"))
    assert list(texts["train"]["text"]) == TEXTS
