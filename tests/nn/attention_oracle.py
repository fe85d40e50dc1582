"""Attention modules of small sizes, and what the oracle gives for them, row by row."""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.testing import assert_close

from reformer_hf.nn.head_norm import HeadRMSNorm
from reformer_hf.ops import reference
from reformer_hf.ops.chunk_ring import layout_length

HEADS, HEAD_DIM, DIM = 2, 4, 6
WINDOW = {"chunk_length": 3, "num_chunks_before": 1}
LSH = {"num_buckets": [2, 4], "num_hashes": 2, **WINDOW}


def build(kind: type, **options):
    """A module in float64 and eval mode with weights large enough to matter."""
    torch.manual_seed(0)
    module = kind(hidden_size=DIM, num_heads=HEADS, head_dim=HEAD_DIM, **options).double().eval()
    for weight in module.parameters():
        nn.init.normal_(weight)
    return module


def project(module, name: str, row: Tensor, documents: list[int]) -> Tensor:
    """All heads' projections of a row, (heads, seq, dim), in the plainest way."""
    layer, shared = getattr(module, name), module.shared_projection
    if shared is None:
        projected = row @ layer.weight.T
    else:
        weight, far = layer.weight.view(*layer._shape), layer.before
        if not shared.causal:  # by distance, as in `mix`
            weight = weight[:, [far - abs(offset) for offset in range(-far, far + 1)]]
        row = reference.multiplicative_dense(row, shared.gates, shared.weight, shared.bias)
        projected = reference.locally_convolutional_dense(
            row, weight, layer.bias, documents, shared.causal
        )
    return projected.unflatten(-1, (HEADS, HEAD_DIM)).transpose(0, 1)


def mix(module, row: Tensor, documents: list[int]) -> Tensor:
    """A row after the short convolution, if the layer has one."""
    if module.convolution is None:
        return row
    weight, causal = module.convolution.weight[:, 0], module.convolution.causal
    if not causal:  # by distance, from the farthest neighbour before to the one behind
        far = weight.shape[1] - 1
        weight = weight[:, [far - abs(offset) for offset in range(-far, far + 1)]]
    return reference.short_convolution(row, weight, documents, causal)


def turn(vectors: Tensor, documents: list[int], theta: float | None) -> Tensor:
    """Queries or keys of a row, turned by the places in their documents."""
    if theta is None:
        return vectors
    places = [documents[:place].count(number) for place, number in enumerate(documents)]
    return torch.stack(
        [reference.rotate(*pair, theta) for pair in zip(vectors, places, strict=True)]
    )


def normalise(norm: HeadRMSNorm | None, vectors: Tensor) -> Tensor:
    """Queries or keys of a row, normalised if the layer does so."""
    if norm is None:
        return vectors
    return torch.stack([reference.rms_norm(vector, norm.weight) for vector in vectors])


def lsh_oracle(
    module, row: Tensor, documents: list[int], rounds: int, theta: float | None = None
) -> tuple[Tensor, Tensor]:
    """Output (seq, dim) and maps (heads, seq, seq) of an LSH layer with hash seed 5 on one row."""
    window, documents = module.window, documents or [0] * len(row)
    row = mix(module, row, documents)
    queries, values = (project(module, name, row, documents) for name in ("query_key", "value"))
    before = window.num_chunks_before * window.chunk_length
    after = window.num_chunks_after * window.chunk_length
    outputs, maps = [], []
    for head in range(HEADS):
        query = queries[head]
        rotations = module.rotations(5, rounds)[head]
        buckets = reference.hash_buckets(query, rotations, module.num_buckets)
        if module.local_round:
            buckets = reference.add_local_round(buckets)
        if window.scope == "band":
            counts = reference.band_counts(buckets, documents, before, after)
        else:
            counts = reference.chunk_counts(
                buckets,
                int(layout_length(len(row), module.chunk_lengths)),
                window.chunk_length,
                window.num_chunks_before,
                window.num_chunks_after,
                window.causal,
            )
        key = turn(reference.normalise_keys(query), documents, theta)
        given = (turn(query, documents, theta), key, values[head], counts)
        once = {"deduplicate": module.deduplicate_rounds}
        if module.next_values:
            output, probabilities = reference.attend_to_next(*given, documents, **once)
        else:
            output, probabilities = reference.attend(*given, self_mask=True, **once)
        outputs.append(output)
        maps.append(probabilities)
    return torch.cat(outputs, dim=-1), torch.stack(maps)


def qkv_oracle(
    module,
    row: Tensor,
    counts: Tensor,
    shared: bool = False,
    documents: list[int] | None = None,
    theta: float | None = None,
) -> tuple[Tensor, Tensor]:
    """Output and maps of a local or full layer on one row."""
    documents = documents or [0] * len(row)
    row, outputs, maps = mix(module, row, documents), [], []
    names = ("query_key", "query_key", "value") if shared else ("query", "key", "value")
    heads = zip(*(project(module, name, row, documents) for name in names), strict=True)
    for query, key, value in heads:
        query = normalise(module.q_norm, query)
        key = reference.normalise_keys(query) if shared else normalise(module.k_norm, key)
        query, key = (turn(vectors, documents, theta) for vectors in (query, key))
        output, probabilities = reference.attend(query, key, value, counts, self_mask=shared)
        outputs.append(output)
        maps.append(probabilities)
    return torch.cat(outputs, dim=-1), torch.stack(maps)


def check_rows(
    module: nn.Module,
    hidden: Tensor,
    documents: Tensor | None,
    oracle: Callable[[Tensor, list[int]], tuple[Tensor, Tensor]],
    **options,
) -> None:
    """Output and map of a batch equal the oracle's for each row and its documents."""
    output, dense = module(hidden, documents, output_map="dense", **options)
    plain, no_map = module(hidden, documents, **options)
    assert no_map is None
    assert_close(plain, output)
    sparse = module(hidden, documents, output_map="sparse", **options)
    assert_close(sparse[0], output)
    assert_close(sparse[1].to_dense(), dense)
    for index, row in enumerate(hidden):
        numbers = [0] * len(row) if documents is None else documents[index].tolist()
        expected, maps = oracle(row, numbers)
        assert_close(output[index], expected)
        assert_close(dense[index], maps)


def check_dropout(kind: type, options: dict) -> None:
    """Dropout acts in training only, and keeps the mean."""
    module, hidden = build(kind, dropout=0.5, **options), torch.randn(1, 7, DIM).double()
    expected = module(hidden)[0][0]
    assert torch.equal(expected, build(kind, **options)(hidden)[0][0])
    samples, _ = module.train()(hidden.expand(400, -1, -1))
    assert samples.std(dim=0).max() > 0.1
    error = (samples.mean(dim=0) - expected).abs() / (samples.std(dim=0) / 20 + 1e-9)
    assert error.median() < 1.5 and error.max() < 6
