"""The arguments of the GPU benchmark, and the runs that they ask for."""

from dataclasses import dataclass, replace
from typing import NamedTuple

from reformer_hf.training.arguments import argument
from scripts.benchmarks.common.cores import usable_cores
from scripts.benchmarks.common.peers import ModelShape

NUMERICS, KERNELS, TRAINING, DECODING = "numerics", "kernels", "training", "decoding"
PROFILE = "profile"
SECTIONS = (NUMERICS, KERNELS, TRAINING, DECODING, PROFILE)

GPU_SHAPE = ModelShape(hidden_size=512, num_attention_heads=8, feed_forward_size=2048)
SMOKE_SHAPE = ModelShape(
    num_hidden_layers=2, hidden_size=32, num_attention_heads=2, feed_forward_size=32, num_hashes=2,
    num_buckets=4, attn_chunk_length=16,
)  # fmt: skip

VARIANTS = {
    "auto": "reformer_hf, kernels where they run",
    "blockwise": "reformer_hf, block by block",
    "stock": "transformers' Reformer",
    "gpt2": "full attention (GPT-2, SDPA)",
    "gated_deltanet": "Gated DeltaNet (flash-linear-attention)",
}
"""Names of the variants in arguments and files, to names in tables."""
OURS = ("auto", "blockwise")
LINEAR = "gated_deltanet"


class GpuCase(NamedTuple):
    """What is measured.

    Attributes:
        section: one of `SECTIONS`.
        variant: of the model; of numerics the dtype, of kernels their direction.
        length: tokens of a row, or of the context.
    """

    section: str
    variant: str
    length: int

    def __str__(self) -> str:
        return f"{self.section}, {self.variant}, {self.length:,} tokens"


@dataclass
class GpuBenchmarkArguments:
    """What is measured, and how long."""

    output_dir: str = argument("outputs/benchmark_gpu", "Output folder.")
    smoke: bool = argument(False, "Tiny sizes on the CPU, to see that it runs.")
    device: str = argument("cuda", "Where it runs.")
    sections: list[str] = argument(list(SECTIONS), f"What to measure: {', '.join(SECTIONS)}.")
    variants: list[str] = argument(list(VARIANTS), f"Models: {', '.join(VARIANTS)}.")
    lengths: list[int] = argument([2**n for n in range(10, 21, 2)], "Tokens of a training row.")
    contexts: list[int] = argument([2**10, 2**14, 2**16, 2**18], "Tokens before a decoding step.")
    max_length_peers: int = argument(2**18, "Longest length of `stock` and `gpt2`.")
    tokens_per_batch: int = argument(2**14, "Tokens of all rows; longer rows come one at a time.")
    kernel_length: int = argument(2**16, "Tokens of the row that the kernels alone attend.")
    warmup: int = argument(2, "Steps before those that are timed.")
    steps: int = argument(5, "Timed steps of training.")
    tokens: int = argument(50, "Timed tokens of decoding.")
    max_seconds: float = argument(20.0, "Seconds after which a case takes no further steps.")
    num_threads: int = argument(usable_cores(), "Threads of torch on the CPU.")

    def resolved(self) -> "GpuBenchmarkArguments":
        """The arguments that a smoke test runs with, or these."""
        if not self.smoke:
            return self
        return replace(
            self, device="cpu", lengths=[64], contexts=[64], tokens_per_batch=64, kernel_length=64,
            warmup=1, steps=1, tokens=2,
        )  # fmt: skip

    def problem(self) -> str | None:
        """The first field that holds an unknown name, or None."""
        for name, known in (("sections", SECTIONS), ("variants", tuple(VARIANTS))):
            if unknown := set(getattr(self, name)) - set(known):
                return f"unknown {name} {sorted(unknown)}: choose from {list(known)}"
        return None

    def cases(self) -> list[GpuCase]:
        """What is measured, the shortest lengths first."""
        cases = [GpuCase(NUMERICS, dtype, 300) for dtype in ("float32", "bfloat16", "float16")]
        cases += [GpuCase(KERNELS, way, self.kernel_length) for way in ("forward", "training")]
        for section, lengths in ((TRAINING, self.lengths), (DECODING, self.contexts)):
            for length in sorted(lengths):
                peers = () if length <= self.max_length_peers else ("stock", "gpt2")
                cases += [GpuCase(section, v, length) for v in self.variants if v not in peers]
        if OURS[0] in self.variants:
            cases.append(GpuCase(PROFILE, OURS[0], max(self.contexts)))
        return [case for case in cases if case.section in self.sections]
