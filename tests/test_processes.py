import pytest

from tests import processes

SCRIPT = """
import os, sys
print("imported:", "datasets" in sys.modules, "rank:", os.environ.get("RANK"), *sys.argv[1:])
if "RANK" in os.environ:
    import torch
    torch.distributed.init_process_group("gloo")
    class Sum:
        def __str__(self):  # while all ranks are in the middle of this line
            ranks = torch.tensor(float(os.environ["RANK"]) + 1)
            torch.distributed.all_reduce(ranks)
            return str(ranks.item())
    print("sum:", Sum())
    torch.distributed.destroy_process_group()
if os.environ.get("RANK", "1") == os.environ.get("FAILS"):
    raise ValueError("no luck")
"""


@pytest.fixture
def script(tmp_path):
    (tmp_path / "script.py").write_text(SCRIPT)
    return tmp_path / "script.py"


def test_a_script_starts_with_the_imports_done(script):
    assert processes.run(1, script, "--number", 3) == "imported: True rank: None --number 3\n"


def test_several_meet(script):
    printed = processes.run(2, script)
    assert sorted(printed.splitlines()) == [
        "imported: True rank: 0",
        "imported: True rank: 1",
        "sum: 3.0",
        "sum: 3.0",
    ]


@pytest.mark.parametrize("count", [1, 2])
def test_one_that_fails_is_enough(script, count):
    with pytest.raises(AssertionError, match="no luck"):
        processes.run(count, script, FAILS="1")
