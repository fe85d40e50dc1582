"""Train a causal Reformer with a plain loop on Accelerate: from a configuration or a checkpoint.

A first run on a text of your own, with bytes as tokens:

    accelerate launch scripts/train_clm_no_trainer.py --train_file text.txt --block_size 4096
        --max_train_steps 200 --per_device_train_batch_size 2 --learning_rate 1e-3
        --checkpointing_steps 50 --output_dir outputs/mine

or with all arguments in a file, which those behind it replace. After an interruption add
`--resume_from_checkpoint last`: the run goes on bit for bit as if it had not been interrupted.
Sample configurations of accelerate for several processes are in scripts/configs/.
"""

import sys

import reformer_hf  # noqa: F401 (registers the classes)
from reformer_hf.hub.card import write_run_card
from reformer_hf.hub.upload import push_folder
from reformer_hf.training.data_arguments import DataTrainingArguments
from reformer_hf.training.loop import train_clm_no_trainer
from reformer_hf.training.loop_arguments import LoopArguments
from reformer_hf.training.loop_run import make_accelerator
from reformer_hf.training.model_arguments import PretrainedModelArguments
from reformer_hf.training.parsing import parse_arguments, readable_errors


def main(arguments: list[str] | None = None) -> int:
    """Parse, train, write the card, upload; what a user can mend becomes a readable message."""
    kinds = (PretrainedModelArguments, DataTrainingArguments, LoopArguments)
    with readable_errors() as status:
        model, data, loop = parse_arguments(kinds, arguments, __doc__)
        accelerator = make_accelerator(loop)
        train_clm_no_trainer(model, data, loop, accelerator)
        if accelerator.is_main_process:
            write_run_card(loop.output_dir, (loop.hub_model_id or "").rpartition("/")[2] or None)
            if loop.push_to_hub:
                upload(loop, model.token)
    return status.code


def upload(arguments: LoopArguments, token: str | None) -> None:
    """Upload the output folder, without its checkpoints."""
    name = arguments.hub_model_id or arguments.output_dir.rstrip("/").rpartition("/")[2]
    commit = push_folder(arguments.output_dir, name, token=token, exist_ok=True)
    print(f"Uploaded: {commit.commit_url}")


if __name__ == "__main__":
    sys.exit(main())
