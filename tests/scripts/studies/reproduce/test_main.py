"""The command for the claims of the paper."""

import pytest

from scripts.studies.reproduce.__main__ import claims, main


@pytest.mark.parametrize("claim", claims())
def test_each_claim_says_how_it_is_run(claim, capsys):
    with pytest.raises(SystemExit) as end:
        main([claim, "--help"])
    printed = capsys.readouterr().out
    assert end.value.code == 0
    assert f"usage: python -m scripts.studies.reproduce {claim} " in printed
    assert f"python -m scripts.studies.reproduce {claim}\n" in printed  # of its description


def test_an_unknown_claim_is_refused(capsys):
    with pytest.raises(SystemExit) as end:
        main(["perpetual_motion"])
    assert end.value.code == 2
    assert ",".join(claims()) in capsys.readouterr().out
