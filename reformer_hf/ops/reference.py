"""The oracle: LSH and local attention for one example and one head, in plain loops and float64.

Read this file first. Every fast path in :mod:`reformer_hf.ops` is tested against it, outputs and
gradients. It is written to be checked by eye against the paper, not to be fast.

The whole of LSH attention is four steps:

1. hash every vector to a bucket, once per round (:func:`hash_buckets`), and let the local round,
   if there is one, follow (:func:`add_local_round`);
2. count in how many rounds query ``i`` may see key ``j``, by the rule of a scope
   (:func:`band_counts` or :func:`chunk_counts`);
3. one softmax over all keys with a positive count, ``log(count)`` added to each score;
4. the weighted sum of the values (:func:`attend` does 3 and 4), or of those of the tokens that
   follow the keys (:func:`attend_to_next`).

Before the projections to queries, keys and values there may be a :func:`short_convolution`. These
projections may be a :func:`multiplicative_dense` and a :func:`locally_convolutional_dense` each.
Between hashing and attention, queries and keys may be turned by their position (:func:`rotate`).
Beside the feed-forward sub-layer there may be a :func:`simple_recurrent_unit`.

Source: Kitaev, Kaiser, Levskaya, "Reformer: The Efficient Transformer", ICLR 2020
(arXiv 2001.04451), section 2 and appendix A.
"""

import math
from collections.abc import Mapping

import torch
from torch import Tensor


