"""The profile shares a step's time out among stages."""

from types import SimpleNamespace

import pytest

from reformer_hf.models import layers
from reformer_hf.nn.feed_forward import OutputProjection
from reformer_hf.nn.reversible import ReversibleCoupling
from reformer_hf.ops import attention
from scripts.benchmarks.common.profiling import STAGE, labelled_stages
from scripts.benchmarks.training.profile import LABELLED, NODE, PHASE, STAGES, share_out
from scripts.benchmarks.training.run import measure
from tests.scripts.benchmarks.tiny import SHAPE
from tests.scripts.benchmarks.training.tiny_runs import tiny_training_run


@pytest.mark.parametrize("variant", ["band", "chunk"])
def test_all_stages_are_found(variant, monkeypatch):
    # Nothing so small would be replayed with a budget.
    monkeypatch.setattr(layers, "ReversibleCoupling", lambda budget: ReversibleCoupling())
    result = measure(*tiny_training_run(variant=variant, mode="profile", length=128), SHAPE)
    assert result["missing"] == []
    spent = {
        stage: dict(zip(("forward", "replay", "gradients"), x, strict=True))
        for stage, *x in result["stages"]
    }
    assert tuple(spent) == STAGES
    assert all(stage["forward"] > 0 for stage in spent.values())
    replayed = {stage for stage, times in spent.items() if times["replay"] > 0}
    # Bucket ids are kept, and neither embedding nor loss is reversible.
    assert replayed == set(STAGES) - {"hash", "embedding", "loss", "other"}
    for stage in ("attend", "feed-forward", "norm", "projections", "loss", "embedding"):
        assert spent[stage]["gradients"] > 0


def test_functions_are_put_back():
    before = attention.sort_by_bucket
    own = "forward" in vars(OutputProjection)
    with labelled_stages(LABELLED) as missing:
        assert attention.sort_by_bucket is not before
        assert missing == []
    assert attention.sort_by_bucket is before
    assert ("forward" in vars(OutputProjection)) == own


def test_what_is_not_there_is_told():
    with labelled_stages([("sort", "reformer_hf.ops.attention", "Old.sort")]) as missing:
        assert missing == ["reformer_hf.ops.attention.Old.sort"]


def event(name, start, own, parent=None, number=-1):
    return SimpleNamespace(
        name=name,
        time_range=SimpleNamespace(start=start),
        self_cpu_time_total=own,
        cpu_parent=parent,
        sequence_nr=number,
    )


def test_sharing_out():
    forward = event(PHASE + "forward", 0, 1.0)
    hashing = event(STAGE + "hash", 1, 2.0, forward)
    inner = event(STAGE + "norm", 2, 0.0, hashing)
    backward = event(PHASE + "gradients", 10, 3.0)
    node = event(NODE + "MmBackward0", 11, 0.0, backward, number=7)
    replay = event(STAGE + "reversal", 12, 0.5, node)
    events = [
        *(forward, hashing, inner, backward, node, replay),
        event("aten::add", 2, 4.0, hashing, number=7),  # has the number, but records nothing
        event("aten::mm", 3, 8.0, inner, number=7),
        event("aten::mm", 13, 16.0, node),
        event("aten::mm", 14, 32.0, event(STAGE + "norm", 13, 0.0, replay)),
        event("aten::mm", 20, 64.0),  # outside the step
    ]
    assert {key: time for key, time in share_out(events).items() if time} == {
        ("other", "forward"): 1.0,
        ("hash", "forward"): 6.0,
        ("norm", "forward"): 8.0,
        ("other", "gradients"): 3.0,
        ("norm", "gradients"): 16.0,
        ("norm", "replay"): 32.0,
        ("reversal", "replay"): 0.5,
    }
