"""A script of our own with the calls of transformers' run_clm_no_trainer.py, in their order.

A loop on Accelerate with `accumulate`, a prepared scheduler, `save_state`, and the model called
with batches of `default_data_collator`.
"""

import argparse
import gc
import json
import math
from pathlib import Path

import torch
from accelerate import Accelerator
from datasets import load_dataset
from torch.utils.data import DataLoader
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    default_data_collator,
    get_scheduler,
    set_seed,
)

import reformer_hf  # noqa: F401 (registers the classes)


def main() -> None:
    parser = argparse.ArgumentParser()
    for name in ("model_name_or_path", "train_file", "cache_dir", "output_dir"):
        parser.add_argument(f"--{name}", required=True)
    parser.add_argument("--block_size", type=int, default=64)
    arguments = parser.parse_args()
    accelerator = Accelerator(cpu=True, gradient_accumulation_steps=2)
    set_seed(0)
    tokenizer = AutoTokenizer.from_pretrained(arguments.model_name_or_path)
    model = AutoModelForCausalLM.from_pretrained(arguments.model_name_or_path)

    def group(rows):
        ids = [index for text in rows["text"] for index in tokenizer(text)["input_ids"]]
        size = arguments.block_size
        blocks = [ids[start : start + size] for start in range(0, len(ids) // size * size, size)]
        return {"input_ids": blocks, "labels": blocks}

    with accelerator.main_process_first():
        files = {"train": arguments.train_file}
        texts = load_dataset("text", data_files=files, cache_dir=arguments.cache_dir)
        rows = texts["train"].map(group, batched=True, remove_columns=["text"])
    parts = rows.train_test_split(0.1, seed=0)
    train_loader, eval_loader = (
        DataLoader(parts[name], 4, shuffle=name == "train", collate_fn=default_data_collator)
        for name in ("train", "test")
    )
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    steps = math.ceil(len(train_loader) / 2) * accelerator.num_processes
    scheduler = get_scheduler("linear", optimizer, 0, steps)
    model, optimizer, train_loader, eval_loader, scheduler = accelerator.prepare(
        model, optimizer, train_loader, eval_loader, scheduler
    )
    model.train()
    for batch in train_loader:
        with accelerator.accumulate(model):
            loss = model(**batch).loss
            accelerator.backward(loss)
            optimizer.step()
            scheduler.step()
            optimizer.zero_grad()
    accelerator.save_state(str(Path(arguments.output_dir, "epoch_0")))
    model.eval()
    losses = []
    for batch in eval_loader:
        with torch.no_grad():
            loss = model(**batch).loss
        losses.append(accelerator.gather_for_metrics(loss.repeat(4)))
    perplexity = math.exp(torch.cat(losses).mean())
    accelerator.wait_for_everyone()
    accelerator.unwrap_model(model).save_pretrained(
        arguments.output_dir,
        is_main_process=accelerator.is_main_process,
        save_function=accelerator.save,
    )
    if accelerator.is_main_process:
        tokenizer.save_pretrained(arguments.output_dir)
        results = json.dumps({"perplexity": perplexity})
        Path(arguments.output_dir, "all_results.json").write_text(results)
    # Theirs ends here; a model that outlives its process group waits for ever in some runs.
    model, optimizer = accelerator.free_memory(model, optimizer)
    del loss
    gc.collect()
    accelerator.end_training()


if __name__ == "__main__":
    main()
