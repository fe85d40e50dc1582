import torch

from scripts.tools.draw_lsh_round import hash_places, main, vectors, weigh_rounds


def test_the_rounds_of_the_picture_add_up_to_its_output():
    queries = vectors()
    alone, weights, together = weigh_rounds(queries, hash_places(queries))
    combined = torch.einsum("rq,rqk->qk", weights, alone)
    several = weights.sum(dim=0) > 0
    assert int(several.sum()) >= 12
    torch.testing.assert_close(weights.sum(dim=0)[several], torch.ones_like(weights[0][several]))
    torch.testing.assert_close(combined[several], together[several])


def test_it_writes_the_picture(tmp_path, capsys):
    output = tmp_path / "pictures" / "round.png"
    assert main(["--output", str(output)]) == 0
    assert output.read_bytes().startswith(b"\x89PNG")
    assert str(output) in capsys.readouterr().out
