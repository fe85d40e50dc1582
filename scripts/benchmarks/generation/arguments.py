"""The arguments of the generation benchmark."""

from dataclasses import dataclass, field

from scripts.benchmarks.common.cores import usable_cores
from scripts.benchmarks.common.peers import OURS, VARIANTS, ModelShape
from scripts.benchmarks.generation.report import Case
from scripts.benchmarks.generation.run import Run


@dataclass
class BenchmarkArguments:
    """What is measured, and how long."""

    output_dir: str = field(
        default="outputs/benchmark_generation", metadata={"help": "Output folder."}
    )
    variants: list[str] = field(
        default_factory=lambda: list(VARIANTS), metadata={"help": "Models to measure."}
    )
    contexts: list[int] = field(
        default_factory=lambda: [2**10, 2**12, 2**14, 2**16, 2**18],
        metadata={"help": "Tokens in the cache before the first step."},
    )
    repeats: int = field(default=3, metadata={"help": "Runs of each case."})
    steps: int = field(default=64, metadata={"help": "Timed steps of a run."})
    warmup: int = field(default=4, metadata={"help": "Steps before them."})
    max_seconds_per_run: float = field(
        default=30.0,
        metadata={"help": "Steps end after this many seconds, but not before the third."},
    )
    max_waiting: float = field(
        default=0.05,
        metadata={
            "help": "Seconds per second that threads may wait for a core while a run decodes; "
            "beyond that other processes disturbed it, and it does not count."
        },
    )
    attempts: int = field(
        default=3, metadata={"help": "Times that a disturbed run is done in one call."}
    )
    timeout: float = field(
        default=1800.0, metadata={"help": "Seconds after which a run is given up as failed."}
    )
    batch_size: int = field(default=16, metadata={"help": "Rows of the batched runs of `band`."})
    batch_contexts: list[int] = field(
        default_factory=lambda: [2**10, 2**14], metadata={"help": "Contexts of the batched runs."}
    )
    max_prefill: int = field(
        default=2**14,
        metadata={"help": "Above it transformers' models start from random states."},
    )
    prefill_tokens: int = field(
        default=2**13, metadata={"help": "Tokens in a block of a prefill of `band`."}
    )
    max_context_chunk: int = field(default=2**16, metadata={"help": "Longest context of `chunk`."})
    max_context_stock: int = field(default=2**16, metadata={"help": "Longest context of `stock`."})
    max_context_gpt2: int = field(default=2**16, metadata={"help": "Longest context of `gpt2`."})
    num_threads: int = field(
        default_factory=usable_cores, metadata={"help": "Threads of torch; all cores by default."}
    )
    profile: bool = field(
        default=False,
        metadata={"help": "Count the operators of a step of `band` at the first context instead."},
    )

    def problem(self, shape: ModelShape) -> str | None:
        """What is wrong with the arguments, or None."""
        unknown = set(self.variants) - set(VARIANTS)
        if unknown:
            return f"unknown variants {sorted(unknown)}: choose from {list(VARIANTS)}"
        for name in ("repeats", "attempts", "steps", "num_threads", "batch_size", "prefill_tokens"):
            if getattr(self, name) < 1:
                return f"{name}={getattr(self, name)} must be at least 1"
        if not self.contexts or min(self.contexts) < 1:
            return f"contexts={self.contexts}: give at least one, and each at least 1"
        needed = max(self.contexts) + self.warmup + self.steps
        if needed > shape.max_positions:
            return (
                f"max_positions={shape.max_positions}, but the longest context and its steps "
                f"need {needed}: make max_positions larger or contexts shorter"
            )
        return None

    def allows(self, case: Case) -> bool:
        """Whether a case is within the longest context of its variant."""
        return case.context <= getattr(self, f"max_context_{case.variant}", case.context)

    def run_of(self, case: Case, repeat: int) -> Run:
        """The run of a case in a repeat."""
        return Run(
            variant=case.variant,
            context=case.context,
            batch=case.batch,
            repeat=repeat,
            random_states=case.variant not in OURS and case.context > self.max_prefill,
            steps=self.steps,
            warmup=self.warmup,
            max_seconds=self.max_seconds_per_run,
            prefill_tokens=self.prefill_tokens,
            num_threads=self.num_threads,
        )
