"""What the studies of the paper's claims share: arguments, headers, lines of what was published."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch
from transformers import HfArgumentParser

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
