"""Tables and the plot of the benchmark of sparse layers, from the runs in results.json."""

from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median

from scripts.benchmarks.common.plot import new_figure
from scripts.benchmarks.common.tables import Repeats, describe_machine, disturbance, spread, table
from scripts.benchmarks.sparse.arguments import DTYPES, SHAPES, VARIANTS, Case
from scripts.benchmarks.sparse.weights import PARTS

BAR = 0.16
"""Width of a bar; all variants stand side by side."""


class Results(Repeats[Case]):
    """The recorded runs by case and repeat.

    Args:
        runs: as in results.json; only those that count enter the tables.
    """

    def __init__(self, runs: Sequence[dict]):
        super().__init__(runs, lambda run: Case(*(run[name] for name in Case._fields)))

    def groups(self) -> list[tuple[str, str, int]]:
        """Shapes, dtypes and numbers of threads of finished runs, in order."""
        found = {(case.shape, case.dtype, case.threads) for case in self.finished}
        return sorted(found, key=lambda each: (list(SHAPES).index(each[0]), *map(str, each[1:])))

    def first(self, case: Case) -> dict:
        """A run of a case; its bytes and parameters are those of all."""
        return next(iter(self.finished[case].values()))


def milliseconds(run: dict) -> float:
    """Of a step, which is a token."""
    return run["ms_per_step"]


def part_of_layer(part: str) -> Callable[[dict], float]:
    """Milliseconds of a part, of one layer if layers have it."""
    return lambda run: run["ms_of_parts"][part] / (1 if part == "head" else run["layers"])


def layers(run: dict) -> float:
    """Milliseconds of attention and feed-forward of all layers."""
    return run["ms_of_parts"]["attention"] + run["ms_of_parts"]["feed_forward"]


def read_bytes(run: dict) -> int:
    """Bytes of weights of a token."""
    return sum(run["bytes_of_parts"].values())


def group_table(results: Results, shape: str, dtype: str, threads: int) -> list[str]:
    """The variants of a shape, a dtype and a number of threads."""
    dense, rows = Case(shape, "dense", dtype, threads), []
    for name, words in VARIANTS.items():
        case = Case(shape, name, dtype, threads)
        if case not in results.finished:
            continue
        run = results.first(case)
        floor = 1000 * read_bytes(run) / run["bytes_per_second"]
        ratios = [spread(results.paired(dense, case, value)) for value in (milliseconds, layers)]
        parts = [results.spread(case, part_of_layer(part)) for part in PARTS]
        rows.append(
            [
                words,
                f"{run['parameters'] / 1e6:,.0f}",
                f"{read_bytes(run) / 1e6:,.1f}",
                f"{floor:,.2f}",
                results.spread(case, milliseconds),
                *ratios,
                *parts,
                str(len(results.finished[case])),
            ]
        )
    columns = ["layers", "parameters, M", "weights read, MB", "ms to read them"]
    columns += ["ms per token", "dense / this", "the same, layers alone"]
    columns += ["attention of a layer, ms", "feed-forward of a layer, ms", "head, ms"]
    heading = f"## {shape}, {dtype}, {threads} threads"
    return [heading, "", *table([*columns, "repeats"], rows)]


def dtype_table(results: Results) -> list[str]:
    """How much faster a token is with weights of fewer bytes."""
    rows = []
    for shape, dtype, threads in results.groups():
        for name, words in VARIANTS.items():
            case = Case(shape, name, dtype, threads)
            ratios = [
                spread(results.paired(case._replace(dtype=other), case, milliseconds))
                for other in DTYPES[:2]
            ]
            if case in results.finished and dtype != DTYPES[0]:
                rows.append([shape, words, str(threads), dtype, *ratios])
    columns = ["shape", "layers", "threads", "weights", "float32 / this", "bfloat16 / this"]
    return ["## Weights of fewer bytes", "", *table(columns, rows)] if rows else []


def render(header: dict, runs: Sequence[dict]) -> str:
    """The results as Markdown."""
    results = Results(runs)
    lines = [
        describe_machine(header),
        "",
        "Milliseconds are medians over the steps of a run; here the median and range over repeats. "
        "Ratios are of runs of the same repeat. `ms to read them`: the weights that a token reads, "
        "at the speed at which a product of matrix and vector reads float32 memory. "
        + disturbance(results, "waiting", "decoding"),
        "",
    ]
    for group in results.groups():
        lines += group_table(results, *group)
    lines += dtype_table(results)
    lines += results.failure_section(["case"], lambda case: [str(case)])
    return "\n".join(lines).rstrip() + "\n"


def plot(runs: Sequence[dict], folder: Path) -> None:
    """Draw medians of milliseconds per token as bars, a panel for each shape."""
    results = Results(runs)
    shapes = list(dict.fromkeys(shape for shape, _, _ in results.groups()))
    if not shapes:
        return
    figure = new_figure(5.5 * len(shapes), 4)
    for axes, shape in zip(figure.subplots(1, len(shapes), squeeze=False)[0], shapes, strict=True):
        groups = [group for group in results.groups() if group[0] == shape]
        for index, (name, words) in enumerate(VARIANTS.items()):
            points = [
                (place + BAR * index, median(values))
                for place, (_, dtype, threads) in enumerate(groups)
                if (case := Case(shape, name, dtype, threads)) in results.finished
                if (values := list(results.per_repeat(case, milliseconds).values()))
            ]
            if points:
                axes.bar(*zip(*points, strict=True), width=BAR, color=f"C{index}", label=words)
        names = [f"{dtype}\n{threads} threads" for _, dtype, threads in groups]
        axes.set_xticks(
            [place + BAR * (len(VARIANTS) - 1) / 2 for place in range(len(groups))], names
        )
        axes.set(ylabel="milliseconds per token", title=shape)
        axes.grid(alpha=0.3, axis="y")
        axes.margins(y=0.4)  # room for the legend
        axes.legend(fontsize=8)
    figure.savefig(folder / "results.png", dpi=120)
