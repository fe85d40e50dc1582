"""The tables of the GPU benchmark."""

from collections.abc import Sequence

from scripts.benchmarks.common.tables import length_table, table
from scripts.benchmarks.gpu.arguments import (
    DECODING,
    KERNELS,
    NUMERICS,
    PROFILE,
    TRAINING,
    VARIANTS,
)
from scripts.benchmarks.gpu.linear import PACKAGE


def render(header: dict, runs: Sequence[dict]) -> str:
    """results.md of header and runs."""
    machine = header["machine"]
    versions = ", ".join(
        f"{name} {found}"
        for name in ("torch", "triton", "transformers", PACKAGE)
        if (found := machine["versions"].get(name))
    )
    device = machine["accelerator"] if header["settings"]["device"] == "cuda" else None
    lines = [
        "# On a GPU" if device else "# A trial of the GPU benchmark on a CPU",
        "",
        f"{machine['date'][:10]}, {device or machine['processor']}, {versions}. "
        f"{header['summary']}",
        "",
    ]
    done = [run for run in runs if "error" not in run]
    lines += _attention_section(done)
    lines += _length_section(done, TRAINING, "Training", "tokens_per_second", ",.0f")
    lines += _length_section(done, DECODING, "Decoding", "milliseconds_per_token", ",.2f")
    lines += [line for run in done if run["section"] == PROFILE for line in _profile_section(run)]
    failed = [["all", variant, "-", reason] for variant, reason in header["left_out"].items()]
    failed += [[str(run["section"]), run["variant"], f"{run['length']:,}", run["error"]]
               for run in runs if "error" in run]  # fmt: skip
    if failed:
        lines += [
            "## What failed or is missing",
            "",
            *table(["section", "variant", "tokens", "error"], failed),
        ]
    return "\n".join(lines)


def _attention_section(runs: Sequence[dict]) -> list[str]:
    errors = [
        [run["variant"], run["implementation"]]
        + [f"{run[f'{part}_{name}']:.1e}" for part in ("output", "gradient")
           for name in ("auto", "eager")]
        for run in runs if run["section"] == NUMERICS
    ]  # fmt: skip
    columns = ["dtype", "default is", "output", "output, eager", "gradient", "gradient, eager"]
    lines = ["## Errors against float64", "", *table(columns, errors)] if errors else []
    kernels = [_kernel_cells(run) for run in runs if run["section"] == KERNELS]
    columns = ["pass", "how", "tokens", "ms", "TFLOP/s", "GB/s", "of peak FLOP", "of peak bytes"]
    return lines + (["## One layer's attention", "", *table(columns, kernels)] if kernels else [])


def _kernel_cells(run: dict) -> list[str]:
    seconds, shares = run["seconds"], ("share_of_flop", "share_of_bytes")
    return [
        *(run["variant"], run["implementation"], f"{run['length']:,}", f"{1000 * seconds:.3f}"),
        *(f"{run['flop'] / seconds / 1e12:.2f}", f"{run['bytes'] / seconds / 1e9:.0f}"),
        *(f"{run[key]:.1%}" if key in run else "-" for key in shares),
    ]


def _profile_section(run: dict) -> list[str]:
    def rows(key: str) -> list[list[str]]:
        whole = [sum(one[place] for one in run["parts"]) for place in (2, 3)]
        return [
            [name, f"{kernels:.1f}", f"{host:.3f}", f"{device:.3f}",
             *(f"{part / all_parts:.1%}" if all_parts else "-"
               for part, all_parts in zip((host, device), whole, strict=True))]
            for name, kernels, host, device in run[key]
        ]  # fmt: skip

    columns = ["kernels", "ms of host", "ms of device", "of host", "of device"]
    return [
        f"## A decoding step after {run['length']:,} tokens, by part",
        "",
        f"Mean of {run['steps']} steps, with the profiler's own overhead.",
        "",
        *table(["part", *columns], rows("parts")),
        f"The {len(run['operators'])} operators that take longest, without those that they call:",
        "",
        *table(["operator", *columns], rows("operators")),
    ]


def _length_section(
    runs: Sequence[dict], section: str, title: str, value: str, form: str
) -> list[str]:
    by_case = {(run["variant"], run["length"]): run for run in runs if run["section"] == section}
    if not by_case:
        return []
    lengths = sorted({length for _, length in by_case})

    def rows(key: str, form: str, scale: float = 1.0) -> list:
        def cell(variant: str, length: int) -> str:
            found = by_case.get((variant, length), {}).get(key)
            return "-" if found is None else f"{found * scale:{form}}"

        return [
            (name, lambda length, variant=variant: cell(variant, length))
            for variant, name in VARIANTS.items()
        ]

    return [
        *(f"## {title}: {value.replace('_', ' ')}", ""),
        *length_table(lengths, rows(value, form), "tokens"),
        *(f"## {title}: peak memory of the device in GiB", ""),
        *length_table(lengths, rows("peak_bytes", ",.2f", 2.0**-30), "tokens"),
    ]
