"""Cases of the Triton kernels, which run in a process of their own; see `test_triton_attention.py`.

`python tests/ops/triton_cases.py` runs all by Triton's interpreter and prints, as JSON, what went
wrong in each. The interpreter must be chosen before Triton is imported, and the package as a whole
imports it with transformers: here the package is a name that leads to `ops`, and nothing more.
"""

import itertools
import json
import math
import os
import sys
import time
import traceback
import types
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

ROOT = Path(__file__).parents[2]
if __name__ == "__main__":
    os.environ["TRITON_INTERPRET"] = "1"
    package = types.ModuleType("reformer_hf")
    package.__path__ = [str(ROOT / "reformer_hf")]
    sys.modules["reformer_hf"] = package

from hypothesis import given, settings  # noqa: E402
from hypothesis import strategies as st  # noqa: E402

from reformer_hf.ops import long_order, triton_attention  # noqa: E402
from reformer_hf.ops.attention import local_attention, lsh_attention  # noqa: E402
from reformer_hf.ops.block_order import Sizes  # noqa: E402
from reformer_hf.ops.chunk_scope import chunk_attention  # noqa: E402
from reformer_hf.ops.long_order import LongOrder, segment_order  # noqa: E402
from reformer_hf.ops.sorting import SortOrder, keep_order, sort_by_bucket  # noqa: E402
from reformer_hf.ops.window import Window  # noqa: E402
from tests.ops import oracle  # noqa: E402

HOW = {"implementation": "triton"}
TOLERANCE = 2e-6
"""Of outputs, some ten roundings of float32 in numbers below 4; of gradients 100 times as much."""
CAUSAL, BOTH_WAYS = (1, 0, True), (1, 1, False)
CASES: dict[str, Callable[[], None]] = {}


def case(*arguments: object) -> Callable:
    """Keep a function, with these arguments, as a case."""

    def keep(function: Callable) -> Callable:
        name = "-".join([function.__name__, *map(str, arguments)]).replace(" ", "")
        CASES[name] = lambda: function(*arguments)
        return function

    return keep


def generator(seed: int = 1) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def compare(fast: Callable, expected: Callable, inputs: list, documents: Tensor | None) -> None:
    """Outputs and gradients in float32 against the oracle's in float64."""
    compared = None if documents is None else documents == 0
    narrow = lambda *vectors: (fast(*(x.float() for x in vectors))[0].double(), None)  # noqa: E731
    oracle.assert_equal([("triton", narrow)], expected, inputs, compared)


def check_lsh(
    seq: int,
    window: tuple[int, int, bool],
    padding: str = "none",
    scope: str = "band",
    rounds: int = 2,
    buckets: Tensor | int = 3,
    chunk: int = 4,
) -> None:
    seeded = generator()
    query, value = (oracle.random_heads(seq, seeded) for _ in range(2))
    documents = oracle.make_documents(padding, seq, seeded)
    count = buckets if isinstance(buckets, int) else int(buckets.max()) + 1
    if isinstance(buckets, int):
        shape = (oracle.BATCH, oracle.HEADS, rounds, seq)
        buckets = torch.randint(count, shape, generator=seeded)
    before, after, causal = window
    options = {"chunk_length": chunk, "num_chunks_before": before, "num_chunks_after": after}
    if scope == "chunk":
        options["causal"] = causal
        fast = oracle.with_window(options, scope=scope)
    else:
        fast = oracle.with_window(options, causal=causal)
    attend, truth = (
        (chunk_attention, oracle.chunk_lsh)
        if scope == "chunk"
        else (lsh_attention, oracle.band_lsh)
    )
    compare(
        lambda q, v: attend(q, v, buckets, documents, num_buckets=count, **fast, **HOW),
        lambda q, v: truth(q, v, buckets, documents, **options),
        [query, value],
        documents if scope == "chunk" else None,
    )


@case(1, CAUSAL)
@case(17, (2, 0, True), "left")
@case(11, BOTH_WAYS, "packed")
def band(*arguments):
    check_lsh(*arguments)


@case(13, CAUSAL, "left")
@case(11, BOTH_WAYS, "holes")
def chunks(*arguments):
    check_lsh(*arguments, "chunk")


