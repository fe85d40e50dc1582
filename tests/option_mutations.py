"""Faults of options that are off by default; a part of `tests.mutations`."""

from tests.mutation import Mutation

ROTARY = ("tests/ops/test_rotary.py",)
CONVOLUTION = ("tests/ops/test_convolution.py",)
MODULES = ("tests/nn/test_attention.py",)
RECENT = ("tests/nn/past/test_recent_inputs.py",)
CACHED = ("tests/models/test_cached_forward.py",)
SPARSE_OPS = ("tests/ops/test_sparse_feed_forward.py",)
SPARSE = ("tests/nn/test_sparse_feed_forward.py",)

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
    Mutation(
        "units of the wrong block are read",
        "reformer_hf/ops/sparse_feed_forward.py",
        "chosen = (choices + starts).view(-1)",
        "chosen = (choices + starts.flip(0)).view(-1)",
        SPARSE_OPS,
    ),
    Mutation(
        "the mask acts behind the activation",
        "reformer_hf/ops/sparse_feed_forward.py",
        "inner = activation(inner * mask.flatten(-2).to(inner.dtype))",
        "inner = activation(inner) * mask.flatten(-2).to(inner.dtype)",
        SPARSE_OPS,
    ),
    Mutation(
        "the chosen units have no bias",
        "reformer_hf/ops/sparse_feed_forward.py",
        "activation(inner + units.up_bias.index_select(0, chosen))",
        "activation(inner)",
        SPARSE_OPS,
    ),
    Mutation(
        "a choice has no gradient in training",
        "reformer_hf/ops/sparse_feed_forward.py",
        "+ (soft - soft.detach())",
        "+ 0 * soft",
        SPARSE_OPS,
    ),
    Mutation(
        "units are chosen without noise",
        "reformer_hf/nn/sparse_feed_forward.py",
        "choose(logits + self.temperature * gumbel_noise(logits, seed))",
        "choose(logits)",
        SPARSE,
    ),
    Mutation(
        "the replay chooses again",
        "reformer_hf/nn/sparse_feed_forward.py",
        "return decide() if decision is None else decision.recall(decide)",
        "return decide()",
        SPARSE,
    ),
    Mutation(
        "a replay asks for choices that nobody made",
        "reformer_hf/nn/reversible.py",
        "        self.used = 0\n        token",
        "        token",
        SPARSE,
    ),
    Mutation(
        "many tokens read chosen weights",
        "reformer_hf/nn/sparse_feed_forward.py",
        "if tokens > TOKENS_PER_BLOCK_SIZE * self.block_size or torch.is_grad_enabled():",
        "if torch.is_grad_enabled():",
        SPARSE,
    ),
    Mutation(
        "the share of hard calls is that of soft ones",
        "reformer_hf/nn/sparse_feed_forward.py",
        "seed < hard_share * 2**63",
        "seed >= hard_share * 2**63",
        SPARSE,
    ),
    Mutation(
        "Muon steps of transposed matrices are those of others",
        "reformer_hf/training/optimizers.py",
        "rows, columns = matrix.shape if matrix in stored else (1, 1)",
        "rows, columns = (1, 1)",
        ("tests/training/test_optimizers.py",),
    ),
]
