"""A stack of sub-layers for a model of your own, on reversible coupling."""

from collections.abc import Iterable, Sequence
from functools import partial
from typing import Any

import torch
from jaxtyping import Bool, Float, Integer
from torch import Tensor, nn

from reformer_hf.nn.checks import check_hidden_states
from reformer_hf.nn.layer_norm import StreamLayerNorm, cast_for_products
from reformer_hf.nn.reversible import PlainCoupling, ReversibleCoupling
from reformer_hf.ops.checks import require_bools, require_ints


class ReversibleSequence(nn.Module):
    """Residual sub-layers in the activation memory of one: backward rebuilds what they need.

    Two streams start as the input. Each sub-layer reads the layer norm of one and is added to the
    other, then the roles swap. The output is the mean of both.

    Args:
        dim: width of the streams.
        sublayers: map (batch, seq, dim) to the same, such as attention and a feed-forward network
            in turn.
        reversible: False keeps all activations, for comparison: outputs and gradients are the same.

    Raises:
        TypeError: if a sub-layer is no module.
        ValueError: if there is none.

    Source: Kitaev et al. 2020, "Reformer" (arXiv 2001.04451), section 3.
    """

    def __init__(self, dim: int, sublayers: Iterable[nn.Module], reversible: bool = True):
        super().__init__()
        require_ints(1, dim=dim)
        require_bools(reversible=reversible)
        self.dim, self.reversible = dim, reversible
        self.sublayers = nn.ModuleList(sublayers)
        if not self.sublayers:
            raise ValueError("sublayers is empty: give at least one module")
        self.norms = nn.ModuleList(StreamLayerNorm(dim) for _ in self.sublayers)

    def forward(
        self,
        x: Float[Tensor, "batch seq dim"],
        attention_mask: Bool[Tensor, "batch seq"] | Integer[Tensor, "batch seq"] | None = None,
        *,
        seq_idx: Integer[Tensor, "batch seq"] | None = None,
        cache: Sequence[Any] | None = None,
    ) -> Float[Tensor, "batch seq dim"]:
        """Run all sub-layers.

        Args:
            x: the tokens' vectors.
            attention_mask: given to the sub-layers that have a `new_cache()`, which attend.
            seq_idx: given to the same.
            cache: from `new_cache`, for a pass that goes on after earlier tokens.

        Returns:
            The mean of the streams.

        Raises:
            ValueError: naming the argument, its value and the fix.
        """
        check_hidden_states(x, self.dim, name="x")
        caches = [None] * len(self.sublayers) if cache is None else cache
        if len(caches) != len(self.sublayers):
            raise ValueError(
                f"cache has {len(caches)} entries for {len(self.sublayers)} sub-layers: give a "
                "new_cache() of this sequence"
            )
        # A replay would give a cache its tokens once more.
        replays = self.reversible and cache is None
        coupling = ReversibleCoupling() if replays else PlainCoupling()
        target = source = x.to(torch.promote_types(x.dtype, torch.float32))
        for sublayer, norm, remembered in zip(self.sublayers, self.norms, caches, strict=True):
            options: dict[str, Any] = {}
            if hasattr(sublayer, "new_cache"):
                options = {"attention_mask": attention_mask, "seq_idx": seq_idx}
                options["cache"] = remembered
            run = partial(_run_normalised, norm, sublayer, options)
            target, source = source, coupling.couple(target, run, source)
        return ((target + source) / 2).to(x.dtype)

    def new_cache(self) -> list[Any]:
        """Make an empty cache for `forward`.

        Returns:
            The cache of each sub-layer that attends, None for the others: they must treat each
            token by itself.
        """
        return [
            sublayer.new_cache() if hasattr(sublayer, "new_cache") else None  # type: ignore[operator]
            for sublayer in self.sublayers
        ]


def _run_normalised(
    norm: nn.Module, sublayer: nn.Module, options: dict[str, Any], source: Tensor
) -> Tensor:
    return sublayer(cast_for_products(norm(source)), **options)
