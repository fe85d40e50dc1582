"""What the studies of the paper's claims share: arguments, headers, lines of what was published."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch
from transformers import HfArgumentParser

from reformer_hf.ops.hashing import NumBuckets, default_num_buckets
from reformer_hf.training.arguments import argument
from reformer_hf.training.record import machine_record
from scripts.benchmarks.common.arguments import make_parser

RESULTS = "scripts/results/reproduce"
PAPER = "Kitaev, Kaiser and Levskaya 2020, arXiv 2001.04451"


@dataclass
class ClaimArguments:
    """What all studies have in common."""

    output_dir: str = argument("outputs/reproduce", "Folder of weights; each study has its own.")
    results_dir: str = argument(RESULTS, "Folder of results; each study has its own in it.")
    num_threads: int = argument(1, "Threads of torch.")
    smoke: bool = argument(False, "Tiny sizes, to see that everything runs.")

    def __post_init__(self) -> None:
        if self.smoke:
            if self.results_dir == RESULTS:  # which are for what was measured
                self.results_dir = str(Path(self.output_dir, "smoke"))
            for name, value in self.smoke_values().items():
                setattr(self, name, value)

    def smoke_values(self) -> dict[str, Any]:
        """Arguments that are tiny with `smoke`."""
        return {}


ArgumentsT = TypeVar("ArgumentsT", bound=ClaimArguments)


def parse(
    kind: type[ArgumentsT], claim: str, description: str | None, argv: Sequence[str] | None
) -> tuple[HfArgumentParser, ArgumentsT]:
    """Read the command line of a study, and set the threads of torch.

    Args:
        kind: dataclass of its arguments.
        claim: its module here.
        description: for its help.
        argv: words behind the claim.
    """
    parser = make_parser([kind], f"studies.reproduce {claim}", description)
    (arguments,) = parser.parse_args_into_dataclasses(None if argv is None else list(argv))
    torch.set_num_threads(arguments.num_threads)
    return parser, arguments


def make_header(arguments: ClaimArguments, summary: str, settings: dict[str, Any]) -> dict:
    """What all runs have in common; runs with other `settings` are not mixed with them."""
    return {
        "machine": machine_record() | {"torch_threads": arguments.num_threads},
        "summary": summary,
        "settings": json.loads(json.dumps(settings)),  # as an earlier call's file has them
    }


def chunk_length(scope: str, window: int) -> int:
    """Tokens of a chunk of LSH attention in which a query looks at so many places in a round.

    In the `band` scope those are as many before the own one, in the `chunk` scope the own chunk and
    the one before it.
    """
    return window if scope == "band" else window // 2


def num_buckets(scope: str, window: int, seq: int) -> NumBuckets:
    """Buckets for rows of so many tokens.

    In the `chunk` scope the paper's, whose mean bucket is half a chunk; in the `band` scope this
    package's, whose mean bucket fills the window.
    """
    return default_num_buckets(seq, window if scope == "band" else max(1, window // 4))
