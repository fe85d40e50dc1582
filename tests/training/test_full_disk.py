"""A disk that is really full, a small one in memory; test_loop and test_clm feign it everywhere."""

import subprocess

import pytest

from reformer_hf.training.checkpoints import is_whole
from scripts import train_clm, train_clm_no_trainer
from tests.training.runs import tiny_overrides, write_documents


@pytest.fixture
def small_disk(tmp_path):
    """A folder with room for a few checkpoints, and a function that makes room for more."""
    folder = tmp_path / "disk"
    folder.mkdir()

    def mount(options):
        command = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)]
        return subprocess.run(command, capture_output=True).returncode == 0

    try:
        mounted = mount("size=1m")
    except FileNotFoundError:
        mounted = False
    if not mounted:
        pytest.skip("mounting a small disk is for root on Linux")
    yield folder, lambda: mount("remount,size=64m")
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


TRAINER = ["--max_steps", "40", "--save_steps", "1", "--do_train", "--use_cpu"]
TRAINER += ["--report_to", "none"]
LOOP = ["--max_train_steps", "40", "--checkpointing_steps", "1", "--save_total_limit", "1000"]


@pytest.mark.parametrize("script, more", [(train_clm, TRAINER), (train_clm_no_trainer, LOOP)])
def test_a_run_goes_on_when_there_is_room_again(
    script, more, small_disk, tmp_path, monkeypatch, capsys
):
    monkeypatch.setenv("ACCELERATE_USE_CPU", "true")
    disk, enlarge = small_disk
    file = write_documents(tmp_path / "rows.jsonl")
    overrides = tiny_overrides(ngram_sizes=[])  # whose tables are larger than the disk
    arguments = ["--train_file", str(file), "--block_size", "64", "--output_dir", str(disk / "run")]
    arguments += ["--cache_dir", str(tmp_path / "cache"), "--config_overrides", overrides]
    arguments += ["--per_device_train_batch_size", "1", "--resume_from_checkpoint", "last", *more]

    assert script.main(arguments) == 1
    message = capsys.readouterr().err
    assert "the disk is full" in message and "checkpoints before this one are whole" in message
    assert sum(is_whole(path) for path in (disk / "run").iterdir()) > 1

    assert enlarge()
    assert script.main(arguments) == 0
    assert (disk / "run" / "README.md").is_file()
