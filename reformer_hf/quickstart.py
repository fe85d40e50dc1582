"""Train a byte-level causal Reformer on real text, save it, reload it and let it write.

`scripts/quickstart.sh` sets up an environment and starts this; where the package is installed,
`reformer-hf-quickstart` does. After an interruption the same command goes on from the last
checkpoint.
"""

import sys
from dataclasses import asdict, dataclass
from pathlib import Path

from transformers import HfArgumentParser, PreTrainedModel, TrainerState, set_seed
from transformers.utils.logging import disable_progress_bar

from reformer_hf.hub.card import RUN_RECORD, write_run_card
from reformer_hf.models.modeling_reformer_hf import ReformerHFForCausalLM
from reformer_hf.models.tokenization_reformer_hf import ReformerHFByteTokenizer
from reformer_hf.training.arguments import (
    CorpusArguments,
    ModelArguments,
    OptimizationArguments,
    TextRunArguments,
)
from reformer_hf.training.causal_lm import build_config, train
from reformer_hf.training.corpus import open_corpus
from reformer_hf.training.data import (
    CorpusRecord,
    TokenWindows,
    bytes_of,
    describe_corpus,
    load_splits,
    spread,
)
from reformer_hf.training.evaluation import HeldOutScore, score_held_out
from reformer_hf.training.finish import (
    collect_metrics,
    save_and_reload,
    write_reports,
    write_sample,
)
from reformer_hf.training.resumption import resume_point, run_script
from reformer_hf.training.run_directory import RunDirectory
from reformer_hf.training.run_record import make_record
from reformer_hf.training.storage import new_directory, readable_disk_errors, write_json

NAME = "Byte-level Reformer (quickstart)"
PROMPT_BYTES = 400


@dataclass
class Job:
    """A run that is ready to train."""

    model_arguments: ModelArguments
    optimization: OptimizationArguments
    run: TextRunArguments
    directory: RunDirectory
    settings: dict
    record: CorpusRecord
    train_windows: TokenWindows
    held_out: TokenWindows
    checkpoint: Path | None


def prepare(arguments: list[str] | None) -> Job | None:
    """Parse the arguments, find the corpus, and see how far a run in this folder has come."""
    kinds = [CorpusArguments, ModelArguments, OptimizationArguments, TextRunArguments]
    parser = HfArgumentParser(kinds, description=__doc__)  # type: ignore[arg-type]
    corpus_arguments, model, optimization, run = parser.parse_args_into_dataclasses(arguments)
    if run.max_new_tokens >= model.block_size:
        raise ValueError(
            f"max_new_tokens={run.max_new_tokens}: prompt and sample must fit into "
            f"block_size={model.block_size} together"
        )
    directory = RunDirectory(Path(run.output_dir))
    corpus = open_corpus(corpus_arguments, exclude=directory.path)
    record = describe_corpus(corpus, corpus_arguments.validation_split_percentage)
    print(
        f"Corpus: {record.description}, {record.bytes:,} bytes in {record.documents:,} documents, "
        f"sha256 {record.sha256[:16]}…; held out: {record.held_out_bytes:,} bytes ({record.split})"
    )

    settings = {
        "corpus": asdict(record),
        "model": asdict(model),
        "optimization": asdict(optimization),
    }
    checkpoint = resume_point(directory, settings)
    if directory.is_finished:
        return None
    windows = load_splits(corpus, record, directory.corpus, model.block_size)
    return Job(model, optimization, run, directory, settings, record, *windows, checkpoint)


def run(job: Job) -> None:
    """Train, evaluate, save, reload and write a sample."""
    tokenizer = ReformerHFByteTokenizer(model_max_length=job.model_arguments.block_size)
    set_seed(job.optimization.seed)
    model = ReformerHFForCausalLM(build_config(job.model_arguments))
    print(f"Model: {model.num_parameters():,} parameters")
    model, state = train(
        model,
        tokenizer,
        job.train_windows,
        spread(job.held_out, job.run.max_eval_samples // 8 or 1),
        job.optimization,
        job.run,
        job.directory.checkpoints,
        job.checkpoint,
    )
    if state.global_step < job.optimization.max_steps:
        print(
            f"Stopped at step {state.global_step} of {job.optimization.max_steps}: "
            f"max_minutes={job.run.max_minutes} are over"
        )
    score = score_held_out(model, spread(job.held_out, job.run.max_eval_samples))
    save(job, model, tokenizer, state, score)
    report(score, job.directory)
    set_seed(job.optimization.seed)
    room = job.model_arguments.block_size - job.run.max_new_tokens
    prompt = bytes_of(job.held_out.tokens[: min(PROMPT_BYTES, room)]).decode(errors="ignore")
    sample = write_sample(job.directory.model, prompt, job.run.max_new_tokens)
    print(f"\n--- prompt (held-out text) ---\n{prompt}\n--- the model goes on ---\n{sample}\n---")


def save(
    job: Job,
    model: PreTrainedModel,
    tokenizer: ReformerHFByteTokenizer,
    state: TrainerState,
    score: HeldOutScore,
) -> None:
    """Write the model folder, all of it or nothing."""
    tokens_per_step = job.optimization.per_device_train_batch_size * job.model_arguments.block_size
    metrics = collect_metrics(model, state, score, job.record, job.settings, tokens_per_step)
    windows = f"{job.record.split}, in windows of {score.context:,} that do not overlap"
    record = make_record(
        model,
        {"data": job.record.description, "dataset": None, "evaluated_on": windows},
        {
            "steps": state.global_step,
            "epochs": state.epoch or 0.0,
            "seconds": metrics["training"]["seconds"],
            "timed_from_step": 0,
            "last_loss": None,
        },
        job.settings["model"] | job.settings["optimization"],
        {"bits_per_byte": round(score.bits_per_byte, 4)},
    )
    probe = job.held_out[0]["input_ids"][None]
    kept = "The checkpoints are whole, and training need not be repeated."
    with (
        readable_disk_errors(job.directory.path, kept),
        new_directory(job.directory.model) as folder,
    ):
        save_and_reload(folder, model, tokenizer, probe)
        write_reports(folder, state, metrics, score.references(), NAME)
        write_json(folder / RUN_RECORD, record | {"references": score.references()})
        write_run_card(folder, NAME)


def report(score: HeldOutScore, directory: RunDirectory) -> None:
    """Print the result and where it lies."""
    print(
        f"\nHeld-out bits per byte ({score.bytes_scored:,} bytes in {score.windows} windows of "
        f"{score.context:,} that do not overlap):\n"
        f"  this model  {score.bits_per_byte:.3f}\n"
        f"  uniform     {score.uniform_bits_per_byte:.3f}\n"
        f"  gzip -9     {score.gzip_9_bits_per_byte:.3f}\n"
        f"  bz2 -9      {score.bz2_9_bits_per_byte:.3f}\n"
        f"Saved, reloaded through the Auto classes, same logits: {directory.model} "
        "(model, tokenizer, card, loss curve, metrics)"
    )


def main(arguments: list[str] | None = None) -> int:
    """Run, and turn what a user can mend into a message and an exit status."""
    disable_progress_bar()  # those of loading and saving, which take no time here
    return run_script(lambda: prepare(arguments), run)


if __name__ == "__main__":
    sys.exit(main())
