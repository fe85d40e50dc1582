"""torch.compile of whole passes: one graph where nothing is drawn and nothing is replayed."""

import json
from pathlib import Path

import pytest

from tests import processes

SCRIPT = Path(__file__).with_name("compiled_passes.py")


def compiled(*options: str) -> dict:
    # Not in this process: the tests' shape checks are not to be compiled.
    return json.loads(processes.run(1, SCRIPT, *options).splitlines()[-1])


@pytest.fixture(scope="module", params=["some", pytest.param("all", marks=pytest.mark.slow)])
def found(request: pytest.FixtureRequest) -> dict:
    return compiled(f"--{request.param}")


@pytest.mark.parametrize("scope", ["band", "chunk"])
@pytest.mark.parametrize("kind", ["inference", "training"])
def test_a_pass_is_one_graph(found: dict, scope: str, kind: str):
    assert (found[scope][kind]["graphs"], found[scope][kind]["breaks"]) == (1, 0)


def test_the_graph_breaks_where_the_seed_of_new_rotations_is_drawn(found: dict):
    kinds = [kinds for kinds in found.values() if "training, new rotations" in kinds]
    assert kinds and all(each["training, new rotations"]["breaks"] == 1 for each in kinds)


@pytest.mark.parametrize("scope", ["band", "chunk"])
def test_loss_and_gradients_are_those_of_a_plain_pass(found: dict, scope: str):
    for kind, measured in found[scope].items():
        assert measured["difference"] < 1e-12, kind
        assert measured["repeats"], kind


@pytest.mark.slow
def test_passes_of_an_encoder_decoder_are_one_graph():
    for form, kinds in compiled("--encoder_decoder").items():
        for kind, measured in kinds.items():
            assert (measured["graphs"], measured["breaks"]) == (1, 0), (form, kind)
            assert measured["difference"] < 1e-12 and measured["repeats"], (form, kind)
