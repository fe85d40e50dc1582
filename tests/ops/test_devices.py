"""Every operation stays on the device of its inputs.

Shown with fake tensors on the ``meta`` device, which stands in for an accelerator: they have a
device and a shape and no data. Mixing them with CPU tensors raises, and so does reading their data,
which on an accelerator would be a wait. (PyTorch without CUDA cannot differentiate fake ``cuda``
tensors.) Nothing here says that an accelerator computes right.
"""

import dataclasses

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn.functional import linear

from reformer_hf.ops import triton_attention
from reformer_hf.ops.attention import local_attention, lsh_attention
from reformer_hf.ops.chunk_scope import chunk_attention
from reformer_hf.ops.convolution import short_convolution
from reformer_hf.ops.full_attention import full_attention
from reformer_hf.ops.hashing import hash_vectors, sample_rotations
from reformer_hf.ops.losses import chunked_cross_entropy
from reformer_hf.ops.recurrence import gated_recurrence
from reformer_hf.ops.rotary import rotary_angles, rotary_frequencies, rotate_queries
from reformer_hf.ops.sorting import number_documents, places_in_document
from reformer_hf.ops.window import Window

BATCH, HEADS, SEQ, DIM, ROUNDS = 2, 2, 13, 4, 2
WINDOW = Window(4, 1)
SCOPES = pytest.mark.parametrize(
    "attend, window",
    [(lsh_attention, WINDOW), (chunk_attention, Window(4, 1, scope="chunk"))],
)


@pytest.fixture(params=["cpu", "meta"])
def device(request):
    """A device whose tensors are fake; the CPU shows that the tests themselves are sound."""
    with FakeTensorMode():
        yield torch.device(request.param)


def heads(device: torch.device) -> torch.Tensor:
    return torch.randn(BATCH, HEADS, SEQ, DIM, device=device, requires_grad=True)


def documents_on(device: torch.device, kind: str) -> torch.Tensor | None:
    mask = torch.ones(BATCH, SEQ, dtype=torch.bool, device=device)
    packed = torch.zeros(BATCH, SEQ, dtype=torch.int64, device=device)
    return {
        "none": None,
        "padded": number_documents(mask, None),
        "packed": number_documents(mask, packed),
    }[kind]


def check(output: torch.Tensor, device: torch.device, *leaves: torch.Tensor) -> None:
    assert output.device.type == device.type
    for gradient in torch.autograd.grad(output.sum(), leaves):
        assert gradient.device.type == device.type


@pytest.mark.parametrize("layer_index", [0, None])
def test_hashing(device, layer_index):
    rotations = sample_rotations(0, HEADS, DIM, ROUNDS, [2, 4], device, layer_index)
    buckets = hash_vectors(heads(device), rotations, [2, 4])
    assert buckets.device.type == rotations.device.type == device.type
    assert buckets.shape == (BATCH, HEADS, ROUNDS, SEQ)


@SCOPES
@pytest.mark.parametrize("deduplicate", [False, True])
@pytest.mark.parametrize("documents", ["none", "padded", "packed"])
def test_lsh_attention(device, attend, window, deduplicate, documents):
    if attend is chunk_attention and documents == "packed":
        documents = "padded"
    query, value = heads(device), heads(device)
    buckets = torch.zeros(BATCH, HEADS, ROUNDS, SEQ, dtype=torch.int64, device=device)
    output, attention_map = attend(
        query,
        value,
        buckets,
        documents_on(device, documents),
        num_buckets=4,
        deduplicate_rounds=deduplicate,
        dropout=0.1,
        output_map=True,
        window=window,
    )
    check(output, device, query, value)
    assert attention_map.to_dense().device.type == device.type


@SCOPES
@pytest.mark.parametrize("dropout", [0.0, 0.1])
@pytest.mark.parametrize("documents", ["none", "padded"])
@pytest.mark.parametrize("implementation", ["blockwise", "triton"])
def test_lsh_attention_over_the_long_order(
    device, attend, window, dropout, documents, implementation, monkeypatch
):
    monkeypatch.setattr(triton_attention, "refusal", lambda query: None)  # of the fake CPU
    query, value = heads(device), heads(device)
    buckets = torch.zeros(BATCH, HEADS, ROUNDS, SEQ, dtype=torch.int64, device=device)
    documents = documents_on(device, documents)
    window = dataclasses.replace(window, num_chunks_after=1, causal=False)
    options = {"num_buckets": 4, "dropout": dropout, "window": window}
    options["implementation"] = implementation
    output, _ = attend(query, value, buckets, documents, **options)
    check(output, device, query, value)


@pytest.mark.parametrize("documents", ["none", "padded", "packed"])
@pytest.mark.parametrize("output_map", [False, True])
@pytest.mark.parametrize("implementation", ["auto", "triton"])
def test_local_and_full_attention(device, documents, output_map, implementation, monkeypatch):
    monkeypatch.setattr(triton_attention, "refusal", lambda query: None)
    options = {"dropout": 0.1, "output_map": output_map, "implementation": implementation}
    for attend, window in [(local_attention, {"window": WINDOW}), (full_attention, {})]:
        leaves = [heads(device) for _ in range(3)]
        output, _ = attend(*leaves, documents_on(device, documents), **options, **window)
        check(output, device, *leaves)


def test_rotary_positions(device):
    vectors, places = heads(device), torch.zeros(BATCH, SEQ, dtype=torch.int64, device=device)
    rotary = rotary_angles(places, rotary_frequencies(DIM, 100.0, device))
    check(rotate_queries(vectors, rotary), device, vectors)


@pytest.mark.parametrize("documents", ["none", "packed"])
def test_short_convolution(device, documents):
    inputs = torch.randn(BATCH, SEQ, DIM, device=device, requires_grad=True)
    weight = torch.randn(DIM, 1, 3, device=device, requires_grad=True)
    mixed = short_convolution(inputs, weight, 2, documents_on(device, documents))
    check(mixed, device, inputs, weight)


@pytest.mark.parametrize("documents", ["none", "packed"])
def test_gated_recurrence(device, documents):
    leaves = [torch.rand(BATCH, SEQ, DIM, device=device, requires_grad=True) for _ in range(2)]
    check(gated_recurrence(*leaves, documents_on(device, documents)), device, *leaves)


def test_places_in_document(device):
    documents = documents_on(device, "packed")
    assert places_in_document(documents).device.type == device.type


def test_chunked_cross_entropy(device):
    hidden = torch.randn(BATCH, SEQ, DIM, device=device, requires_grad=True)
    weight = torch.randn(7, DIM, device=device, requires_grad=True)
    labels = torch.zeros(BATCH, SEQ, dtype=torch.int64, device=device)
    for num_items in (None, 5, (labels == 0).sum()):
        loss = chunked_cross_entropy(
            hidden, labels, lambda h: linear(h, weight), 4, num_items=num_items
        )
        check(loss, device, hidden, weight)


def test_a_stray_cpu_tensor_is_found(device):
    with pytest.raises(RuntimeError, match="device"):
        heads(device) + torch.ones(DIM, device="cpu" if device.type == "meta" else "meta")
