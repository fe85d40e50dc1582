"""The modules of linear layers of few weights: multiplicative, and convolutional."""

import math

import torch
from jaxtyping import Float
from torch import Tensor, nn

from reformer_hf.ops.sparse_dense import locally_convolutional_dense, multiplicative_dense


class _InitialisedModule(nn.Module):
    """A module that says what its parameters are at the start."""

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Set the parameters to what they are at the start."""
        for name, value in self.initial_values().items():
            getattr(self, name).copy_(value)

    def initial_values(self) -> dict[str, Tensor]:
        """The parameters at the start, by name; drawn from torch's default generator."""
        raise NotImplementedError


class MultiplicativeDense(_InitialisedModule):
    """A linear layer of `in_features * (num_modules + out_features / num_modules)` weights.

    At the start gates are normal with standard deviation 0.5, the matrix is Glorot's uniform and
    the bias 0.

    Args:
        in_features: width of the input.
        out_features: width of the output, a multiple of `num_modules`.
        num_modules: parts of the output, which share a matrix and have a gate each.
        bias: add a bias.

    Raises:
        ValueError: if the modules do not divide the output.

    Source: Jaszczur et al. 2021 (arXiv 2111.12763), section 3.2; trax's `FactoredDense`.
    """

    def __init__(self, in_features: int, out_features: int, num_modules: int, bias: bool = True):
        super().__init__()
        if num_modules < 1 or out_features % num_modules:
            raise ValueError(
                f"num_modules={num_modules} with out_features={out_features}: give a number of "
                "modules that divides it"
            )
        self.in_features, self.out_features = in_features, out_features
        self.gates = nn.Parameter(torch.empty(num_modules, in_features))
        self.weight = nn.Parameter(torch.empty(out_features // num_modules, in_features))
        self.bias = nn.Parameter(torch.empty(out_features)) if bias else None
        self.reset_parameters()

    def initial_values(self) -> dict[str, Tensor]:
        """The parameters at the start, by name."""
        values = {
            "gates": torch.empty_like(self.gates).normal_(std=0.5),
            "weight": nn.init.xavier_uniform_(torch.empty_like(self.weight)),
        }
        return values if self.bias is None else values | {"bias": torch.zeros_like(self.bias)}

    def forward(self, inputs: Float[Tensor, "*batch dim"]) -> Float[Tensor, "*batch outputs"]:
        """Apply the layer to each vector.

        Args:
            inputs: vectors.

        Returns:
            The modules' outputs side by side.
        """
        return multiplicative_dense(inputs, self.gates, self.weight, self.bias)

    def extra_repr(self) -> str:
        """Sizes, as torch shows those of a linear layer."""
        return f"{self.in_features}, {self.out_features}, num_modules={len(self.gates)}"


class LocallyConvolutionalDense(_InitialisedModule):
    """Makes each module of a vector of the nearest modules of the nearest tokens.

    Where later tokens are not hidden, neighbours at one distance have one weight, as in
    `ShortConvolution`: a causal model's weights fit a bidirectional one. At the start weights are
    Glorot's uniform and the bias is 0.

    Args:
        features: width of input and output, a multiple of `num_modules`.
        num_modules: parts of a vector.
        kernel_size: modules that it sees, an odd number.
        length: tokens that it sees before a token, the token included, and behind it if not causal.
        causal: whether later tokens are hidden.

    Raises:
        ValueError: if the modules do not divide the width, or the kernel is even.

    Source: Jaszczur et al. 2021 (arXiv 2111.12763), section 3.2; trax's `LocallyConvDense`.
    """

    def __init__(
        self,
        features: int,
        num_modules: int,
        kernel_size: int = 3,
        length: int = 3,
        causal: bool = True,
    ):
        super().__init__()
        if num_modules < 1 or features % num_modules:
            raise ValueError(
                f"num_modules={num_modules} with features={features}: give a number of modules "
                "that divides it"
            )
        if kernel_size % 2 == 0 or length < 1:
            raise ValueError(
                f"kernel_size={kernel_size} and length={length}: give an odd number of modules, "
                "and at least one token"
            )
        self.before, self.after = length - 1, 0 if causal else length - 1
        width = features // num_modules
        self._shape = (width, length, kernel_size, width)
        # Two axes: a matrix like that of other layers to an optimizer.
        self.weight = nn.Parameter(torch.empty(width, length * kernel_size * width))
        self.bias = nn.Parameter(torch.empty(width))
        self.reset_parameters()

    def initial_values(self) -> dict[str, Tensor]:
        """The parameters at the start, by name."""
        width, _, kernel_size, _ = self._shape
        fan = width * kernel_size * (self.before + 1 + self.after)
        limit = math.sqrt(3 / fan)
        weight = torch.empty_like(self.weight).uniform_(-limit, limit)
        return {"weight": weight, "bias": torch.zeros_like(self.bias)}

    def taps(self) -> Float[Tensor, "width taps kernel width"]:
        """The weights of all neighbours, the earliest first."""
        weight = self.weight.view(self._shape)
        if not self.after:
            return weight
        return torch.cat([weight, weight[:, :-1].flip(1)], dim=1)

    def forward(
        self, neighbourhoods: Float[Tensor, "images height dim"]
    ) -> Float[Tensor, "images rest dim"]:
        """Apply the layer to each token.

        Args:
            neighbourhoods: the tokens and their neighbours, as
                :func:`reformer_hf.ops.convolution.neighbourhoods` lays them out.

        Returns:
            A vector for each token, in order.
        """
        return locally_convolutional_dense(neighbourhoods, self.taps(), self.bias)
