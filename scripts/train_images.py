"""Train a causal Reformer on images as byte sequences, and sample images from it as PNG files.

    python scripts/train_images.py --train_dir photos/
    python scripts/train_images.py --dataset_name cifar10 --image_column_name img --image_size 32

After an interruption the same command goes on from the last checkpoint.
"""

import sys
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from transformers import (
    AutoModelForCausalLM,
    HfArgumentParser,
    PreTrainedModel,
    TrainerState,
    set_seed,
)
from transformers.utils.logging import disable_progress_bar

from reformer_hf import ReformerHFConfig, ReformerHFForCausalLM
from reformer_hf.training.arguments import (
    ImageArguments,
    ImageRunArguments,
    LayerArguments,
    OptimizationArguments,
)
from reformer_hf.training.causal_lm import train
from reformer_hf.training.data import spread
from reformer_hf.training.finish import collect_metrics, save_and_reload, write_reports
from reformer_hf.training.image_model import ImageScore, build_config, sample_images, score_images
from reformer_hf.training.images import ImageBytes, ImageRecord, load_images, save_png
from reformer_hf.training.resumption import resume_point, run_script
from reformer_hf.training.run_directory import RunDirectory
from reformer_hf.training.storage import new_directory, readable_disk_errors

NAME = "Reformer over the bytes of images"


@dataclass
class Job:
    """A run that is ready to train."""

    config: ReformerHFConfig
    optimization: OptimizationArguments
    run: ImageRunArguments
    directory: RunDirectory
    settings: dict
    record: ImageRecord
    train_images: ImageBytes
    held_out: ImageBytes
    checkpoint: Path | None


def prepare(arguments: list[str] | None) -> Job | None:
    """Parse the arguments, read the images, and see how far a run in this folder has come."""
    kinds = [ImageArguments, LayerArguments, OptimizationArguments, ImageRunArguments]
    parser = HfArgumentParser(kinds, description=__doc__)  # type: ignore[arg-type]
    images, layers, optimization, run = parser.parse_args_into_dataclasses(arguments)
    directory = RunDirectory(Path(run.output_dir))
    settings = {
        "images": asdict(images),
        "model": asdict(layers),
        "optimization": asdict(optimization),
    }
    checkpoint = resume_point(directory, settings)
    if directory.is_finished:
        return None
    record, train_images, held_out = load_images(images, directory.corpus)
    print(
        f"Images: {record.description}, {record.train_images:,} to train on, "
        f"{record.held_out_images:,} held out ({record.split}), "
        f"{' x '.join(map(str, record.shape))} bytes each, sha256 {record.sha256[:16]}…"
    )
    config = build_config(layers, record.shape)
    return Job(
        config, optimization, run, directory, settings, record, train_images, held_out, checkpoint
    )


def run(job: Job) -> None:
    """Train, evaluate, save, reload and sample."""
    set_seed(job.optimization.seed)
    model = ReformerHFForCausalLM(job.config)
    print(f"Model: {model.num_parameters():,} parameters")
    model, state = train(
        model,
        None,
        job.train_images,
        spread(job.held_out, job.run.max_eval_samples // 8 or 1),
        job.optimization,
        job.run,
        job.directory.checkpoints,
        job.checkpoint,
    )
    score = score_images(model, spread(job.held_out, job.run.max_eval_samples))
    save(job, model, state, score)
    print(f"\nBits per dim on {score.images:,} held-out images of {score.dims:,} bytes:")
    for name, bits in {"this model": score.bits_per_dim, **score.references()}.items():
        print(f"  {name:10}  {bits:.3f}")
    print(
        f"After {state.global_step} of {job.optimization.max_steps} steps. Saved, reloaded, same "
        f"logits: {job.directory.model} (samples.png; completions.png: originals, what was given "
        "of them, what the model made of it; loss curve, metrics)"
    )


def save(job: Job, model: PreTrainedModel, state: TrainerState, score: ImageScore) -> None:
    """Write the model folder with its samples, all of it or nothing."""
    tokens_per_step = job.optimization.per_device_train_batch_size * score.dims
    metrics = collect_metrics(model, state, score, job.record, job.settings, tokens_per_step)
    kept = "The checkpoints are whole, and training need not be repeated."
    with (
        readable_disk_errors(job.directory.path, kept),
        new_directory(job.directory.model) as folder,
    ):
        save_and_reload(folder, model, None, job.held_out[0]["input_ids"][None])
        write_reports(folder, state, metrics, score.references(), NAME)
        write_samples(folder, job)


def write_samples(folder: Path, job: Job) -> None:
    """Load a saved model; write images that it samples and held-out ones that it completes."""
    model = AutoModelForCausalLM.from_pretrained(folder).eval()
    set_seed(job.optimization.seed)
    count, temperature = job.run.num_samples, job.run.temperature
    save_png(side_by_side(sample_images(model, None, count, temperature)), folder / "samples.png")
    originals = np.array(job.held_out.pixels[:count])
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


def main(arguments: list[str] | None = None) -> int:
    """Run, and turn what a user can mend into a message and an exit status."""
    disable_progress_bar()  # those of loading and saving, which take no time here
    return run_script(lambda: prepare(arguments), run)


if __name__ == "__main__":
    sys.exit(main())
