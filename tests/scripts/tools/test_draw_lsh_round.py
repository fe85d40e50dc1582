import sys

import torch

from scripts.tools import draw_lsh_round
from scripts.tools.draw_lsh_round import hash_places, vectors, weigh_rounds


def test_the_rounds_of_the_picture_add_up_to_its_output():
    queries = vectors()
    alone, weights, together = weigh_rounds(queries, hash_places(queries))
    combined = torch.einsum("rq,rqk->qk", weights, alone)
    several = weights.sum(dim=0) > 0
    assert int(several.sum()) >= 12
    torch.testing.assert_close(weights.sum(dim=0)[several], torch.ones_like(weights[0][several]))
    torch.testing.assert_close(combined[several], together[several])


def test_it_writes_the_picture(tmp_path, monkeypatch, capsys):
    output = tmp_path / "pictures" / "round.png"
    monkeypatch.setattr(sys, "argv", ["draw_lsh_round", "--output", str(output)])
    draw_lsh_round.main()
    assert output.read_bytes().startswith(b"\x89PNG")
    assert str(output) in capsys.readouterr().out
