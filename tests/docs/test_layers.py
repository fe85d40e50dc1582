"""The code of `docs/layers.md` runs from top to bottom, and gives what the page says."""

import re
from pathlib import Path

PAGE = Path(__file__).parents[2] / "docs" / "layers.md"


def test_the_code_of_the_page_runs(capsys):
    blocks = re.findall(r"^```python\n(.*?)^```$", PAGE.read_text(encoding="utf-8"), re.M | re.S)
    assert len(blocks) == 5
    defined = {"__name__": "page"}
    for number, block in enumerate(blocks, start=1):
        exec(compile(block, f"{PAGE.name}, block {number}", "exec"), defined)
    (promised,) = re.findall(r"^print\(.*# (b'.*')$", "".join(blocks), re.M)
    assert capsys.readouterr().out.strip() == promised
