"""A causal Reformer over the bytes of images: configuration, run, bits per dim, samples."""

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from tqdm.auto import tqdm
from transformers import AutoModelForCausalLM, PreTrainedModel, Trainer, set_seed

from reformer_hf.models.configuration_reformer_hf import ReformerHFConfig
from reformer_hf.models.modeling_reformer_hf import ReformerHFForCausalLM
from reformer_hf.training.argument_checks import require_positive
from reformer_hf.training.arguments import ReformerTrainingArguments, argument
from reformer_hf.training.build import parse_overrides
from reformer_hf.training.data.images import (
    START,
    ImageArguments,
    ImageBytes,
    after_start,
    load_images,
    save_png,
)
from reformer_hf.training.data.rows import spread_rows
from reformer_hf.training.image_baselines import image_references
from reformer_hf.training.plots import write_curves
from reformer_hf.training.references import keep_references
from reformer_hf.training.smoothing import NextTokenTrainer
from reformer_hf.training.trainer import (
    SealedCheckpoints,
    checkpoint_to_resume,
    run_callbacks,
    run_trainer,
)

PIXELS = "_images"
"""Folder of the pixels in the output folder; the Trainer uploads nothing whose name begins so."""


@dataclass
class ImageModelArguments:
    """What the model is, and what is asked of it at the end."""

    _argument_group_name = "model"

    config_overrides: str | None = argument(
        None,
        "Fields of the model's configuration, for example "
        "'hidden_size=256,attn_layers=[local,lsh],num_hashes=4'.",
    )
    max_eval_samples: int = argument(64, "Held-out images in the evaluation at the end.")
    num_samples: int = argument(4, "Images that are sampled, and completed, at the end.")
    temperature: float = argument(1.0, "Of the samples; 1 samples what the model has learnt.")
    baselines: bool = argument(
        True, "Compare bits per dim with counts of the training images and with compressors."
    )

    def __post_init__(self):
        require_positive(self, "max_eval_samples", "num_samples", "temperature")


@dataclass
class ImageTrainingArguments(ReformerTrainingArguments):
    """transformers' `TrainingArguments` with the defaults of this task."""

    output_dir: str | None = argument("outputs/images", "Folder for all that the run writes.")
    do_train: bool = argument(True, "Train; this script always does.")
    do_eval: bool = argument(True, "Evaluate at the end; this script always does.")
    max_minutes: float | None = argument(
        60.0, "Stop training after so many minutes, resumed ones included, even before max_steps."
    )
    max_steps: int = argument(250, "Optimiser steps.")
    per_device_train_batch_size: int = argument(1, "Images in a step.")
    per_device_eval_batch_size: int = argument(1, "Images in a forward pass of an evaluation.")
    learning_rate: float = argument(1e-3, "Highest learning rate of AdamW.")
    lr_scheduler_type: str = argument("cosine", "How the learning rate falls.")
    warmup_steps: float = argument(20, "Steps in which the learning rate rises.")
    weight_decay: float = argument(0.01, "Weight decay of AdamW.")
    seed: int = argument(0, "Seed of the weights, the order of the images and the hashing.")
    logging_steps: float = argument(5, "Log the training loss every so many steps.")
    eval_strategy: str = argument("steps", "When to evaluate on a few held-out images.")
    eval_steps: float | None = argument(25, "Evaluate every so many steps.")
    save_steps: float = argument(25, "Save a checkpoint every so many steps.")
    save_total_limit: int | None = argument(2, "Checkpoints that are kept.")
    dataloader_pin_memory: bool = argument(False, "Pin the memory of batches.")

    def __post_init__(self):
        for name in ("do_train", "do_eval"):
            if not getattr(self, name):
                raise ValueError(f"{name}=False: this script trains and evaluates; leave it out")
        self.prediction_loss_only = True
        self.remove_unused_columns = False  # `shift_labels` is no parameter of a forward
        super().__post_init__()


@dataclass(frozen=True)
class ImageScore:
    """Bits per dim (byte) on held-out images, each scored whole, and what they were measured on."""

    bits_per_dim: float
    images: int
    dims: int  # bytes of an image


class ImageTrainer(NextTokenTrainer, SealedCheckpoints):
    """How images are trained on: each byte is a target, the first and the last among them."""


