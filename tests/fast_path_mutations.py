"""Faults of attention block by block, and of reversible steps in pieces; see `mutations.py`."""

from tests.mutation import Mutation

BLOCKWISE, ORDER = "reformer_hf/ops/blockwise.py", "reformer_hf/ops/long_order.py"
ROWS = "reformer_hf/ops/token_rows.py"
BAND = ("tests/ops/test_attention.py",)
CHUNK = ("tests/ops/test_chunk_scope.py",)
KERNELS = "reformer_hf/ops/triton_kernels.py"
TRITON = ("tests/ops/test_triton_attention.py",)
STREAM_PIECES = "reformer_hf/nn/stream_pieces.py"
PIECES = ("tests/nn/test_reversible_pieces.py",)

FAST_PATH_MUTATIONS = [
    Mutation(
        "backward forgets the weights of the rounds",
        BLOCKWISE,
        "cotangent.mul_(share.unsqueeze(-1)), shift.mul_(share)",
        "cotangent, shift.mul_(share)",
        BAND,
    ),
    Mutation(
        "blockwise, a round that shows nothing keeps the weight of its own score",
        BLOCKWISE,
        "logsumexps.masked_fill(alone, ALONE_LOGSUMEXP)",
        "logsumexps",
        BAND,
    ),
    Mutation(
        "keys get no gradient from the chunks behind theirs",
        BLOCKWISE,
        "for end in range(vectors.shape[1], 0, -chunk):",
        "for end in range(vectors.shape[1], chunk, -chunk):",
        BAND,
    ),
    Mutation(
        "rounds that are apart overwrite each other's gradient",
        ROWS,
        "into.add_(summed) if group.continued else into.copy_(summed)",
        "into.copy_(summed)",
        BAND,
    ),
    Mutation(
        "the first to reach a rank adds to what an earlier group left there",
        BLOCKWISE,
        "places.copy_(part) if end == vectors.shape[1] else places.add_(part)",
        "places.add_(part)",
        BAND,
    ),
    Mutation(
        "what wraps around gets no gradient",
        BLOCKWISE,
        "inner.index_add_(0, originals, inner.index_select(0, copies))",
        "pass",
        CHUNK,
    ),
    Mutation(
        "backward drops other probabilities than forward",
        "reformer_hf/ops/dropout.py",
        "torch.Generator(device).manual_seed(seed)",
        "torch.Generator(device).manual_seed(int(torch.randint(99, ())))",
        ("tests/ops/test_blockwise.py",),
    ),
    Mutation(
        "every pass drops the same probabilities",
        "reformer_hf/ops/dropout.py",
        "torch.Generator(device).manual_seed(seed)",
        "torch.Generator(device)",
        ("tests/ops/test_blockwise.py",),
    ),
    Mutation(
        "blockwise, the band is one rank too short",
        ORDER,
        ".values).clamp_(max=before)",
        ".values).clamp_(max=before - 1).clamp_(min=0)",
        BAND,
    ),
    Mutation(
        "blockwise, fixed chunk borders move",
        ORDER,
        "before = before - (-ranks - 1) % window.border",
        "before = before - ranks % window.border",
        BAND,
    ),
    Mutation(
        "blockwise, the self mask is dropped",
        ORDER,
        "hide_early = hide_early | ((places == own) & (earlier > 0))",
        "pass",
        BAND,
    ),
    Mutation(
        "blockwise, later places of a chunk are seen",
        ORDER,
        "        hide_early = hide_early | hide_late\n",
        "        pass\n",
        BAND,
    ),
    Mutation(
        "blockwise, keys at later places are seen in the chunk scope",
        ORDER,
        "return keys < queries",
        "return (keys != queries) & (keys != NO_KEY)",
        CHUNK,
    ),
    Mutation(
        "blockwise, padding is seen in the chunk scope",
        "reformer_hf/ops/chunk_scope.py",
        "is_key = on_ring[:, None] & (places < real[:, None, None])",
        "is_key = on_ring[:, None] & (places < padded)",
        CHUNK,
    ),
    Mutation(
        "a piece is taken from another part of the stream",
        "reformer_hf/nn/reversible.py",
        "target = inputs.target.narrow(-2, *piece.place)",
        "target = inputs.target.narrow(-2, 0, piece.place[1])",
        PIECES,
    ),
    Mutation(
        "a second term starts from the stream again",
        STREAM_PIECES,
        "self.begun = max(self.begun, sum(place))",
        "pass",
        PIECES,
    ),
    Mutation(
        "pieces of two backwards are taken for one's",
        STREAM_PIECES,
        "whole, written = self.begun[task]",
        "whole, written = next(iter(self.begun.values()))",
        ("tests/nn/test_stream_pieces.py",),
    ),
    Mutation(
        "the gradient of a piece goes to another place",
        STREAM_PIECES,
        "start = part * self.piece_length",
        "start = 0 * self.piece_length",
        PIECES,
    ),
    Mutation(
        "a term is not taken from the stream again",
        "reformer_hf/nn/reversible.py",
        "for index in range(len(self.pieces)):",
        "for index in range(1):",
        PIECES,
    ),
    Mutation(
        "the last streams are handed on although backward left something out",
        "reformer_hf/nn/reversible.py",
        "return inputs._replace(own_target=False, own_source=False)",
        "return inputs",
        ("tests/nn/test_reversible_replay.py",),
    ),
    Mutation(
        "parameters get the gradient of one piece of a stream that is normalised late",
        "reformer_hf/nn/normalised_projection.py",
        "total += part",
        "total.copy_(part)",
        ("tests/nn/test_normalised_projection.py",),
    ),
    Mutation(
        "groups of heads drop different numbers",
        "reformer_hf/nn/feed_forward.py",
        "return drop(part, self.dropout.p, dropout_seed, inplace=True)",
        "return drop(part, self.dropout.p, heads.start, inplace=True)",
        ("tests/models/test_modeling_memory.py",),
    ),
    Mutation(
        "what a budget keeps holds the graph that holds it",
        "reformer_hf/nn/reversible.py",
        "self.tensor, self.version = tensor.detach(),",
        "self.tensor, self.version = tensor,",
        ("tests/nn/test_reversible_memory.py",),
    ),
    Mutation(
        "a step that does not fit the budget keeps a part",
        "reformer_hf/nn/reversible.py",
        "            self.keeps = False\n            for piece in self.pieces:\n"
        "                piece.forget()\n",
        "            self.keeps = False\n",
        ("tests/nn/test_reversible_budget.py",),
    ),
    Mutation(
        "backward drops other numbers than forward",
        "reformer_hf/nn/dropout.py",
        "return drop(grads[0], *ctx.settings), None",
        "return drop(grads[0], ctx.settings[0], 0), None",
        ("tests/nn/test_dropout.py",),
    ),
    Mutation(
        "the kernels' band is one rank too short",
        KERNELS,
        "near = (distance <= back[:, None])",
        "near = (distance < back[:, None])",
        TRITON,
    ),
    Mutation(
        "the kernels forget what they have seen when a larger score comes",
        KERNELS,
        "total = total * shrunk + tl.sum(weights, 1)",
        "total = total + tl.sum(weights, 1)",
        TRITON,
    ),
    Mutation(
        "each round gives a lone token the whole of its value's gradient",
        KERNELS,
        'share = tl.where(sums == -float("inf"), 1.0 / rounds, 0.0)',
        'share = tl.where(sums == -float("inf"), 1.0, 0.0)',
        TRITON,
    ),
    Mutation(
        "the kernels' keys get no gradient from the queries of later blocks",
        KERNELS,
        "* BLOCK + BLOCK + reach_back, length)",
        "* BLOCK + BLOCK, length)",
        TRITON,
    ),
    Mutation(
        "the kernels drop nothing from the gradient of values",
        KERNELS,
        "kept_weights = tl.where(kept, weights * kept_scale, 0.0)",
        "kept_weights = weights",
        TRITON,
    ),
    Mutation(
        "the kernels drop by the rank of the query alone",
        KERNELS,
        "tl.philox(seed, rank, key, zero, zero)",
        "tl.philox(seed, rank, zero, zero, zero)",
        TRITON,
    ),
    Mutation(
        "after the kernels, what wraps around gets no gradient",
        "reformer_hf/ops/triton_attention.py",
        "table.index_add_(0, originals, table.index_select(0, copies))",
        "pass",
        TRITON,
    ),
]
