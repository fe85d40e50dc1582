"""Faults of rotary positions, convolution and local round; a part of `tests.mutations`."""

from tests.mutation import Mutation

ROTARY = ("tests/ops/test_rotary.py",)
CONVOLUTION = ("tests/ops/test_convolution.py",)
MODULES = ("tests/nn/test_attention.py",)
RECENT = ("tests/nn/past/test_recent_inputs.py",)
CACHED = ("tests/models/test_cached_forward.py",)

_TURNED = "query if rotary is None else rotate_queries(query, rotary)"

OPTION_MUTATIONS = [
    Mutation(
        "vectors turn the other way",
        "reformer_hf/ops/rotary.py",
        "first * cos - second * sin, second * cos + first * sin",
        "first * cos + second * sin, second * cos - first * sin",
        ROTARY,
    ),
    Mutation(
        "angles are multiplied in float32",
        "reformer_hf/ops/rotary.py",
        "return torch.float32 if has_none else torch.float64",
        "return torch.float32",
        ROTARY,
    ),
    Mutation(
        "queries do not carry the factor of the scores",
        "reformer_hf/ops/rotary.py",
        "return turned if rotary.score_factor == 1 else turned * rotary.score_factor",
        "return turned",
        ROTARY,
    ),
    Mutation(
        "keys are not turned behind a cache",
        "reformer_hf/nn/distance_attention.py",
        "rotate(key, rotary)\n        options",
        "key\n        options",
        CACHED,
    ),
    Mutation(
        "turned queries are hashed",
        "reformer_hf/nn/attention.py",
        "self.hash(query, *drawn)",
        f"self.hash({_TURNED}, *drawn)",
        MODULES,
    ),
    Mutation(
        "turned queries are hashed behind a cache",
        "reformer_hf/nn/attention.py",
        "partial(self._hash_all, query, past.rotations)",
        f"partial(self._hash_all, {_TURNED}, past.rotations)",
        CACHED,
    ),
    Mutation(
        "angles begin anew in each cached pass",
        "reformer_hf/models/modeling_reformer_hf.py",
        "rotary_of(self.config, position_ids, embedded[0].dtype)",
        "rotary_of(self.config, position_ids - position_ids.min(), embedded[0].dtype)",
        CACHED,
    ),
    Mutation(
        "the local round is missing",
        "reformer_hf/nn/attention.py",
        "return nn.functional.pad(buckets, (0, 0, 0, 1)) if self.local_round else buckets",
        "return buckets",
        MODULES,
    ),
    Mutation(
        "the local round is missing behind a cache",
        "reformer_hf/nn/attention.py",
        "partial(self._hash_all, query, past.rotations))\n",
        "partial(self._hash_all, query, past.rotations))\n"
        "        buckets = buckets[:, :, : past.rotations.shape[2]]\n",
        CACHED,
    ),
    Mutation(
        "the convolution crosses the borders of documents",
        "reformer_hf/ops/convolution.py",
        "same = (rank == ranks + offset) & (ordered[:, rank] == ordered)",
        "same = (rank == ranks + offset).expand_as(ordered)",
        CONVOLUTION,
    ),
    Mutation(
        "the token at the end of a row is its own neighbour",
        "reformer_hf/ops/convolution.py",
        "same = (rank == ranks + offset) & (ordered[:, rank] == ordered)",
        "same = ordered[:, rank] == ordered",
        CONVOLUTION,
    ),
    Mutation(
        "the convolution module forgets the documents",
        "reformer_hf/nn/convolution.py",
        "return short_convolution(inputs, self.taps(), self.before, documents)",
        "return short_convolution(inputs, self.taps(), self.before)",
        MODULES,
    ),
    Mutation(
        "one input too few is remembered",
        "reformer_hf/nn/past/recent_inputs.py",
        "kept = joined.shape[1] if recording else self.count",
        "kept = joined.shape[1] if recording else self.count - 1",
        CACHED,
    ),
    Mutation(
        "padding is an input like others",
        "reformer_hf/nn/past/recent_inputs.py",
        "if real is not None:",
        "if False:",
        CACHED,
    ),
    Mutation(
        "inputs that are taken back stay",
        "reformer_hf/nn/past/recent_inputs.py",
        "end = self.stored.shape[1] - count",
        "end = self.stored.shape[1]",
        CACHED,
    ),
    Mutation(
        "inputs that are gone are said to be there",
        "reformer_hf/nn/past/recent_inputs.py",
        "return self.stored is None or self.stored.shape[1] - count >= self.count",
        "return True",
        RECENT,
    ),
    Mutation(
        "inputs keep their rows when rows are chosen",
        "reformer_hf/nn/past/base.py",
        "        self.recent.change_rows(change)\n",
        "",
        ("tests/models/test_generation_cache.py",),
    ),
    Mutation(
        "n-grams begin anew in each cached pass",
        "reformer_hf/models/modeling_reformer_hf.py",
        "ngrams(input_ids, recent=recent, new=new, recording=recording)",
        "ngrams(input_ids)",
        CACHED,
    ),
    Mutation(
        "n-grams reach into the document before",
        "reformer_hf/models/modeling_reformer_hf.py",
        "ngrams(input_ids, layout.documents)",
        "ngrams(input_ids)",
        ("tests/models/test_modeling_documents.py",),
    ),
    Mutation(
        "sizes of n-grams share their rows",
        "reformer_hf/ops/ngrams.py",
        "mixed % table_size + len(rows) * table_size",
        "mixed % table_size",
        ("tests/ops/test_ngrams.py",),
    ),
]
