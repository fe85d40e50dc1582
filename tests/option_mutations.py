"""Faults of rotary positions, convolution, recurrence and so on; a part of `tests.mutations`."""

from tests.mutation import Mutation

ROTARY = ("tests/ops/test_rotary.py",)
CONVOLUTION = ("tests/ops/test_convolution.py",)
MODULES = ("tests/nn/test_attention.py",)
RECURRENCE = ("tests/ops/test_recurrence.py",)
SRU = ("tests/nn/test_sru.py",)
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
    Mutation(
        "the state goes on into the next document",
        "reformer_hf/ops/recurrence.py",
        "_scan(forget * goes_on, ",
        "_scan(forget, ",
        RECURRENCE,
    ),
    Mutation(
        "states stay in the order of the documents",
        "reformer_hf/ops/recurrence.py",
        "return rearrange(states, inverse, order).squeeze(1)",
        "return states",
        RECURRENCE,
    ),
    Mutation(
        "the start is kept whole",
        "reformer_hf/ops/recurrence.py",
        "torch.addcmul(addends[:, :1], forget[:, :1], start.unsqueeze(1))",
        "addends[:, :1] + start.unsqueeze(1)",
        RECURRENCE,
    ),
    Mutation(
        "half of the states see the state before the last",
        "reformer_hf/ops/recurrence.py",
        "torch.addcmul(first, forget_first, before)",
        "torch.addcmul(first, forget_first * forget_second, before)",
        RECURRENCE,
    ),
    Mutation(
        "a unit sees other documents",
        "reformer_hf/nn/sru.py",
        "mixed, states = unit(mixed, documents, start)",
        "mixed, states = unit(mixed, None, start)",
        SRU,
    ),
    Mutation(
        "a unit behind a past starts anew",
        "reformer_hf/nn/sru.py",
        "starts = list(last.chunk(len(self.units), dim=-1))",
        "pass",
        SRU,
    ),
    Mutation(
        "states are those of bfloat16",
        "reformer_hf/nn/sru.py",
        "wide = torch.promote_types(inputs.dtype, torch.float32)",
        "wide = inputs.dtype",
        SRU,
    ),
    Mutation(
        "states that are taken back stay",
        "reformer_hf/nn/past/base.py",
        "        self.states.drop_last(count)\n",
        "",
        SRU,
    ),
    Mutation(
        "states that are gone are said to be there",
        "reformer_hf/nn/past/base.py",
        "return self.recent.can_drop(count) and self.states.can_drop(count)",
        "return self.recent.can_drop(count)",
        SRU,
    ),
    Mutation(
        "states keep their rows when rows are chosen",
        "reformer_hf/nn/past/base.py",
        "        self.states.change_rows(change)\n",
        "",
        ("tests/models/test_cache_reformer_hf.py",),
    ),
    Mutation(
        "recurrent units read a piece of the row",
        "reformer_hf/models/layers.py",
        "lengths.append(0)",
        "lengths.append(lengths[0])",
        ("tests/models/test_modeling_memory.py",),
    ),
]
