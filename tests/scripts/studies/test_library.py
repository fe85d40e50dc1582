"""The standard library as one text."""

import sysconfig
from pathlib import Path

from scripts.studies.library import join_standard_library, read_ids


def test_modules_in_the_order_of_their_names(tmp_path):
    root = Path(sysconfig.get_path("stdlib"))
    first, second = (root / name for name in ("__future__.py", "__hello__.py"))
    wanted = first.read_bytes() + second.read_bytes()
    joined = join_standard_library(tmp_path / "text", len(first.read_bytes()) + 1).read_bytes()
    assert joined == wanted
    assert read_ids(100).tolist() == [[byte + 2 for byte in wanted[:100]]]


def test_a_file_of_ones_own(tmp_path):
    (tmp_path / "mine").write_bytes(b"abc")
    assert read_ids(2, str(tmp_path / "mine")).tolist() == [[99, 100]]
