"""Captured random and autocast state: restored within the context, undone after it."""

import torch

from reformer_hf.nn.surroundings import Surroundings


def state() -> tuple:
    enabled = torch.is_autocast_enabled("cpu")
    cache = torch.is_autocast_cache_enabled()
    return torch.get_rng_state().tolist(), enabled, torch.get_autocast_dtype("cpu"), cache


def test_restored_within_and_undone_after() -> None:
    with torch.autocast("cpu", torch.float16, cache_enabled=False):
        expected = state()
        surroundings = Surroundings(torch.device("cpu"))
    numbers = torch.rand(3)
    before = state()
    with surroundings.restored():
        assert state() == expected
        assert torch.equal(torch.rand(3), numbers)
    assert state() == before


def test_autocast_is_switched_off_where_it_was_off() -> None:
    surroundings = Surroundings(torch.device("cpu"))
    with torch.autocast("cpu", torch.bfloat16):
        with surroundings.restored():
            assert not torch.is_autocast_enabled("cpu")
        assert torch.is_autocast_enabled("cpu")


def test_undone_after_an_error() -> None:
    surroundings = Surroundings(torch.device("cpu"))
    torch.rand(3)
    before = state()
    try:
        with surroundings.restored():
            raise KeyError
    except KeyError:
        pass
    assert state() == before


def test_other_devices_are_not_started() -> None:
    for kind in ("cuda", "mps", "xpu", "meta"):
        module = getattr(torch, kind, None)
        if getattr(module, "is_initialized", getattr(module, "is_available", bool))():
            continue
        surroundings = Surroundings(torch.device(kind))
        before = state()
        with surroundings.restored():
            torch.rand(3)
        assert state() == before
        assert not getattr(module, "is_initialized", bool)()
