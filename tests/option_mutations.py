"""Faults of rotary positions, convolution and local round; a part of `tests.mutations`."""

from tests.mutation import Mutation

ROTARY = ("tests/ops/test_rotary.py",)
CONVOLUTION = ("tests/ops/test_convolution.py",)
MODULES = ("tests/nn/test_attention.py",)
RECENT = ("tests/nn/past/test_recent_inputs.py",)
SPARSE = ("tests/ops/test_sparse_dense.py",)
OUTPUT = ("tests/models/test_language_model.py",)
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
        "gates of many tokens lose their sign",
        "reformer_hf/ops/sparse_dense.py",
        "(gates.unsqueeze(1) * weight).flatten(0, 1)",
        "(gates.abs().unsqueeze(1) * weight).flatten(0, 1)",
        SPARSE,
    ),
    Mutation(
        "there are too many zeros beside the modules",
        "reformer_hf/ops/sparse_dense.py",
        "padding = (0, weight.shape[2] // 2)",
        "padding = (0, weight.shape[2] - 1)",
        SPARSE,
    ),
    Mutation(
        "sparse projections cross the borders of documents",
        "reformer_hf/nn/self_attention.py",
        "self.shared_projection(hidden_states, documents, **remembered)",
        "self.shared_projection(hidden_states, **remembered)",
        MODULES,
    ),
    Mutation(
        "sparse projections see later tokens unlike earlier ones",
        "reformer_hf/nn/sparse_dense.py",
        "weight[:, :-1].flip(1)",
        "weight[:, :-1]",
        ("tests/nn/test_sparse_dense.py",),
    ),
    Mutation(
        "sparse projections begin anew in each cached pass",
        "reformer_hf/nn/sparse_projections.py",
        "if past is None or new is None or not self.before:",
        "if True:",
        CACHED,
    ),
    Mutation(
        "padding moves what sparse projections are made of",
        "reformer_hf/nn/sparse_projections.py",
        "torch.arange(-self.before, 1, device=target.device)",
        "torch.arange(-self.before, 1, device=target.device) - 1",
        CACHED,
    ),
    Mutation(
        "what sparse projections share stays when tokens are taken back",
        "reformer_hf/nn/past/base.py",
        "        self.recent_shared.drop_last(count)\n",
        "",
        CACHED,
    ),
    Mutation(
        "what sparse projections share keeps its rows when rows are chosen",
        "reformer_hf/nn/past/base.py",
        "        self.recent_shared.change_rows(change)\n",
        "",
        ("tests/models/test_generation_cache.py",),
    ),
    Mutation(
        "pieces of the loss are of both output layers",
        "reformer_hf/models/language_model.py",
        "partial(self._project, head)",
        "lambda *states: self._project(self.lm_head.draw(), *states)",
        OUTPUT,
    ),
    Mutation(
        "an output layer that was not drawn has no gradient",
        "reformer_hf/models/language_model.py",
        "+ self.bias + nothing",
        "+ self.bias",
        OUTPUT,
    ),
    Mutation(
        "the dense output layer is used outside training",
        "reformer_hf/models/language_model.py",
        "if self.dense is None or not self.training:",
        "if self.dense is None:",
        OUTPUT,
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