@case(13, CAUSAL, "packed", "band")
@case(11, BOTH_WAYS, "left", "band")
@case(9, (1, 0, False), "none", "chunk")
@case(1, (0, 0, True), "none", "band")
def local(seq, window, padding, scope):
    seeded = generator()
    inputs = [oracle.random_heads(seq, seeded) for _ in range(3)]
    documents = oracle.make_documents(padding, seq, seeded)
    before, after, causal = window
    options = {
        "scope": scope,
        "chunk_length": 4,
        "num_chunks_before": before,
        "num_chunks_after": after,
        "causal": causal,
    }
    fast = oracle.with_window(options)
    compare(
        lambda q, k, v: local_attention(q, k, v, documents, **fast, **HOW),
        lambda q, k, v: oracle.local(q, k, v, documents, **options),
        inputs,
        documents if scope == "chunk" else None,
    )


@case("alone")
@case("one")
@case("empty")
def buckets(kind):
    """Every token alone, all in one bucket, or most buckets without a token."""
    seq, shape = 7, (oracle.BATCH, oracle.HEADS, 2, 7)
    ids = {
        "alone": torch.arange(seq).expand(shape),
        "one": torch.zeros(shape, dtype=torch.int64),
        "empty": 50 * torch.randint(2, shape, generator=generator()),
    }[kind]
    check_lsh(seq, CAUSAL, buckets=ids)


@case(16)
@case(20)
@case(128)
def head_dim(dim):
    tiny, oracle.DIM = oracle.DIM, dim
    try:
        check_lsh(5, CAUSAL)
    finally:
        oracle.DIM = tiny


@case("band")
@case("chunk")
def sizes(scope):
    """A head at a time, and of the band in backward a round at a time, gives the same."""
    whole, triton_attention.SIZES = triton_attention.SIZES, Sizes(8, 1)
    oracle.HEADS = 2
    try:
        check_lsh(7, CAUSAL, "left", scope)
    finally:
        oracle.HEADS = 1
        triton_attention.SIZES = whole


@case()
def any_input():
    """Windows, documents and buckets as hypothesis finds them."""
    max_examples = int(os.environ.get("TRITON_EXAMPLES", "2"))

    @settings(max_examples=max_examples, deadline=None, derandomize=True)
    @given(
        seq=st.integers(1, 11),
        window=st.sampled_from([CAUSAL, BOTH_WAYS, (2, 1, False)]),
        padding=st.sampled_from(["none", "right", "holes"]),
        scope=st.sampled_from(["band", "chunk"]),
        rounds=st.integers(1, 2),
        buckets=st.integers(1, 6),
        chunk=st.integers(1, 6),
    )
    def examine(seq, window, padding, scope, rounds, buckets, chunk):
        check_lsh(seq, window, padding, scope, rounds, buckets, chunk)

    examine()


def philox(seed: int, counter: tuple[int, int]) -> int:
    """The first word of Philox 4x32-10, written out from the paper's section 4.2."""
    words, key = [*counter, 0, 0], [seed & 0xFFFFFFFF, seed >> 32]
    for _ in range(10):
        low, high = 0xD2511F53 * words[0], 0xCD9E8D57 * words[2]
        words = [
            (high >> 32) ^ words[1] ^ key[0],
            high & 0xFFFFFFFF,
            (low >> 32) ^ words[3] ^ key[1],
            low & 0xFFFFFFFF,
        ]
        key = [(key[0] + 0x9E3779B9) & 0xFFFFFFFF, (key[1] + 0xBB67AE85) & 0xFFFFFFFF]
    return words[0]


def attend_with_dropout(
    query: Tensor, key: Tensor, value: Tensor, sort: SortOrder, order: LongOrder, seed: int
) -> Tensor:
    """Causal attention with a window of 4 and dropout of one half, plainly, in float64."""
    batch, heads, rounds, seq = sort.order.shape
    length = order.mask.earlier.numel() // (batch * heads)
    self_mask = bool(order.mask.yields)
    output = torch.zeros_like(value)
    for row, head in itertools.product(range(batch), range(heads)):
        scores = query[row, head] @ key[row, head].T / math.sqrt(query.shape[-1])
        ranks, segments = sort.inverse[row, head], sort.segments[row, head]
        apart = ranks[:, :, None] - ranks[:, None, :]
        segment = segments.gather(-1, ranks)
        seen = (apart <= 4) & (apart >= int(self_mask))
        seen &= segment[:, :, None] == segment[:, None, :]
        alone = ~seen.any(dim=(0, 2))[:, None]
        visible = torch.where(seen, scores, -torch.inf).masked_fill(alone, 0)
        total = visible.transpose(0, 1).flatten(1).logsumexp(-1)
        own = torch.eye(seq, dtype=torch.float64) / rounds
        probabilities = torch.where(alone, own, (visible - total[:, None]).exp())
        places = order.ranks[row, head] + (row * heads + head) * length
        kept = torch.tensor(
            [
                [[philox(seed, (i, j)) >= 2**31 for j in line] for i in line]
                for line in places.tolist()
            ]
        )
        output[row, head] = ((probabilities * kept).sum(0) * 2) @ value[row, head]
    return output


