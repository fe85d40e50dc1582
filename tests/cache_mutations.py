"""Faults of the cache that the tests must find; a part of `tests.mutations`."""

from tests.mutation import Mutation

DECODING = ("tests/ops/test_decoding.py",)
BAND_PAST = ("tests/nn/past/test_lsh_band.py",)
CHUNK_PAST = ("tests/nn/past/test_lsh_chunk.py",)
DISTANCE_PAST = ("tests/nn/past/test_distance.py",)
CACHED = ("tests/models/test_cached_forward.py",)
CACHE = ("tests/models/test_cache_reformer_hf.py",)

CACHE_MUTATIONS = [
    Mutation(
        "keys are taken one place off",
        "reformer_hf/nn/past/token_store.py",
        "rows = torch.arange(0, batch * heads * capacity, capacity, device=index.device)",
        "rows = torch.arange(0, batch * heads * capacity, capacity, device=index.device) - 1",
        ("tests/nn/past/test_token_store.py",),
    ),
    Mutation(
        "keys are taken from the row before",
        "reformer_hf/nn/past/token_store.py",
        "flat = index.reshape(batch * heads, -1) + rows.unsqueeze(1)",
        "flat = index.reshape(batch * heads, -1) + rows.roll(heads).unsqueeze(1)",
        CACHED,
    ),
    Mutation(
        "a buffer that grows forgets its last token",
        "reformer_hf/nn/past/token_store.py",
        "buffer[:, :, : self.length] = self.tokens()",
        "buffer[:, :, : self.length - 1] = self.tokens()[:, :, :-1]",
        ("tests/nn/past/test_token_store.py",),
    ),
    Mutation(
        "the ring is one place short",
        "reformer_hf/nn/past/lsh_band.py",
        "self.ring_length = window.before",
        "self.ring_length = window.before - 1",
        BAND_PAST,
    ),
    Mutation(
        "the ring is one place short in whole models",
        "reformer_hf/nn/past/lsh_band.py",
        "self.ring_length = window.before",
        "self.ring_length = max(1, window.before - 1)",
        CACHED,
    ),
    Mutation(
        "the rings are stale after a crop of single tokens",
        "reformer_hf/nn/past/lsh_band.py",
        "                take_back(self.rings, entry)\n",
        "                pass\n",
        BAND_PAST,
    ),
    Mutation(
        "the rings are stale after a crop of a block",
        "reformer_hf/nn/past/lsh_band.py",
        "                self.rings = entry.rings\n",
        "                pass\n",
        CACHED,
    ),
    Mutation(
        "what is kept of a block does not enter the rings again",
        "reformer_hf/nn/past/lsh_band.py",
        "                    self._push_block(kept, entry.first_place)\n",
        "                    pass\n",
        CACHED,
    ),
    Mutation(
        "a crop does not forget what was recorded before it",
        "reformer_hf/nn/past/lsh_band.py",
        "            count -= _tokens(entry)\n        self.log.clear()\n",
        "            count -= _tokens(entry)\n",
        BAND_PAST,
    ),
    Mutation(
        "what was recorded keeps its rows when rows are chosen",
        "reformer_hf/nn/past/lsh_band.py",
        "self.log = [_change(entry, change) for entry in self.log]",
        "pass",
        CACHE,
    ),
    Mutation(
        "padding enters a real bucket in the band scope",
        "reformer_hf/nn/past/lsh_band.py",
        "return torch.where(new.real[:, None, None], buckets, self.num_buckets - 1)",
        "return torch.where(new.real[:, None, None], buckets, self.num_buckets - 2)",
        BAND_PAST,
    ),
    Mutation(
        "padding enters the buckets of its vectors in the chunk scope",
        "reformer_hf/nn/past/lsh_chunk.py",
        "buckets = torch.where(real[:, None, None], buckets, self.num_buckets)",
        "pass",
        CHUNK_PAST,
    ),
    Mutation(
        "the oldest place of a ring is the newest",
        "reformer_hf/ops/decoding.py",
        "ranks = end.unsqueeze(-1) - 1 - torch.arange(window, device=places.device)",
        "ranks = (end - window).unsqueeze(-1) + torch.arange(window, device=places.device)",
        DECODING,
    ),
    Mutation(
        "a ring reaches into the bucket before",
        "reformer_hf/ops/decoding.py",
        "return latest.masked_fill(ranks < start.unsqueeze(-1), NOWHERE).int()",
        "return latest.masked_fill(ranks < start.unsqueeze(-1) - 1, NOWHERE).int()",
        DECODING,
    ),
    Mutation(
        "all tokens of a pass enter the rings at the first one's place",
        "reformer_hf/ops/decoding.py",
        "own = torch.full_like(ring[:, :1], first_place + index)",
        "own = torch.full_like(ring[:, :1], first_place)",
        BAND_PAST,
    ),
    Mutation(
        "the new tokens of a long pass begin one place late",
        "reformer_hf/ops/decoding.py",
        "new = torch.arange(first_place, first_place + seq, device=rings.device)",
        "new = torch.arange(first_place + 1, first_place + seq + 1, device=rings.device)",
        DECODING,
    ),
    Mutation(
        "the new tokens of a long pass begin one place early",
        "reformer_hf/ops/decoding.py",
        "new = torch.arange(first_place, first_place + seq, device=rings.device)",
        "new = torch.arange(first_place - 1, first_place + seq - 1, device=rings.device)",
        BAND_PAST,
    ),
    Mutation(
        "empty slots of the rings share a bucket with real tokens",
        "reformer_hf/ops/decoding.py",
        "slots = torch.where(carried >= 0, slots, num_buckets)",
        "slots = torch.where(carried >= 0, slots, num_buckets - 2)",
        BAND_PAST,
    ),
    Mutation(
        "a token is inserted one rank late",
        "reformer_hf/ops/decoding.py",
        "    seq = order.shape[-1]\n    ranks = torch.arange(seq + 1, device=order.device)\n",
        "    seq = order.shape[-1]\n    rank = (rank + 1).clamp(max=seq)\n"
        "    ranks = torch.arange(seq + 1, device=order.device)\n",
        CHUNK_PAST,
    ),
    Mutation(
        "the window is that of the next rank",
        "reformer_hf/ops/decoding.py",
        "rank // chunk * chunk)",
        "(rank + 1) // chunk * chunk)",
        CHUNK_PAST,
    ),
    Mutation(
        "a new token stands before its bucket",
        "reformer_hf/nn/past/lsh_chunk.py",
        "rank = (ids <= ids[:, :, -1:]).sum(dim=2) - 1",
        "rank = (ids < ids[:, :, -1:]).sum(dim=2)",
        CHUNK_PAST,
    ),
    Mutation(
        "the padding behind a row is seen in the chunk scope's steps",
        "reformer_hf/ops/decoding.py",
        "visible = (ranks < lengths.view(-1, 1, 1, 1)) &",
        "visible = (ranks < order.shape[-1]) &",
        CHUNK_PAST,
    ),
    Mutation(
        "a chunk appears twice in a step's window",
        "reformer_hf/ops/decoding.py",
        "lengths.view(-1, 1, 1, 1)) & once[:, None, None]",
        "lengths.view(-1, 1, 1, 1))",
        DECODING,
    ),
    Mutation(
        "the own place counts among others in a step",
        "reformer_hf/ops/decoding.py",
        "counted[..., 0] = alone",
        "counted[..., 0] = True",
        BAND_PAST,
    ),
    Mutation(
        "the window of a step shows its own place",
        "reformer_hf/ops/decoding.py",
        "places = places.masked_fill(~visible | (places == own), NOWHERE)",
        "places = places.masked_fill(~visible, NOWHERE)",
        CHUNK_PAST,
    ),
    Mutation(
        "the duplicate correction is dropped in cached steps",
        "reformer_hf/nn/past/candidates.py",
        "counts = count_candidates(places, counted) if deduplicate_rounds else None",
        "counts = None",
        BAND_PAST,
    ),
    Mutation(
        "the window of local steps is one place too short",
        "reformer_hf/nn/past/distance.py",
        "return place - self.window.before",
        "return place - self.window.before + 1",
        DISTANCE_PAST,
    ),
    Mutation(
        "the window of local steps is one place too long",
        "reformer_hf/nn/past/distance.py",
        "return place - self.window.before",
        "return place - self.window.before - 1",
        DISTANCE_PAST,
    ),
    Mutation(
        "local layers forget one token too many",
        "reformer_hf/nn/past/distance.py",
        "            self.tokens.keep_last(self.reach)\n"
        "            self.marks.keep_last(self.reach)\n",
        "            self.tokens.keep_last(self.reach - 1)\n"
        "            self.marks.keep_last(self.reach - 1)\n",
        DISTANCE_PAST,
    ),
    Mutation(
        "local layers forget what is being recorded",
        "reformer_hf/nn/past/distance.py",
        "if self.reach is None or self.recording:",
        "if self.reach is None:",
        DISTANCE_PAST,
    ),
    Mutation(
        "padded tokens are not moved to where their queries are",
        "reformer_hf/nn/past/distance.py",
        "            output = _take(output, moved.target)\n",
        "            pass\n",
        DISTANCE_PAST,
    ),
    Mutation(
        "a refused crop leaves some layers cropped",
        "reformer_hf/models/cache_reformer_hf.py",
        "        for layer in self.layers:\n            layer.check_crop(tokens_to_remove)\n",
        "",
        CACHE,
    ),
    Mutation(
        "a crop may take back padding",
        "reformer_hf/models/cache_reformer_hf.py",
        "if self.padding is not None and count > self.since_padding:",
        "if self.padding is not None and count > self.since_padding + 1:",
        CACHE,
    ),
    Mutation(
        "padding takes up positions behind a cache",
        "reformer_hf/models/cached_inputs.py",
        "begin = begin - layer.padding.to(begin.device).unsqueeze(1)",
        "pass",
        ("tests/models/test_cached_inputs.py",),
    ),
]
