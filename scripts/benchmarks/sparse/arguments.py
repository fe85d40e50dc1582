"""The arguments of the benchmark of sparse layers, and the runs that they ask for."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

from reformer_hf import ReformerHFConfig
from reformer_hf.training.arguments import argument
from scripts.benchmarks.common.arguments import BenchmarkArguments, turned
from scripts.benchmarks.common.cores import usable_cores

VARIANTS = {
    "dense": "dense",
    "ff": "sparse feed-forward",
    "qkv": "sparse QKV, no output projection",
    "both": "both",
    "all": "both, and a sparse output layer",
}
"""Names of the variants in arguments and files, to names in tables."""

DTYPES = ("float32", "bfloat16", "int8")
"""Of the weights. `int8` quantises those of dense layers; what is between is bfloat16."""

LM_HEAD_SPARSITY = 4
"""Modules of the sparse output layer, as in trax's configuration of the 800M shape."""


@dataclass(frozen=True)
class SparseShape:
    """Sizes of a model.

    Attributes:
        layers: with full attention.
        hidden_size: width of a stream.
        heads: of attention.
        dense_ff: width inside a dense feed-forward layer.
        sparse_ff: the same of a sparse one.
        ff_sparsity: units in a block, of which one is used.
        ff_rank: of the controller that chooses them.
        attention_sparsity: modules of sparse QKV.
        vocab_size: tokens of the vocabulary.
    """

    layers: int
    hidden_size: int
    heads: int
    dense_ff: int
    sparse_ff: int
    ff_sparsity: int
    ff_rank: int | None
    attention_sparsity: int
    vocab_size: int

    def config(self, variant: str) -> ReformerHFConfig:
        """The configuration of a variant."""
        fields: dict = {"feed_forward_size": self.dense_ff}
        if variant in ("ff", "both", "all"):
            fields = {"feed_forward_size": self.sparse_ff, "ff_sparsity": self.ff_sparsity}
            fields["ff_sparsity_rank"] = self.ff_rank
        if variant in ("qkv", "both", "all"):
            fields["attention_sparsity"] = self.attention_sparsity
            fields["attention_output_projection"] = False
        if variant == "all":
            fields["lm_head_sparsity"] = LM_HEAD_SPARSITY
        return ReformerHFConfig(
            attn_layers=["full"] * self.layers,
            hidden_size=self.hidden_size,
            num_attention_heads=self.heads,
            attention_head_size=self.hidden_size // self.heads,
            vocab_size=self.vocab_size,
            position_embedding_type="rotary",
            hidden_dropout_prob=0.0,
            **fields,
        )


SHAPES = {
    "800M": SparseShape(24, 1024, 16, 4096, 6144, 64, None, 16, 32_000),
    "17B block": SparseShape(1, 9216, 96, 65_536, 65_536, 256, 32, 64, 258),
    "tiny": SparseShape(2, 32, 2, 64, 128, 8, None, 4, 258),
}
"""Sizes that the paper gives, by its names for them, and one to try the benchmark.

Source: Jaszczur et al. 2021 (arXiv 2111.12763), table 1, and trax's configurations of it.
"""


class Case(NamedTuple):
    """What is measured once in each repeat.

    Attributes:
        shape: of `SHAPES`.
        variant: of `VARIANTS`.
        dtype: of `DTYPES`.
        threads: of torch.
    """

    shape: str
    variant: str
    dtype: str
    threads: int

    def __str__(self) -> str:
        return f"{self.shape}, {self.variant}, {self.dtype}, {self.threads} threads"


@dataclass
class SparseArguments(BenchmarkArguments):
    """What is measured, and how long."""

    output_dir: str = argument("outputs/benchmark_sparse", "Output folder.")
    shapes: list[str] = argument(["800M", "17B block"], f"Sizes: {', '.join(SHAPES)}.")
    variants: list[str] = argument(list(VARIANTS), f"Layers: {', '.join(VARIANTS)}.")
    dtypes: list[str] = argument(list(DTYPES), f"Of weights: {', '.join(DTYPES)}.")
    threads: list[int] = argument(
        list(range(1, usable_cores() + 1)), "Numbers of threads; each is measured."
    )
    context: int = argument(16, "Tokens in the cache before the first step.")
    steps: int = argument(20, "Timed steps of a run.")
    warmup: int = argument(3, "Steps before them.")

    def problem(self) -> str | None:
        """What is wrong with the arguments, or None."""
        choices = {"shapes": SHAPES, "variants": VARIANTS, "dtypes": DTYPES}
        if not self.threads or min(self.threads) < 1:
            return f"threads={self.threads}: give numbers of at least 1"
        return self.first_problem(choices, ("context",))

    def cases(self) -> Iterator[tuple[Case, int]]:
        """All cases and repeats: within a repeat by shape, dtype and threads, there in turns."""
        for repeat in range(self.repeats):
            for shape in self.shapes:
                for dtype in self.dtypes:
                    for threads in self.threads:
                        cases = [Case(shape, name, dtype, threads) for name in self.variants]
                        yield from ((case, repeat) for case in turned(cases, repeat))