def hash_buckets(
    vectors: Tensor, rotations: Tensor, num_buckets: int | list[int]
) -> list[list[int]]:
    """Hash each vector by the largest of its rotated coordinates and their negatives.

    Args:
        vectors: shape ``(seq, dim)``.
        rotations: shape ``(dim, rounds, columns)``; ``columns`` is half the (summed) bucket count.
        num_buckets: an even number of buckets, or even factors of it (mixed radix, first factor
            least significant).

    Returns:
        ``buckets[round][place]``, each from 0 to the product of the factors less one.

    Source: paper section 2, "Locality sensitive hashing": ``h(x) = argmax([xR; -xR])``.

    >>> hash_buckets(torch.tensor([[1.0, 0.0], [0.0, -2.0]]), torch.eye(2).view(2, 1, 2), 4)
    [[0, 3]]
    """
    factors = [num_buckets] if isinstance(num_buckets, int) else list(num_buckets)
    buckets = []
    for round_ in range(rotations.shape[1]):
        rotated = vectors.double() @ rotations[:, round_].double()
        row = []
        for coordinates in rotated.tolist():
            bucket, radix, start = 0, 1, 0
            for factor in factors:
                part = coordinates[start : start + factor // 2]
                signed = part + [-x for x in part]
                bucket += radix * signed.index(max(signed))
                radix, start = radix * factor, start + factor // 2
            row.append(bucket)
        buckets.append(row)
    return buckets


def add_local_round(buckets: list[list[int]]) -> list[list[int]]:
    """Add a round in which all tokens share a bucket, so that a query meets its nearest tokens.

    Args:
        buckets: ``buckets[round][place]`` of the hashed rounds.

    Returns:
        The same and the local round, whose window counts like that of any other.

    >>> add_local_round([[3, 1]])
    [[3, 1], [0, 0]]
    """
    return [*buckets, [0] * len(buckets[0])]


def band_counts(
    buckets: list[list[int]], documents: list[int], window_before: int, window_after: int
) -> Tensor:
    """Count the rounds in which query ``i`` sees key ``j`` in the ``band`` scope.

    In each round the tokens of one bucket of one document keep the order of the row; a query sees
    the ``window_before`` tokens before it and the ``window_after`` tokens after it, and itself.
    Local attention is the case of a single bucket.

    Args:
        buckets: ``buckets[round][place]``.
        documents: the document of each place; padding is a document of its own.
        window_before: tokens.
        window_after: tokens; 0 makes the result causal.

    Returns:
        Counts of shape ``(seq, seq)``, int64, own place included.

    >>> band_counts([[0, 1, 0]], documents=[0, 0, 0], window_before=1, window_after=0).tolist()
    [[1, 0, 0], [0, 1, 0], [1, 0, 1]]
    """
    seq = len(documents)
    counts = torch.zeros(seq, seq, dtype=torch.int64)
    for row in buckets:
        for segment in set(zip(documents, row, strict=True)):
            places = [t for t in range(seq) if (documents[t], row[t]) == segment]
            for rank, query in enumerate(places):
                first = max(0, rank - window_before)
                for key in places[first : rank + window_after + 1]:
                    counts[query, key] += 1
    return counts


def chunk_counts(
    buckets: list[list[int]],
    layout_length: int,
    chunk_length: int,
    num_chunks_before: int,
    num_chunks_after: int,
    causal: bool,
) -> Tensor:
    """Count how often query ``i`` meets key ``j`` in the ``chunk`` scope of LSH attention.

    All rounds' tokens are sorted by (round, bucket, place) and cut into chunks. A query sees its
    own chunk and its neighbours, with a wrap from the first chunk to the last.

    Args:
        buckets: ``buckets[round][place]`` of the real tokens of one row.
        layout_length: tokens of the row with its padding to a multiple of the chunk lengths; the
            padding sorts behind the real tokens of each round. At or below ``chunk_length`` the
            attention is full.
        chunk_length: tokens.
        num_chunks_before: chunks.
        num_chunks_after: chunks.
        causal: whether keys at later places are hidden.

    Returns:
        Counts of shape ``(seq, seq)``, int64, own place included.

    >>> window = {"num_chunks_before": 1, "num_chunks_after": 0}
    >>> chunk_counts([[0, 1, 0]], 3, 1, **window, causal=False).tolist()
    [[1, 1, 0], [0, 1, 1], [1, 0, 1]]
    """
    seq = len(buckets[0])
    counts = torch.zeros(seq, seq, dtype=torch.int64)
    if layout_length <= chunk_length:
        counts += 1
    else:
        tokens = []
        for row in buckets:
            padded = row + [max(row) + 1] * (layout_length - seq)
            tokens += sorted(range(layout_length), key=lambda t, row=padded: (row[t], t))
        chunks = [tokens[i : i + chunk_length] for i in range(0, len(tokens), chunk_length)]
        for index, chunk in enumerate(chunks):
            offsets = range(-num_chunks_before, num_chunks_after + 1)
            for neighbour in {(index + offset) % len(chunks) for offset in offsets}:
                for query in chunk:
                    for key in chunks[neighbour]:
                        if query < seq and key < seq:
                            counts[query, key] += 1
    return counts.tril() if causal else counts


def local_chunk_counts(
    seq: int, chunk_length: int, num_chunks_before: int, num_chunks_after: int, causal: bool
) -> Tensor:
    """Say which keys each query sees in the ``chunk`` scope of local attention (no wrap).

    Args:
        seq: real tokens of the row.
        chunk_length: tokens.
        num_chunks_before: chunks.
        num_chunks_after: chunks.
        causal: whether keys at later places are hidden.

    Returns:
        Counts of shape ``(seq, seq)``, 0 or 1.

    >>> local_chunk_counts(3, 2, num_chunks_before=0, num_chunks_after=0, causal=False).tolist()
    [[1, 1, 0], [1, 1, 0], [0, 0, 1]]
    """
    counts = torch.zeros(seq, seq, dtype=torch.int64)
    for query in range(seq):
        for key in range(seq):
            distance = query // chunk_length - key // chunk_length
            if -num_chunks_after <= distance <= num_chunks_before:
                counts[query, key] = 1
    return counts.tril() if causal else counts


def attend(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    counts: Tensor,
    *,
    self_mask: bool,
    deduplicate: bool = False,
) -> tuple[Tensor, Tensor]:
    """One softmax per query over the keys that it sees.

    Args:
        query: shape ``(seq, dim)``.
        key: shape ``(seq, dim)``.
        value: shape ``(seq, dim)``.
        counts: shape ``(seq, seq)``; how often each query meets each key over all rounds.
        self_mask: the own place counts only when there is no other key.
        deduplicate: count each key once instead of ``counts`` times.

    Returns:
        The output, shape ``(seq, dim)``, and the attention probabilities, shape ``(seq, seq)``,
        both float64 and differentiable.

    Source: paper section 2 and equations 3 to 5; appendix A, equations 14 to 16, for the counts.

    >>> x, counts = torch.zeros(2, 1), torch.tensor([[1, 0], [3, 1]])
    >>> attend(x, x, torch.tensor([[4.0], [8.0]]), counts, self_mask=False)[0].tolist()
    [[4.0], [5.0]]
    """
    query, key, value = query.double(), key.double(), value.double()
    outputs, rows = [], []
    for i in range(query.shape[0]):
        seen = [j for j in range(key.shape[0]) if counts[i, j] > 0 and not (self_mask and i == j)]
        if not seen:
            seen = [i]
        scores = torch.stack([query[i] @ key[j] / math.sqrt(query.shape[1]) for j in seen])
        if not deduplicate and seen != [i]:
            logs = [math.log(int(counts[i, j])) for j in seen]
            scores = scores + torch.tensor(logs, dtype=torch.float64)
        probabilities = torch.softmax(scores, dim=0)
        outputs.append(sum(p * value[j] for p, j in zip(probabilities, seen, strict=True)))
        rows.append(query.new_zeros(key.shape[0]).index_put((torch.tensor(seen),), probabilities))
    return torch.stack(outputs), torch.stack(rows)


def attend_to_next(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    counts: Tensor,
    documents: list[int],
    *,
    deduplicate: bool = False,
) -> tuple[Tensor, Tensor]:
    """Find what followed when something like the query stood there before.

    A query attends to keys as in :func:`attend`, but what it takes from a key is the value of the
    next token of the key's document. Its own place is never a key: what follows it is not known.

    Args:
        query: shape ``(seq, dim)``.
        key: shape ``(seq, dim)``.
        value: shape ``(seq, dim)``.
        counts: shape ``(seq, seq)``; how often each query meets each key over all rounds.
        documents: the document of each place; padding is a document of its own.
        deduplicate: count each key once instead of ``counts`` times.

    Returns:
        The output, shape ``(seq, dim)``, 0 for a query that sees no other key; and the
        probabilities, shape ``(seq, seq)``, of which such a query has 1 at its own place.

    >>> x, counts = torch.zeros(3, 1), torch.tensor([[1, 0, 0], [1, 1, 0], [1, 1, 1]])
    >>> value = torch.tensor([[1.0], [2.0], [4.0]])
    >>> attend_to_next(x, x, value, counts, [0, 0, 0])[0].tolist()
    [[0.0], [2.0], [3.0]]
    """
    nexts = []
    for place, document in enumerate(documents):
        later = [t for t in range(place + 1, len(documents)) if documents[t] == document]
        nexts.append(value[later[0]] if later else 0 * value[place])
    output, probabilities = attend(
        query, key, torch.stack(nexts), counts, self_mask=True, deduplicate=deduplicate
    )
    rows = []
    for place in range(len(documents)):
        others = any(counts[place, j] > 0 for j in range(len(documents)) if j != place)
        rows.append(output[place] if others else 0 * output[place])
    return torch.stack(rows), probabilities


def normalise_keys(query: Tensor) -> Tensor:
    """Keys of shared-QK attention: the queries at root-mean-square length one.

    Args:
        query: shape ``(seq, dim)``.

    Returns:
        ``query / sqrt(mean(query²) + 1e-6)``, shape ``(seq, dim)``, float64.

    >>> [round(x, 3) for x in normalise_keys(torch.tensor([3.0, -3.0])).tolist()]
    [1.0, -1.0]
    """
    query = query.double()
    return query / torch.sqrt((query**2).mean(dim=-1, keepdim=True) + 1e-6)


def rms_norm(vector: Tensor, weight: Tensor) -> Tensor:
    """Bring a query or a key to root-mean-square length one, and scale each of its numbers.

    Args:
        vector: shape ``(dim,)``.
        weight: the scales, shape ``(dim,)``.

    Returns:
        ``weight * vector / sqrt(mean(vector²) + 1e-6)``, shape ``(dim,)``, float64.

    Source: Zhang and Sennrich 2019 (arXiv 1910.07467), equation 4.

    >>> found = rms_norm(torch.tensor([3.0, -3.0]), torch.tensor([1.0, 2.0]))
    >>> [round(x, 3) for x in found.tolist()]
    [1.0, -2.0]
    """
    vector, weight = vector.double(), weight.double()
    length = torch.sqrt((vector**2).mean() + 1e-6)
    return torch.stack([w * x / length for w, x in zip(weight, vector, strict=True)])


def rotate(vector: Tensor, position: int, theta: float) -> Tensor:
    """Turn pairs of numbers by angles that grow with the position.

    Pair ``i`` is number ``i`` of the first half with number ``i`` of the second half; its angle is
    ``position * theta ** (-2 i / dim)``.

    Args:
        vector: shape ``(dim,)``, of an even dimension.
        position: place of the token in its document.
        theta: base of the frequencies.

    Returns:
        Shape ``(dim,)``, float64, of the same length.

    Source: Su et al. 2021, "RoFormer" (arXiv 2104.09864), equations 13 to 15.

    >>> [round(x, 9) for x in rotate(torch.tensor([1.0, 0.0]), 1, 10000.0).tolist()]
    [0.540302306, 0.841470985]
    """
    vector, half = vector.double(), len(vector) // 2
    turned = list(vector.unbind())
    for i in range(half):
        angle = position * theta ** (-2 * i / len(vector))
        x, y = vector[i], vector[half + i]
        turned[i] = x * math.cos(angle) - y * math.sin(angle)
        turned[half + i] = y * math.cos(angle) + x * math.sin(angle)
    return torch.stack(turned)


def short_convolution(inputs: Tensor, weight: Tensor, documents: list[int], causal: bool) -> Tensor:
    """Mix each token with its nearest ones of the same document, number by number.

    Args:
        inputs: shape ``(seq, dim)``.
        weight: shape ``(dim, taps)``; the last tap is of the token itself if causal, else the one
            in the middle.
        documents: the document of each place; padding is a document of its own.
        causal: whether later tokens are hidden.

    Returns:
        Shape ``(seq, dim)``, float64.

    >>> x, weight = torch.tensor([[1.0], [2.0], [4.0]]), torch.tensor([[0.5, 1.0]])
    >>> short_convolution(x, weight, documents=[0, 1, 0], causal=True).tolist()
    [[1.0], [2.0], [4.5]]
    """
    inputs, weight = inputs.double(), weight.double()
    taps = weight.shape[1]
    before = taps - 1 if causal else taps // 2
    mixed = []
    for place, document in enumerate(documents):
        own = [t for t in range(len(documents)) if documents[t] == document]
        rank = own.index(place)
        total = torch.zeros_like(inputs[place])
        for tap in range(taps):
            neighbour = rank - before + tap
            if 0 <= neighbour < len(own):
                total = total + weight[:, tap] * inputs[own[neighbour]]
        mixed.append(total)
    return torch.stack(mixed)


def gated_recurrence(
    forget: Tensor, inputs: Tensor, documents: list[int], start: Tensor | None = None
) -> Tensor:
    """Go through a row: keep a part of the document's state, and take the input for the rest.

    Args:
        forget: how much is kept, from 0 to 1, shape ``(seq, dim)``.
        inputs: shape ``(seq, dim)``.
        documents: the document of each place; padding is a document of its own.
        start: state before the first token of document 0, shape ``(dim,)``; None for zeros, from
            which all others start.

    Returns:
        The state behind each token, shape ``(seq, dim)``, float64.

    Source: Lei et al. 2018, "Simple Recurrent Units" (arXiv 1709.02755): the light recurrence.

    >>> forget, inputs = torch.tensor([[0.5], [0.5], [0.25]]), torch.ones(3, 1)
    >>> gated_recurrence(forget, inputs, documents=[0, 1, 0]).tolist()
    [[0.5], [0.5], [0.875]]
    """
    forget, inputs = forget.double(), inputs.double()
    last = {} if start is None else {0: start.double()}
    states = []
    for kept, taken, document in zip(forget, inputs, documents, strict=True):
        before = last.get(document, torch.zeros_like(taken))
        last[document] = kept * before + (1 - kept) * taken
        states.append(last[document])
    return torch.stack(states)


def simple_recurrent_unit(
    inputs: Tensor,
    weights: Mapping[str, Tensor],
    biases: Mapping[str, Tensor],
    documents: list[int],
) -> Tensor:
    """Mix each token's input with a state that a gate remembers and forgets.

    Args:
        inputs: shape ``(seq, dim)``.
        weights: of ``forget``, ``reset`` and ``candidate``, each of shape ``(dim, dim)``.
        biases: of the same, each of shape ``(dim,)``.
        documents: the document of each place; padding is a document of its own.

    Returns:
        Shape ``(seq, dim)``, float64.

    Source: Lei et al. 2018, "Simple Recurrent Units" (arXiv 1709.02755), with ``v = 0``, no
    activation, a bias of the candidate, and the skip connection times ``3 ** 0.5``, which is the
    paper's factor for gates whose biases are zero; as Terraformer has it.

    >>> zeros = dict.fromkeys(("forget", "reset", "candidate"), torch.zeros(1, 1))
    >>> biases = {name: value[0] for name, value in zeros.items()}
    >>> simple_recurrent_unit(torch.tensor([[2.0]]), zeros, biases, [0]).item() == 3**0.5
    True
    """
    inputs = inputs.double()
    forget, reset, candidate = (
        inputs @ weights[name].double().T + biases[name].double()
        for name in ("forget", "reset", "candidate")
    )
    states = gated_recurrence(torch.sigmoid(forget), candidate, documents)
    kept = torch.sigmoid(reset)
    return kept * states + (1 - kept) * 3**0.5 * inputs


def sparse_feed_forward(
    vectors: Tensor,
    controller: tuple[Tensor, Tensor, Tensor],
    up: tuple[Tensor, Tensor],
    down: tuple[Tensor, Tensor],
    block_size: int,
    noise: Tensor | None = None,
    soft: bool = False,
) -> tuple[Tensor, list[list[int]]]:
    """A feed-forward layer of which each token uses one unit of every block.

    Args:
        vectors: shape ``(seq, dim)``.
        controller: weights of shape ``(rank, dim)`` and ``(units, rank)``, and a bias of ``units``
            numbers: its products are the logits of the units.
        up: weights of shape ``(units, dim)`` and a bias of ``units`` numbers.
        down: weights of shape ``(units, dim)``, a row for each unit, and a bias of ``dim`` numbers.
        block_size: units of a block, which follow each other.
        noise: added to the logits before the choice, shape ``(seq, units)``: a training pass, in
            which the gradient of a choice is that of the softmax. None for evaluation.
        soft: weigh all units by the softmax instead of choosing one.

    Returns:
        The output, shape ``(seq, dim)``, float64 and differentiable, and the unit of each block
        that each token uses, counted from the block's first.

    Source: Jaszczur et al. 2021, "Sparse is Enough in Scaling Transformers" (arXiv 2111.12763),
    section 3.1.

    >>> x, one, zero = torch.ones(1, 1), torch.ones(2, 1), torch.zeros(2)
    >>> controller = torch.ones(1, 1), torch.tensor([[1.0], [2.0]]), zero
    >>> output, chosen = sparse_feed_forward(x, controller, (3 * one, zero), (one, zero[:1]), 2)
    >>> output.tolist(), chosen
    ([[3.0]], [[1]])
    """
    outputs, chosen = [], []
    for place, vector in enumerate(vectors.double()):
        logits = controller[1].double() @ (controller[0].double() @ vector) + controller[2].double()
        output, choices = down[1].double(), []
        for first in range(0, len(logits), block_size):
            block = slice(first, first + block_size)
            weights = torch.softmax(logits[block], dim=0)
            noisy = logits[block] if noise is None else logits[block] + noise[place, block].double()
            choices.append(int(noisy.argmax()))
            for unit in range(block_size):
                weight = weights[unit]
                if not soft:
                    gradient = 0.0 if noise is None else weight - weight.detach()
                    weight = float(unit == choices[-1]) + gradient
                inner = up[0][first + unit].double() @ vector + up[1][first + unit].double()
                output = output + torch.relu(weight * inner) * down[0][first + unit].double()
        outputs.append(output)
        chosen.append(choices)
    return torch.stack(outputs), chosen


def multiplicative_dense(inputs: Tensor, gates: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Output ``m`` of module ``s`` is the sum over ``d`` of ``x_d D_sd E_dm``, and its bias.

    Args:
        inputs: shape ``(seq, dim)``.
        gates: D, shape ``(modules, dim)``.
        weight: E transposed, shape ``(width, dim)``.
        bias: shape ``(modules * width)``.

    Returns:
        Shape ``(seq, modules * width)``, float64.

    Source: Jaszczur et al. 2021 (arXiv 2111.12763), section 3.2.

    >>> x, gates = torch.ones(1, 2), torch.tensor([[1.0, 0.0], [2.0, 3.0]])
    >>> multiplicative_dense(x, gates, torch.ones(1, 2), torch.zeros(2)).tolist()
    [[1.0, 5.0]]
    """
    inputs, gates, weight, bias = (x.double() for x in (inputs, gates, weight, bias))
    outputs = [[(x * gate * row).sum() for gate in gates for row in weight] for x in inputs]
    return torch.stack([torch.stack(row) for row in outputs]) + bias


def locally_convolutional_dense(
    inputs: Tensor, weight: Tensor, bias: Tensor, documents: list[int], causal: bool
) -> Tensor:
    """Make each module of a token of the nearest modules of the nearest tokens of its document.

    Args:
        inputs: shape ``(seq, modules * width)``.
        weight: shape ``(width, taps, kernel, width)``: by output, neighbour, module, input. The
            last tap is of the token itself if causal, else the one in the middle.
        bias: shape ``(width)``.
        documents: the document of each place; padding is a document of its own.
        causal: whether later tokens are hidden.

    Returns:
        Shape ``(seq, modules * width)``, float64.

    Source: Jaszczur et al. 2021 (arXiv 2111.12763), section 3.2.

    >>> x, weight = torch.tensor([[1.0, 2.0]]), torch.tensor([[[[8.0], [1.0], [0.5]]]])
    >>> locally_convolutional_dense(x, weight, torch.zeros(1), documents=[0], causal=True).tolist()
    [[2.0, 10.0]]
    """
    weight, bias = weight.double(), bias.double()
    width, taps, kernel, _ = weight.shape
    tokens = inputs.double().unflatten(-1, (-1, width))
    before = taps - 1 if causal else taps // 2
    outputs = []
    for place, document in enumerate(documents):
        own = [t for t in range(len(documents)) if documents[t] == document]
        rank = own.index(place)
        for module in range(tokens.shape[1]):
            total = bias
            for tap in range(taps):
                for offset in range(kernel):
                    neighbour, near = rank - before + tap, module - kernel // 2 + offset
                    if 0 <= neighbour < len(own) and 0 <= near < tokens.shape[1]:
                        total = total + weight[:, tap, offset] @ tokens[own[neighbour], near]
            outputs.append(total)
    return torch.stack(outputs).view(len(documents), -1)
