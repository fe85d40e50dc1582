"""Small reversible models, and a meter of live memory, for the tests of reversible coupling."""

import weakref
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from reformer_hf.nn.reversible import PlainCoupling, ReversibleCoupling

DIM = 8
TOKENS = torch.randint(0, 11, (2, 5), generator=torch.Generator().manual_seed(0))


class Attention(nn.Module):
    """Attention over the source or a side input; counts its calls."""

    def __init__(self, dropout: float = 0.2) -> None:
        super().__init__()
        self.layer_norm = nn.LayerNorm(DIM)
        self.query, self.value = nn.Linear(DIM, DIM), nn.Linear(DIM, DIM)
        self.dropout = nn.Dropout(dropout)
        self.calls = 0

    def forward(self, source: Tensor, memory: Tensor | None = None) -> Tensor:
        self.calls += 1
        source = self.layer_norm(source)
        memory = source if memory is None else memory
        weights = (self.query(source) @ memory.mT).softmax(-1)
        return self.dropout(weights) @ self.value(memory)


class FeedForward(nn.Sequential):
    """Norm, wide layer, dropout, narrow layer; counts its calls."""

    def __init__(self, dropout: float = 0.2) -> None:
        wide = 2 * DIM
        layers = [nn.LayerNorm(DIM), nn.Linear(DIM, wide), nn.GELU(), nn.Dropout(dropout)]
        super().__init__(*layers, nn.Linear(wide, DIM))
        self.calls = 0

    def forward(self, source: Tensor) -> Tensor:
        self.calls += 1
        return super().forward(source)


class LowRankAdapter(nn.Module):
    """A frozen module with a trainable product of two thin matrices beside it."""

    def __init__(self, base: nn.Module) -> None:
        super().__init__()
        self.base = base.requires_grad_(False)
        self.down, self.up = nn.Linear(DIM, 2, bias=False), nn.Linear(2, DIM, bias=False)

    def forward(self, source: Tensor) -> Tensor:
        return self.base(source) + self.up(self.down(source))


class Layer(nn.Module):
    """Attention, attention over a side input if there is one, feed-forward."""

    def __init__(self, dropout: float = 0.2, cross: bool = False) -> None:
        super().__init__()
        self.attention = Attention(dropout)
        self.cross_attention = Attention(dropout) if cross else None
        self.feed_forward = FeedForward(dropout)

    def forward(
        self, target: Tensor, source: Tensor, coupling: PlainCoupling, memory: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        target, source = source, coupling.couple(target, self.attention, source)
        if (cross := self.cross_attention) is not None:
            attend = lambda stream: cross(stream, memory)  # noqa: E731
            target, source = source, coupling.couple(target, attend, source)
        return source, coupling.couple(target, self.feed_forward, source)


class Model(nn.Module):
    """Embedding, layers, norm over both streams, head; returns a loss."""

    def __init__(self, num_layers: int = 3, dropout: float = 0.2, cross: bool = False) -> None:
        super().__init__()
        self.embedding = nn.Embedding(11, DIM)
        self.layers = nn.ModuleList(Layer(dropout, cross) for _ in range(num_layers))
        self.layer_norm = nn.LayerNorm(2 * DIM)
        self.head = nn.Linear(2 * DIM, 1)

    def forward(
        self, tokens: Tensor, reversible: bool = True, memory: Tensor | None = None
    ) -> Tensor:
        coupling = ReversibleCoupling() if reversible else PlainCoupling()
        streams = self.embed(tokens)
        for layer in self.layers:
            streams = layer(*streams, coupling, memory)
        return self.head(self.layer_norm(torch.cat(streams, -1))).square().mean()

    def embed(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        stream = self.embedding(tokens)
        return stream, stream

    def calls(self) -> list[int]:
        """How often each sub-layer has run."""
        return [m.calls for m in self.modules() if isinstance(m, Attention | FeedForward)]


def run_stack(
    coupling: PlainCoupling, stream: Tensor, sublayers: Sequence[Callable[[Tensor], Tensor]]
) -> tuple[Tensor, Tensor]:
    """Both streams start as `stream`; every sub-layer adds to one of them."""
    target = source = stream
    for sublayer in sublayers:
        target, source = source, coupling.couple(target, sublayer, source)
    return target, source


def make_sublayers(num_sublayers: int = 4) -> list[nn.Module]:
    kinds = (Attention, FeedForward)
    return [kinds[index % 2]().double() for index in range(num_sublayers)]


def loss_of(sublayers: list, coupling: PlainCoupling | None = None, dtype=torch.float64) -> Tensor:
    """A loss of both streams."""
    stream = torch.randn(2, 5, DIM, dtype=dtype)
    target, source = run_stack(coupling or ReversibleCoupling(), stream, sublayers)
    return (target * source.cos()).sum()


def parameters_of(sublayers: list[nn.Module]) -> list[Tensor]:
    return [p for sublayer in sublayers for p in sublayer.parameters()]


class LiveBytes(TorchDispatchMode):
    """Counts the bytes of the tensors made within the context that are still alive."""

    def __init__(self) -> None:
        super().__init__()
        self.sizes: dict[int, int] = {}
        self.references: dict[int, weakref.ref] = {}
        self.peak = 0

    @property
    def now(self) -> int:
        return sum(self.sizes.values())

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        old = {id(leaf.untyped_storage()) for leaf in tree_leaves(args) if torch.is_tensor(leaf)}
        for leaf in tree_leaves(result):
            if torch.is_tensor(leaf) and id(leaf.untyped_storage()) not in old:
                self.add(leaf.untyped_storage())
        self.peak = max(self.peak, self.now)
        return result

    def add(self, storage: torch.UntypedStorage) -> None:
        key = id(storage)

        def forget(_: weakref.ref) -> None:
            del self.sizes[key], self.references[key]

        if key not in self.sizes:
            self.sizes[key] = storage.nbytes()
            self.references[key] = weakref.ref(storage, forget)
