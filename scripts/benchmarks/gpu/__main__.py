"""Measure attention and whole models on a GPU, in one command of some minutes.

Needs torch with CUDA, Triton, which it brings, and transformers. Checks the numerics of the kernels
on the device; times them against its peaks; then training and decoding of this package's Reformer,
with its kernels and block by block, of transformers' Reformer, of full attention by SDPA, and of
Gated DeltaNet where flash-linear-attention is installed, of the same widths in bfloat16; and where
a decoding step spends its time. Writes results.json and results.md after every case, and goes on
where it was interrupted. `--smoke` runs everything on a CPU in tiny sizes, which says nothing of
speed.
"""

import gc
import sys
from contextlib import suppress
from functools import partial
from importlib.metadata import PackageNotFoundError, version

import torch

from reformer_hf.training.record import machine_record
from scripts.benchmarks.common.arguments import make_parser
from scripts.benchmarks.common.runs import Planned, do_runs, source_digest
from scripts.benchmarks.gpu.arguments import (
    GPU_SHAPE,
    KERNELS,
    LINEAR,
    NUMERICS,
    PROFILE,
    SMOKE_SHAPE,
    TRAINING,
    GpuBenchmarkArguments,
    GpuCase,
)
from scripts.benchmarks.gpu.kernels import examine, time_kernels
from scripts.benchmarks.gpu.linear import PACKAGE, why_not
from scripts.benchmarks.gpu.models import decode, train
from scripts.benchmarks.gpu.profile import profile_decode
from scripts.benchmarks.gpu.report import render


def measure(case: GpuCase, arguments: GpuBenchmarkArguments) -> dict:
    """Measure a case; what fails, as for want of memory, is an `error`."""
    shape = SMOKE_SHAPE if arguments.smoke else GPU_SHAPE
    try:
        if case.section == NUMERICS:
            return examine(case, arguments)
        if case.section == KERNELS:
            return time_kernels(case, arguments, shape)
        if case.section == PROFILE:
            return profile_decode(case, arguments, shape)
        return (train if case.section == TRAINING else decode)(case, arguments, shape)
    except Exception as error:  # Triton's are of no common class
        first_line = str(error).partition("\n")[0]
        return {"error": f"{type(error).__name__}: {first_line[:200]}"}
    finally:
        if arguments.device == "cuda":
            gc.collect()  # or the next case would begin with this one's memory


def leave_out_missing(arguments: GpuBenchmarkArguments) -> dict[str, str]:
    """Take away the variants that cannot run; returns their reasons."""
    reason = why_not(torch.device(arguments.device)) if LINEAR in arguments.variants else None
    if reason is None:
        return {}
    arguments.variants = [variant for variant in arguments.variants if variant != LINEAR]
    return {LINEAR: reason}


def versions() -> dict[str, str | None]:
    """Of packages that bring kernels; None of those that are missing."""
    found: dict[str, str | None] = dict.fromkeys(("triton", PACKAGE))
    for name in found:
        with suppress(PackageNotFoundError):
            found[name] = version(name)
    return found


def main(argv: list[str] | None = None) -> int:
    """Run what is missing; ends with status 1 if a case failed."""
    parser = make_parser([GpuBenchmarkArguments], "benchmarks.gpu", __doc__)
    (arguments,) = parser.parse_args_into_dataclasses(argv)
    if problem := arguments.problem():
        parser.error(problem)
    arguments = arguments.resolved()
    if arguments.device == "cuda" and not torch.cuda.is_available():
        parser.error("device=cuda, but torch finds no GPU: run it where there is one, or --smoke")
    torch.set_num_threads(arguments.num_threads)
    shape = SMOKE_SHAPE if arguments.smoke else GPU_SHAPE
    machine = machine_record()
    machine["versions"] |= versions()
    left_out = leave_out_missing(arguments)
    settings = {
        "device": arguments.device,
        "smoke": arguments.smoke,
        "accelerator": machine["accelerator"],
        "versions": machine["versions"],
        "source": source_digest(),
    }
    summary = f"{shape}, bfloat16 autocast, random weights; medians of {arguments.steps} steps."
    header = {"machine": machine, "summary": summary, "settings": settings, "left_out": left_out}
    planned = [
        Planned(case._asdict(), str(case), partial(measure, case, arguments))
        for case in arguments.cases()
    ]
    return do_runs(parser, arguments.output_dir, header, planned, render)


if __name__ == "__main__":
    sys.exit(main())
