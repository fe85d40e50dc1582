"""What is alive at the peak of a training step on a long row, by the code that made it.

    python -m scripts.studies.million.alive                      # sizes of the million-token step
    python -m scripts.studies.million.alive --preset crime-and-punishment

Profiles forward and backward on `--num_tokens` tokens, with parameters and their gradients left
out. A process needs more than this: its libraries, and what the allocator does not use again. Most
sizes grow with the tokens, so a shorter row shows the shares of a long one. Writes a table, and
JSON, to the output folder, by the name of the preset.
"""

import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch.profiler import ProfilerActivity, profile
from transformers import set_seed

from reformer_hf import ReformerHFForCausalLM
from reformer_hf.training.arguments import argument
from reformer_hf.training.record import machine_record
from reformer_hf.training.storage import write_json
from scripts.benchmarks.common.arguments import make_parser
from scripts.benchmarks.common.tables import table
from scripts.studies.library import read_ids
from scripts.studies.million.arguments import StepArguments

PACKAGE, NODE, OPERATOR = "reformer_hf/", "autograd::engine::evaluate_function: ", "aten::"
SHOWN = 0.02  # of a stream: smaller ones are added up


class Made(NamedTuple):
    """What took memory.

    Attributes:
        place: file, line and function of the package, or a node of autograd; the innermost.
        operator: of torch, the outermost in it.
    """

    place: str
    operator: str


class Alive(NamedTuple):
    """Memory at the peak.

    Attributes:
        total: bytes.
        made: bytes by what took them.
    """

    total: int
    made: Counter[Made]


@dataclass
class AliveArguments(StepArguments):
    """What is measured. Sizes that are left out are the preset's."""

    output_dir: str = argument("outputs/alive", "Output folder.")
    num_tokens: int | None = argument(2**15, "Tokens of the sequence.")
    num_hidden_layers: int = argument(4, "Layers: local, LSH in turn.")
    # Short like the row: pieces of 4,096 would be the peak here, and are nothing to a million.
    chunk_size_feed_forward: int = argument(512, "Tokens in the feed-forward sub-layer at a time.")
    chunk_size_lm_head: int = argument(512, "Tokens whose logits are held at a time.")


def measure(arguments: AliveArguments) -> Alive:
    """Profile the passes of a second step, which has the gradients of the first."""
    assert arguments.num_tokens
    set_seed(arguments.seed)
    ids = read_ids(arguments.num_tokens)
    model = ReformerHFForCausalLM(arguments.config()).train()

    def passes() -> None:
        with torch.autocast("cpu", torch.bfloat16, enabled=arguments.bf16):
            loss = model(ids, labels=ids).loss
        loss.backward()

    passes()
    with profile(
        activities=[ProfilerActivity.CPU], profile_memory=True, with_stack=True
    ) as profiler:
        passes()
    assert profiler.profiler is not None and profiler.profiler.kineto_results is not None
    return at_peak(profiler.profiler.kineto_results.experimental_event_tree())


def at_peak(roots: list[Any]) -> Alive:
    """What is alive when most is.

    Args:
        roots: of the profiler's tree of events.
    """
    events = sorted(allocations(roots), key=lambda event: event.start_time_ns)
    total, peak, end = 0, 0, 0
    for index, event in enumerate(events):
        total += event.extra_fields.alloc_size
        if total > peak:
            peak, end = total, index + 1
    alive: dict[int, tuple[Made, int]] = {}
    for event in events[:end]:
        pointer, size = event.extra_fields.ptr, event.extra_fields.alloc_size
        if size > 0:
            alive[pointer] = maker(event), size
        else:
            alive.pop(pointer, None)  # one of before the profile
    made: Counter[Made] = Counter()
    for origin, size in alive.values():
        made[origin] += size
    return Alive(peak, made)


def allocations(events: list[Any]) -> Iterator[Any]:
    """Where memory comes and goes, in the order of the tree."""
    waiting = [*reversed(events)]
    while waiting:
        event = waiting.pop()
        waiting += reversed(event.children)
        if hasattr(event.extra_fields, "alloc_size"):
            yield event


def maker(event: Any) -> Made:
    """What took memory; see `Made`."""
    operator = ""
    while (event := event.parent) is not None:
        if event.name.startswith(OPERATOR):
            operator = event.name.removeprefix(OPERATOR)
        if event.name.startswith((PACKAGE, NODE)):
            place = event.name.removeprefix(PACKAGE)
            return Made(place.replace(NODE, "gradient: ").removesuffix("Backward0"), operator)
    return Made("outside the package", operator)


def report(arguments: AliveArguments, alive: Alive) -> str:
    """The memory as a table, in streams: tokens times hidden size in float32."""
    assert arguments.num_tokens and arguments.hidden_size
    stream = 4 * arguments.num_tokens * arguments.hidden_size
    shown = [(*made, size) for made, size in alive.made.most_common() if size > SHOWN * stream]
    rest = alive.total - sum(size for *_, size in shown)
    rows = [[*made, f"{size / stream:.2f}"] for *made, size in [*shown, ("the rest", "", rest)]]
    rows.append(["all", "", f"{alive.total / stream:.2f}"])
    title = (
        f"{arguments.num_tokens:,} tokens of {arguments.hidden_size} numbers, scope "
        f"{arguments.attention_scope}, {'bfloat16' if arguments.bf16 else 'float32'}, "
        f"{arguments.num_hidden_layers} layers: {alive.total / 2**20:,.0f} MiB are alive at the "
        f"peak, without parameters and their gradients; a stream has {stream / 2**20:,.0f} MiB."
    )
    return "\n".join([title, "", *table(["made by", "operator", "streams"], rows)])


def main(argv: list[str] | None = None) -> int:
    """Measure, and write the result."""
    parser = make_parser([AliveArguments], "studies.million.alive", __doc__)
    (arguments,) = parser.parse_args_into_dataclasses(argv)
    if arguments.num_threads:
        torch.set_num_threads(arguments.num_threads)
    alive = measure(arguments)
    said = report(arguments, alive)
    print(said)
    folder = Path(arguments.output_dir)
    folder.mkdir(parents=True, exist_ok=True)
    name = arguments.preset + ("_bf16" if arguments.bf16 else "")
    (folder / f"{name}.md").write_text(said, encoding="utf-8")
    made = [origin._asdict() | {"bytes": size} for origin, size in alive.made.most_common()]
    record = {"machine": machine_record(), "arguments": asdict(arguments), "bytes": alive.total}
    write_json(folder / f"{name}.json", record | {"made": made})
    return 0


if __name__ == "__main__":
    sys.exit(main())
