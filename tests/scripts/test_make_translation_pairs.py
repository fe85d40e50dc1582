"""Pairs from gettext catalogues: parsing, what is left out, how they are split and written."""

import gettext
import io
import json
import struct
import subprocess
import zipfile

import datasets
import pytest

from reformer_hf.training.data.pairs import TranslationArguments, load_pairs
from scripts import make_translation_pairs
from scripts.make_translation_pairs import (
    collect_pairs,
    download_wheel,
    part_of,
    read_mo,
    read_wheel,
)

MESSAGES = {
    "": "Content-Type: text/plain; charset=UTF-8\n",
    "Save": "Speichern",
    "menu\x04Open": "Öffnen",
    "%d file\0%d files": "%d Datei\0%d Dateien",
    "Server": "Server",
    "…": "...",
    "Are you\n sure?": "Sind Sie  sicher?",
    "x" * 400: "zu lang",
}


def compile_mo(messages, order="<"):
    """What msgfmt writes."""
    header, count = 28, len(messages)
    texts = [text.encode() for pair in zip(*messages.items(), strict=True) for text in pair]
    offset, table = header + 16 * count, b""
    for text in texts:
        table += struct.pack(f"{order}2I", len(text), offset)
        offset += len(text) + 1
    numbers = (0x950412DE, 0, count, header, header + 8 * count, 0, 0)
    return struct.pack(f"{order}7I", *numbers) + table + b"\0".join(texts) + b"\0"


def write_wheel(folder, messages=MESSAGES, name="some_pack-1.0", licence="License-Expression: MIT"):
    path = folder / f"{name}-py3-none-any.whl"
    metadata = f"Name: some-pack\nVersion: 1.0\n{licence}\n"
    french = {"Save": "Enregistrer"}
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(f"{name}.dist-info/METADATA", metadata)
        archive.writestr("pack/locale/de/LC_MESSAGES/django.mo", compile_mo(messages))
        archive.writestr("pack/locale/fr/LC_MESSAGES/django.mo", compile_mo(french))
    return path


@pytest.mark.parametrize("order", ["<", ">"])
def test_messages_lose_their_context_and_plurals_are_pairs_of_their_own(order):
    pairs = list(read_mo(compile_mo(MESSAGES, order)))
    assert ("Save", "Speichern") in pairs and ("Open", "Öffnen") in pairs
    assert ("%d file", "%d Datei") in pairs and ("%d files", "%d Dateien") in pairs


def test_it_reads_what_the_standard_library_reads():
    catalogue = gettext.GNUTranslations(io.BytesIO(compile_mo(MESSAGES)))
    simple = {m: t for m, t in read_mo(compile_mo(MESSAGES)) if m and "file" not in m}
    assert simple.pop("Open") == catalogue.pgettext("menu", "Open")
    assert all(catalogue.gettext(message) == text for message, text in simple.items())


def test_another_file_is_refused():
    with pytest.raises(ValueError, match="not a compiled gettext catalogue"):
        list(read_mo(b"msgid 'Save' msgstr 'Speichern'"))


def test_pairs_are_distinct_lines_with_letters_that_differ(tmp_path):
    first = write_wheel(tmp_path)
    second = write_wheel(
        tmp_path, {"Save": "Speichern", "Close": "Schließen"}, "other-2.0", "License: BSD\n more"
    )
    pairs, sources = collect_pairs([first, second], "de", max_length=300)
    assert sorted(pairs) == [
        ("%d file", "%d Datei"),
        ("%d files", "%d Dateien"),
        ("Are you sure?", "Sind Sie sicher?"),
        ("Close", "Schließen"),
        ("Open", "Öffnen"),
        ("Save", "Speichern"),
    ]
    assert [(s.licence, s.catalogues, s.pairs) for s in sources] == [("MIT", 1, 5), ("BSD", 1, 1)]


def test_the_licence_may_be_a_classifier(tmp_path):
    licence = "License: a long text\nClassifier: License :: OSI Approved :: BSD License"
    assert read_wheel(write_wheel(tmp_path, licence=licence), "de")[1] == "BSD License"


def test_messages_that_differ_in_case_and_punctuation_are_in_one_part():
    parts = [part_of(f"message {index}", 10) for index in range(2000)]
    for part, share in {"train": 0.8, "validation": 0.1, "test": 0.1}.items():
        assert parts.count(part) / 2000 == pytest.approx(share, abs=0.03)
    for index in range(50):
        assert part_of(f"Message {index}…", 10) == parts[index] == part_of(f"message-{index}", 10)


def test_a_wheel_is_downloaded_once(tmp_path, monkeypatch):
    calls = []

    def download(command, **options):
        calls.append(command)
        write_wheel(tmp_path, name="Some_Pack-1.0")
        return subprocess.CompletedProcess(command, 0, "", "")

    monkeypatch.setattr(subprocess, "run", download)
    paths = {download_wheel("some-pack==1.0", tmp_path) for _ in range(2)}
    assert len(paths) == len(calls) == 1
    assert calls[0][-1] == "some-pack==1.0" and "--no-deps" in calls[0]


def test_a_package_that_cannot_be_had_is_named(tmp_path, monkeypatch):
    failed = subprocess.CompletedProcess([], 1, "", "No matching distribution\n")
    monkeypatch.setattr(subprocess, "run", lambda *args, **options: failed)
    with pytest.raises(OSError, match="cannot download nothing==1.0: No matching distribution"):
        download_wheel("nothing==1.0", tmp_path)
    with pytest.raises(ValueError, match="'nothing': give name==version"):
        download_wheel("nothing", tmp_path)


def test_pairs_go_to_files_that_load(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "datasets")
    messages = {f"message {index}": f"Nachricht {index}" for index in range(200)}
    (tmp_path / "cache").mkdir()
    write_wheel(tmp_path / "cache", messages)
    output = tmp_path / "pairs"
    options = ["--cache_dir", str(tmp_path / "cache"), "--output_dir", str(output)]
    options += ["--packages", "some-pack==1.0", "--validation_split_percentage", "10"]
    assert make_translation_pairs.main(options) == 0
    assert "200 pairs  some-pack 1.0 (MIT)" in capsys.readouterr().out
    record = json.loads((output / "sources.json").read_text())
    assert sum(record["pairs"].values()) == 200 and record["sources"][0]["licence"] == "MIT"

    splits = load_pairs(
        TranslationArguments(
            source_lang="en",
            target_lang="de",
            train_file=str(output / "train.jsonl"),
            validation_file=str(output / "validation.jsonl"),
            test_file=str(output / "test.jsonl"),
        )
    )
    assert {split: len(rows) for split, rows in splits.items()} == record["pairs"]
    found = {(row["source"], row["target"]) for rows in splits.values() for row in rows}
    assert found == set(messages.items())

    assert make_translation_pairs.main(options) == 0
    assert "is there already" in capsys.readouterr().out


def test_bad_input_is_one_readable_line(tmp_path, capsys):
    options = ["--output_dir", str(tmp_path / "pairs"), "--cache_dir", str(tmp_path)]
    assert make_translation_pairs.main([*options, "--validation_split_percentage", "50"]) == 1
    assert capsys.readouterr().err.startswith("error: validation_split_percentage=50")
