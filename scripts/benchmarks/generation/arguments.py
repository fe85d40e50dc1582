"""The arguments of the generation benchmark, and the runs that they ask for."""

from collections.abc import Iterator
from dataclasses import dataclass

from reformer_hf.training.arguments import argument
from scripts.benchmarks.common.arguments import BenchmarkArguments, turned
from scripts.benchmarks.common.peers import OURS, VARIANTS, ModelShape
from scripts.benchmarks.generation.report import Case


@dataclass
class GenerationArguments(BenchmarkArguments):
    """What is measured, and how long."""

    output_dir: str = argument("outputs/benchmark_generation", "Output folder.")
    variants: list[str] = argument(list(VARIANTS), f"Models to measure: {', '.join(VARIANTS)}.")
    contexts: list[int] = argument(
        [2**10, 2**12, 2**14, 2**16, 2**18], "Tokens in the cache before the first step."
    )
    steps: int = argument(64, "Timed steps of a run.")
    warmup: int = argument(4, "Steps before them.")
    max_seconds_per_run: float = argument(
        30.0, "Steps end after this many seconds, but not before the third."
    )
    batch_size: int = argument(16, "Rows of the batched runs of `band`.")
    batch_contexts: list[int] = argument([2**10, 2**14], "Contexts of the batched runs.")
    max_prefill: int = argument(2**14, "Above it transformers' models start from random states.")
    prefill_tokens: int = argument(2**13, "Tokens in a block of a prefill of `band`.")
    max_context_chunk: int = argument(2**16, "Longest context of `chunk`.")
    max_context_stock: int = argument(2**16, "Longest context of `stock`.")
    max_context_gpt2: int = argument(2**16, "Longest context of `gpt2`.")
    profile: bool = argument(
        False, "Count the operators of a step of `band` at the first context instead."
    )

    def problem(self, shape: ModelShape) -> str | None:
        """What is wrong with the arguments, or None."""
        problem = self.first_problem({"variants": VARIANTS}, ("batch_size", "prefill_tokens"))
        if problem:
            return problem
        if not self.contexts or min(self.contexts) < 1:
            return f"contexts={self.contexts}: give at least one, and each at least 1"
        needed = max(self.contexts) + self.warmup + self.steps
        if needed > shape.max_positions:
            return (
                f"max_positions={shape.max_positions}, but the longest context and its steps "
                f"need {needed}: make max_positions larger or contexts shorter"
            )
        return None

    def cases(self) -> Iterator[tuple[Case, int]]:
        """All cases and repeats: within a repeat by context, there in turns that rotate."""
        for repeat in range(self.repeats):
            for context in self.contexts:
                cases = [Case(variant, context, 1) for variant in self.variants]
                if "band" in self.variants and context in self.batch_contexts:
                    cases.append(Case("band", context, self.batch_size))
                for case in turned(cases, repeat):
                    if context <= getattr(self, f"max_context_{case.variant}", context):
                        yield case, repeat

    def needs_random_states(self, case: Case) -> bool:
        """Whether a prefill of a case would take longer than the benchmark."""
        return case.variant not in OURS and case.context > self.max_prefill
