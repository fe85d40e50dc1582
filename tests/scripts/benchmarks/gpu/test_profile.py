"""The profile of a decoding step shares its time out among parts."""

from types import SimpleNamespace

from torch.autograd import DeviceType

from scripts.benchmarks.gpu.profile import OTHER, STAGE, share_out


def event(name, parent=None, host=0, device=0, kernels=0, kind=DeviceType.CPU):
    return SimpleNamespace(
        name=name,
        cpu_parent=parent,
        self_cpu_time_total=host,
        self_device_time_total=device,
        kernels=[None] * kernels,
        device_type=kind,
    )


def test_sharing_out():
    step = event(STAGE + OTHER, host=1000)
    hashing = event(STAGE + "hash", step, host=2000)
    events = [
        *(step, hashing),
        event("aten::mm", hashing, host=500, device=4000, kernels=1),
        event("aten::mm", step, host=500, device=2000, kernels=2),
        event("aten::mul", step, host=9000, device=1000, kernels=1),
        event("a kernel", device=4000, kind=DeviceType.CUDA),
        event("aten::mm", host=64),  # outside the steps
    ]
    parts, operators = share_out(events, steps=2)
    assert parts == [("hash", 0.5, 1.25, 2.0), (OTHER, 1.5, 5.25, 1.5)]
    assert operators == [("aten::mm", 1.5, 0.5, 3.0), ("aten::mul", 0.5, 4.5, 0.5)]
