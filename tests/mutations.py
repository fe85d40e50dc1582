"""Faults that the tests must find, each a small change of the source.

`python -m scripts.tools.check_mutations` plants them one at a time in a copy of the package and
demands that the named tests fail.
"""

from tests.cache_mutations import CACHE_MUTATIONS
from tests.encoder_decoder_mutations import ENCODER_DECODER_MUTATIONS
from tests.fast_path_mutations import FAST_PATH_MUTATIONS
from tests.mutation import Mutation
from tests.option_mutations import OPTION_MUTATIONS

__all__ = ["MUTATIONS", "Mutation"]

BAND = ("tests/ops/test_attention.py",)
CHUNK = ("tests/ops/test_chunk_scope.py",)
REPLAY = (
    "tests/nn/test_reversible.py",
    "tests/nn/test_reversible_replay.py",
    "tests/nn/test_surroundings.py",
)
IN_BACKWARD = ("tests/training/test_optimizer_in_backward.py",)
OUTPUTS = ("tests/models/test_modeling_outputs.py",)

MUTATIONS = [
    Mutation(
        "the band is one rank too short",
        "reformer_hf/ops/window.py",
        "return (distance <= self.before) &",
        "return (distance < self.before) &",
        BAND,
    ),
    Mutation(
        "the band is one rank too long",
        "reformer_hf/ops/window.py",
        "return (distance <= self.before) &",
        "return (distance <= self.before + 1) &",
        BAND,
    ),
    Mutation(
        "the band looks one rank too far ahead",
        "reformer_hf/ops/window.py",
        "& (distance >= -self.after)",
        "& (distance >= -self.after - 1)",
        BAND,
    ),
    Mutation(
        "the band ignores segments",
        "reformer_hf/ops/attention.py",
        "window.shows(distance) & (query_segments == key_segments),",
        "window.shows(distance) & (key_segments >= 0) | (query_segments < 0),",
        BAND,
    ),
    Mutation(
        "the duplicate correction is dropped in the band scope",
        "reformer_hf/ops/attention.py",
        "counts=count_appearances(sort, window) if deduplicate_rounds else None,",
        "counts=None,",
        BAND,
    ),
    Mutation(
        "the duplicate correction miscounts the last rank of the band",
        "reformer_hf/ops/window.py",
        "near = window.shows(query_ranks - key_ranks)",
        "near = window.shows(query_ranks - key_ranks + 1)",
        BAND,
    ),
    Mutation(
        "the duplicate correction is dropped in the chunk scope",
        "reformer_hf/ops/chunk_scope.py",
        "counts=self._count_appearances() if deduplicate else None,",
        "counts=None,",
        CHUNK,
    ),
    Mutation(
        "padding shares the buckets of real tokens in the band scope",
        "reformer_hf/ops/sorting.py",
        "keys = documents[:, None, None, :] * num_buckets + buckets",
        "keys = buckets",
        BAND,
    ),
    Mutation(
        "documents share buckets in the band scope",
        "reformer_hf/ops/sorting.py",
        "keys = documents[:, None, None, :] * num_buckets + buckets",
        "keys = documents[:, None, None, :] + buckets",
        BAND,
    ),
    Mutation(
        "padding is not sorted behind real tokens in the chunk scope",
        "reformer_hf/ops/chunk_scope.py",
        "keys = torch.where(behind > 0, num_buckets - 1 + behind, buckets)",
        "keys = torch.where(behind > 1, num_buckets - 1 + behind, buckets)",
        CHUNK,
    ),
    Mutation(
        "padding is seen in the chunk scope",
        "reformer_hf/ops/chunk_scope.py",
        "visible = self.real & distinct[:, None, None, None]",
        "visible = distinct[:, None, None, None]",
        CHUNK,
    ),
    Mutation(
        "rows are not aligned before they are cut into chunks",
        "reformer_hf/ops/chunk_scope.py",
        "buckets = buckets.gather(-1, alignment.order.expand_as(buckets))",
        "pass",
        CHUNK,
    ),
    Mutation(
        "the first chunk does not wrap to the last",
        "reformer_hf/ops/chunk_ring.py",
        "wrapped = numbers % (self.rounds * used)",
        "wrapped = numbers.clamp(min=0) % (self.rounds * used)",
        CHUNK,
    ),
    Mutation(
        "each round wraps to its own last chunk",
        "reformer_hf/ops/chunk_scope.py",
        "self.ring.locate(self.ring.number(round_, rank + offset * length))",
        "round_, (rank + offset * length) % self.ring.used[:, None]",
        CHUNK,
    ),
    Mutation(
        "a row wraps to the last chunk of the longest row",
        "reformer_hf/ops/chunk_scope.py",
        "ring = Ring.of(laid_out, buckets.shape[2], chunk)",
        "ring = Ring.of(torch.full_like(laid_out, padded), buckets.shape[2], chunk)",
        CHUNK,
    ),
    Mutation(
        "a chunk appears twice in a window",
        "reformer_hf/ops/chunk_ring.py",
        "first &= (offset - other) % count != 0",
        "first &= True",
        CHUNK,
    ),
    Mutation(
        "the causal mask is dropped in local layers of the chunk scope",
        "reformer_hf/ops/window.py",
        "return 0 if self.causal else ahead",
        "return ahead",
        BAND,
    ),
    Mutation(
        "the causal mask is dropped in LSH layers of the chunk scope",
        "reformer_hf/ops/chunk_scope.py",
        "visible = visible & (self.query_places >= self.key_places)",
        "pass",
        CHUNK,
    ),
    Mutation(
        "the self mask is dropped in the band scope",
        "reformer_hf/ops/attention.py",
        "own=distance == 0 if self_mask else None,",
        "own=None,",
        BAND,
    ),
    Mutation(
        "the self mask is dropped in the chunk scope",
        "reformer_hf/ops/chunk_scope.py",
        "            own=self.own,\n",
        "            own=None,\n",
        CHUNK,
    ),
    Mutation(
        "a round that shows nothing keeps the weight of its own score",
        "reformer_hf/ops/attend.py",
        "logsumexp = logsumexp.masked_fill(alone, ALONE_LOGSUMEXP)",
        "pass",
        BAND,
    ),
    Mutation(
        "round weights get no gradient",
        "reformer_hf/ops/attention.py",
        "weights = torch.softmax(logsumexps, dim=2).to(outputs.dtype)",
        "weights = torch.softmax(logsumexps.detach(), dim=2).to(outputs.dtype)",
        BAND,
    ),
    Mutation(
        "moved vectors get the gradient of other places",
        "reformer_hf/ops/sorting.py",
        "back = _take_rows(grad, inverse.reshape(lead * rounds, 1, seq))",
        "back = _take_rows(grad, order.reshape(lead * rounds, 1, seq))",
        BAND,
    ),
    Mutation(
        "keys have length one instead of root-mean-square one",
        "reformer_hf/ops/attend.py",
        "wide.square().mean(dim=-1, keepdim=True)",
        "wide.square().sum(dim=-1, keepdim=True)",
        BAND,
    ),
    Mutation(
        "the first factor of the buckets is the most significant digit",
        "reformer_hf/ops/hashing.py",
        "buckets = buckets + radix * digit",
        "buckets = buckets * factor + digit",
        ("tests/ops/test_hashing.py",),
    ),
    Mutation(
        "rotations depend on the number of rounds",
        "reformer_hf/ops/hashing.py",
        "derive_seed(layer_seed, round_)",
        "derive_seed(layer_seed, num_hashes - round_)",
        ("tests/ops/test_hashing.py",),
    ),
    Mutation(
        "rotations are drawn from the default generator",
        "reformer_hf/ops/hashing.py",
        "        return torch.randn(num_heads, head_dim, num_hashes, columns, **options)\n",
        "        return torch.randn(num_heads, head_dim, num_hashes, columns)\n",
        ("tests/ops/test_hashing.py",),
    ),
    Mutation(
        "the softmax is computed in half precision",
        "reformer_hf/ops/attend.py",
        "scores = scores.to(torch.promote_types(scores.dtype, torch.float32))",
        "pass",
        ("tests/ops/test_attention_precision.py",),
    ),
    Mutation(
        "the loss keeps the logits of every chunk",
        "reformer_hf/ops/losses.py",
        "checkpoint(chunk_loss, *chunks, use_reentrant=False)",
        "chunk_loss(*chunks)",
        ("tests/ops/test_losses.py",),
    ),
    Mutation(
        "a replay draws new random numbers",
        "reformer_hf/nn/surroundings.py",
        "torch.set_rng_state(self.cpu_state)",
        "pass",
        REPLAY,
    ),
    Mutation(
        "a replay moves the default generator",
        "reformer_hf/nn/surroundings.py",
        "torch.random.fork_rng(devices, device_type=kind), ExitStack()",
        "ExitStack()",
        REPLAY,
    ),
    Mutation(
        "a replay runs outside of autocast",
        "reformer_hf/nn/surroundings.py",
        "stack.enter_context(torch.autocast(**options))",
        "pass",
        REPLAY,
    ),
    Mutation(
        "a replay decides anew",
        "reformer_hf/nn/reversible.py",
        "return self._choice[0]",
        "return decide()",
        REPLAY,
    ),
    Mutation(
        "layers do not go on from the states that are returned",
        "reformer_hf/models/layers.py",
        "x1, x2 = state.chunk(2, dim=-1)",
        "pass",
        OUTPUTS,
    ),
    Mutation(
        "the returned logits are not those of the loss",
        "reformer_hf/models/language_model.py",
        "return loss, logits if keep_all else",
        "return loss, logits.clone() if keep_all else",
        OUTPUTS,
    ),
    Mutation(
        "a dense map does not make the output",
        "reformer_hf/nn/self_attention.py",
        "output if value is None else dense @ value",
        "output",
        ("tests/models/test_attention_maps.py",),
    ),
    Mutation(
        "a layer is updated before it is replayed",
        "reformer_hf/training/optimizer_in_backward.py",
        "self._complete = layer",
        "self._update(layer)",
        IN_BACKWARD,
    ),
    Mutation(
        "all layers are updated at the end",
        "reformer_hf/training/optimizer_in_backward.py",
        "layer.missing.discard(parameter)",
        "pass",
        IN_BACKWARD,
    ),
    *FAST_PATH_MUTATIONS,
    *CACHE_MUTATIONS,
    *OPTION_MUTATIONS,
    *ENCODER_DECODER_MUTATIONS,
]