def train_images(
    image_arguments: ImageArguments,
    model_arguments: ImageModelArguments,
    training_arguments: ImageTrainingArguments,
    prepare: Callable[[Trainer], None] = lambda trainer: None,
) -> dict[str, Any]:
    """Train, measure bits per dim, save and sample.

    The output folder gets the model, `train_results.json`, `eval_results.json`, `all_results.json`,
    `trainer_state.json`, `run_record.json`, the loss curve, a model card, `samples.png` and
    `completions.png`, which shows originals, what was given of them, and what became of it. The
    pixels stay there, too: a run that goes on has the images that it began with.

    Args:
        image_arguments: which images.
        model_arguments: which model.
        training_arguments: how.
        prepare: is called with the Trainer before it runs; `use_run_card` of `reformer_hf.hub`
            makes the card ours.

    Returns:
        The content of `all_results.json`.

    Raises:
        FloatingPointError: if training diverges.
        OSError: if images cannot be found or read, or the disk is full.
        ValueError: if arguments do not fit together.
    """
    doing, folder = training_arguments, Path(str(training_arguments.output_dir))
    if doing.world_size > 1:
        raise ValueError(f"{doing.world_size} processes: start this script in one, with python")
    settings = {"images": asdict(image_arguments), "config": model_arguments.config_overrides}
    checkpoint = checkpoint_to_resume(doing, settings | {"seed": doing.seed})
    record, train_rows, held_out = load_images(image_arguments, folder / PIXELS)
    set_seed(doing.seed)
    model = ReformerHFForCausalLM(build_config(model_arguments.config_overrides, record.shape))
    trainer = ImageTrainer(
        model,
        doing,
        train_dataset=train_rows,
        eval_dataset=spread_rows(held_out, model_arguments.max_eval_samples // 8 or 1),
        callbacks=run_callbacks(
            doing,
            data=record.description,
            dataset=image_arguments.dataset_name,
            evaluated_on="held-out images",
            kind="images",
        ),
    )

    prepare(trainer)
    scored = spread_rows(held_out, model_arguments.max_eval_samples)

    def evaluate() -> dict[str, Any]:
        score = score_images(model, scored)
        metrics = {f"eval_{name}": value for name, value in asdict(score).items()}
        trainer.callback_handler.on_evaluate(doing, trainer.state, trainer.control, metrics)
        return metrics

    def compare(metrics: dict[str, Any]) -> dict[str, Any]:
        references = []
        if model_arguments.baselines:
            references = image_references(train_rows.pixels, held_out.pixels[scored.indices])
        lines = {each.name: each.scores["bits_per_dim"] for each in references}
        write_curves(trainer.state.log_history, folder, "Bytes of images", lines)
        return keep_references(trainer, metrics, references, "bits_per_dim")

    def sample() -> dict[str, Any]:
        set_seed(doing.seed)
        write_samples(folder, held_out, model_arguments.num_samples, model_arguments.temperature)
        return {}

    return run_trainer(trainer, checkpoint, evaluate=evaluate, finish=sample, compare=compare)


def build_config(overrides: str | None, shape: Sequence[int]) -> ReformerHFConfig:
    """Configure a causal Reformer with one axis of positions each for rows, columns and channels.

    Args:
        overrides: fields, as `name=value,name=value`.
        shape: height, width and channels of the images.
    """
    fields: dict[str, Any] = {"hidden_size": 128, "chunk_size_lm_head": 1024}
    fields |= parse_overrides(overrides) if overrides else {}
    if fields["hidden_size"] < len(shape):
        raise ValueError(f"hidden_size={fields['hidden_size']}: three axes need at least 3")
    if "attn_layers" not in fields:
        fields.setdefault("num_hidden_layers", 4)
    fixed = {"is_decoder": True, "axial_pos_shape": list(shape), "vocab_size": START + 1}
    fixed |= {"bos_token_id": START, "eos_token_id": None, "pad_token_id": None}
    if given := sorted(fields.keys() & fixed):
        raise ValueError(f"config_overrides: the images decide {given[0]!r}; leave it out")
    return ReformerHFConfig(**fields, **fixed)


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
    nats = size = 0.0
    for batch in tqdm(DataLoader(images, batch_size), desc="held-out images"):
        loss = model(**{name: ids.to(model.device) for name, ids in batch.items()}).loss
        nats += float(loss) * batch["shift_labels"].numel()
        size += batch["shift_labels"].numel()
    model.train(was_training)
    dims = math.prod(model.config.axial_pos_shape)
    return ImageScore(nats / math.log(2) / size, int(size) // dims, dims)


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


def write_samples(folder: Path, held_out: ImageBytes, count: int, temperature: float) -> None:
    """Load a saved model; write images that it samples and held-out ones that it completes."""
    model = AutoModelForCausalLM.from_pretrained(folder).eval()
    save_png(side_by_side(sample_images(model, None, count, temperature)), folder / "samples.png")
    originals = np.array(held_out.pixels[:count])
    half = originals.shape[1] // 2
    begun = torch.from_numpy(originals[:, :half].reshape(len(originals), -1))
    completed = sample_images(model, begun, temperature=temperature)
    given = originals.copy()
    given[:, half:] = 0
    rows = [side_by_side(images) for images in (originals, given, completed)]
    save_png(np.concatenate(rows), folder / "completions.png")


def side_by_side(images: np.ndarray) -> np.ndarray:
    """One image of several, (count, height, width, channels)."""
    return np.concatenate(list(images), axis=1)
