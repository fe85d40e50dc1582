"""The real model in two processes over gloo: DDP, FSDP2 and Trainer equal a single process."""

import json
from pathlib import Path
from typing import Any

import pytest

from tests import processes
from tests.models.distributed_workers import SCENARIOS, WORLD_SIZE

pytestmark = pytest.mark.distributed
WORKERS = Path(__file__).with_name("distributed_workers.py")


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """What each process found; they run once for all tests."""
    directory = tmp_path_factory.mktemp("distributed")
    processes.run(WORLD_SIZE, WORKERS, directory)
    return [json.loads((directory / str(rank)).read_text()) for rank in range(WORLD_SIZE)]


@pytest.mark.parametrize("name", SCENARIOS)
def test_gradients_and_a_step_equal_those_of_the_whole_batch_alone(name, results):
    for result in results:
        assert result["world size"] == WORLD_SIZE == 2
        found = result[name]
        assert found["gradient difference"] <= 1e-12 < 1e-3 < found["gradient"]
        assert found["weight difference"] <= 1e-12 < 1e-3 < found["step"]


@pytest.mark.parametrize("name", SCENARIOS)
def test_every_sublayer_is_replayed_once(name, results):
    batches = SCENARIOS[name].get("num_batches", 1)
    assert [result[name]["calls"] for result in results] == [[2 * batches]] * WORLD_SIZE


def test_fsdp_shards_every_layer_on_its_own(results):
    layers = ["FSDPReformerHFLayer"] * 3
    for result in results:
        for name in SCENARIOS:
            wrapped, sharded = result[name]["wrapped"], result[name]["sharded"]
            whole = result[name]["parameters"]
            if "ddp" in name:
                assert wrapped == [] and sharded == 0
            elif "decoder" in name:
                layer = "FSDPReformerHF{}Layer".format("Decoder" if "encoder" in name else "")
                assert wrapped.count(layer) == (3 if "encoder" in name else 6) and sharded == whole
            else:
                # With all options two axial tables less; three convolutions, n-grams, two norms of
                # the local layer and three parameters of each feed-forward sub-layer more.
                expected = 54 if name == "fsdp" else 41
                assert wrapped[-4:] == ["FSDPReformerHFForCausalLM", *layers]
                assert sharded == whole == expected
        # accelerate takes the layers from the model class, and the embeddings besides.
        assert len(result["fsdp, accelerate"]["wrapped"]) > 4


def test_mixed_precision_of_fsdp_needs_its_inputs_left_alone(results):
    for result in results:
        found = result["mixed precision"]
        # bfloat16 keeps 8 bits: a rebuilt stream may be rounded the other way here and there.
        assert found["gradient difference"] <= 2**-7 * found["gradient"]
        assert found["calls"] == [2, 1]
        for word in ("bfloat16", "cast_forward_inputs=False", "reversible=False"):
            assert word in found["error with narrow streams"]


def test_trainer_with_its_defaults_equals_a_single_process(results):
    for result in results:
        found = result["trainer"]
        assert found["processes"] == 2 and found["wrapped"] == "DistributedDataParallel"
        assert found["weight difference"] <= 1e-12 < 1e-3 < found["step"]
        assert found["calls"] == [2]