@case(True)
@case(False)
def dropout(self_mask):
    seeded, seq, rounds = generator(), 9, 2
    query, key, value = (oracle.random_heads(seq, seeded) for _ in range(3))
    shape = (oracle.BATCH, oracle.HEADS, rounds, seq)
    sort = keep_order(oracle.BATCH, oracle.HEADS, seq)
    if self_mask:
        sort = sort_by_bucket(torch.randint(6, shape, generator=seeded), None, 6)
    order = segment_order(sort, Window(4, 1), self_mask=self_mask)
    torch.manual_seed(5)
    seed = int(torch.randint(2**63 - 1, ()))

    def fast(*vectors: Tensor) -> tuple[Tensor, None]:
        torch.manual_seed(5)
        return triton_attention.attend_triton(*vectors, order, 0.5), None

    def truth(*vectors: Tensor) -> tuple[Tensor, Tensor]:
        return attend_with_dropout(*vectors, sort, order, seed), vectors[0]

    compare(fast, truth, [query, key, value], None)


@case()
def operators_are_sound():
    """Schema, fake tensors and registration of the gradient, by torch's own checks."""
    vectors = [torch.randn(1, 2, 9, 4, requires_grad=True) for _ in range(3)]
    order = segment_order(keep_order(1, 2, 9), Window(4, 1), self_mask=True)
    flat, kind = triton_attention._flatten(order)
    arguments = (*vectors, flat, kind, list(order.geometry), 0.5, torch.tensor(7))
    checks = ("test_schema", "test_autograd_registration", "test_faketensor")
    torch.library.opcheck(triton_attention._attend, arguments, test_utils=checks)


@case()
def second_derivatives_and_transforms_are_refused():
    x = torch.randn(1, 1, 5, 4, requires_grad=True)
    window = {"window": Window(4, 1), **HOW}
    output, _ = local_attention(x, x, x, **window)
    expect_error(
        "create_graph=True",
        lambda: torch.autograd.grad(output.square().sum(), x, create_graph=True),
    )
    attend = lambda y: local_attention(y, y, y, **window)[0].sum()  # noqa: E731
    expect_error("torch.func", lambda: torch.func.grad(attend)(x.detach()))


def expect_error(words: str, function: Callable) -> None:
    try:
        function()
    except RuntimeError as error:
        assert words in str(error), error
    else:
        raise AssertionError(f"no error with {words!r}")


def prepare() -> None:
    """Small blocks, so that short rows need several; and NaN in all that is yet to be written."""
    from reformer_hf.ops import triton_launch

    options = triton_launch.launch_options
    triton_launch.launch_options = lambda *a: options(*a) | {"BLOCK": 16, "OTHERS": 8}
    for name in ("_new_output", "_new_table"):
        make = getattr(triton_attention, name)

        def filled(*arguments, make=make, **options):
            made = make(*arguments, **options)
            for tensor in made if isinstance(made, tuple) else (made,):
                if not isinstance(tensor, torch._subclasses.FakeTensor):
                    tensor.fill_(torch.nan)
            return made

        setattr(triton_attention, name, filled)
    long_order.CHUNK_LENGTH = 4
    oracle.HEADS = 1  # which the kernels know nothing of
    oracle.TOLERANCE = TOLERANCE


def run(function: Callable[[], None]) -> str:
    torch.manual_seed(0)
    try:
        function()
    except Exception:
        return traceback.format_exc()
    return ""


if __name__ == "__main__":
    prepare()
    wanted = sys.argv[1:] or list(CASES)
    outcomes = {}
    for name in wanted:
        begin = time.time()
        outcomes[name] = run(CASES[name])
        print(f"{time.time() - begin:.2f} s: {name} {outcomes[name]}", file=sys.stderr, flush=True)
    print(json.dumps(outcomes))
