"""A causal Reformer over the bytes of images: configuration, bits per dim, sampling."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from tqdm.auto import tqdm
from transformers import PreTrainedModel

from reformer_hf.models.configuration_reformer_hf import ReformerHFConfig
from reformer_hf.training.arguments import LayerArguments
from reformer_hf.training.causal_lm import causal_config
from reformer_hf.training.evaluation import compressor_scores
from reformer_hf.training.images import START, after_start, png_size


@dataclass(frozen=True)
class ImageScore:
    """Bits per dim (byte) on held-out images, each scored whole, and what they were measured on."""

    bits_per_dim: float
    png_bits_per_dim: float  # a file for each image, headers included
    gzip_9_bits_per_dim: float  # all bytes as one stream
    bz2_9_bits_per_dim: float
    uniform_bits_per_dim: float
    images: int
    dims: int  # bytes of an image

    def references(self) -> dict[str, float]:
        """What the model is compared with, by name."""
        return {
            "uniform": self.uniform_bits_per_dim,
            "PNG": self.png_bits_per_dim,
            "gzip -9": self.gzip_9_bits_per_dim,
            "bz2 -9": self.bz2_9_bits_per_dim,
        }


def build_config(arguments: LayerArguments, shape: Sequence[int]) -> ReformerHFConfig:
    """Configure a causal Reformer with one axis of positions each for rows, columns and channels.

    Args:
        arguments: sizes of the layers.
        shape: height, width and channels of the images.
    """
    third = arguments.hidden_size // 3
    if not third:
        raise ValueError(f"hidden_size={arguments.hidden_size}: three axes need at least 3")
    return causal_config(
        arguments,
        vocab_size=START + 1,
        bos_token_id=START,
        eos_token_id=None,
        pad_token_id=None,
        axial_pos_shape=list(shape),
        axial_pos_embds_dim=[third, third, arguments.hidden_size - 2 * third],
    )


@torch.no_grad()
def score_images(model: PreTrainedModel, images: Dataset, batch_size: int = 1) -> ImageScore:
    """Measure bits per dim, in eval mode.

    Args:
        model: over bytes and the start token.
        images: items of `ImageBytes`.
        batch_size: images in a forward pass.
    """
    was_training = model.training
    model.eval()
    nats, png, content = 0.0, 0, bytearray()
    shape = model.config.axial_pos_shape
    for batch in tqdm(DataLoader(images, batch_size), desc="held-out images"):
        targets = batch["shift_labels"]
        loss = model(**{name: ids.to(model.device) for name, ids in batch.items()}).loss
        nats += float(loss) * targets.numel()
        for pixels in as_pixels(targets, shape):
            png += png_size(pixels)
            content += pixels.tobytes()
    model.train(was_training)
    dims = math.prod(shape)
    return ImageScore(
        nats / math.log(2) / len(content),
        8 * png / len(content),
        *compressor_scores(bytes(content)),
        images=len(content) // dims,
        dims=dims,
    )


def sample_images(
    model: PreTrainedModel,
    begun: Tensor | None = None,
    count: int = 1,
    temperature: float = 1.0,
) -> np.ndarray:
    """Sample images, or the rest of images that are begun; draws from the default generator.

    Args:
        model: over bytes and the start token.
        begun: first bytes of each image, (count, bytes); None to sample all.
        count: images, if none is begun.
        temperature: 1 samples from what the model has learnt, less is bolder.

    Returns:
        Pixels, (count, height, width, channels).

    Raises:
        ValueError: if nothing is left to sample.
    """
    shape = model.config.axial_pos_shape
    if begun is None:
        begun = torch.empty(count, 0, dtype=torch.long)
    missing = math.prod(shape) - begun.shape[1]
    if missing < 1:
        raise ValueError(
            f"begun has {begun.shape[1]} bytes, all {math.prod(shape)} of an image of shape "
            f"{tuple(shape)}: give fewer"
        )
    ids = after_start(begun).to(model.device)
    sampled = model.generate(  # type: ignore[operator]
        ids,
        attention_mask=torch.ones_like(ids),
        max_new_tokens=missing,
        do_sample=True,
        temperature=temperature,
        top_k=0,  # transformers' default would leave out all but the 50 likeliest bytes
        suppress_tokens=[START],
    )
    return as_pixels(sampled[:, 1:], shape)


def as_pixels(content: Tensor, shape: Sequence[int]) -> np.ndarray:
    """Bytes, (count, bytes), as pixels, (count, height, width, channels)."""
    return content.cpu().numpy().astype(np.uint8).reshape(-1, *shape)
