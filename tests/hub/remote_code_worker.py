"""Uses repositories with remote code in a process that knows neither this package nor jaxtyping.

    python remote_code_worker.py REPOSITORY OUTPUT_FOLDER [REPOSITORY OUTPUT_FOLDER ...]

For each it leaves `results.pt`, and in `saved/` what saving the trained model writes.
"""

import importlib.abc
import sys
from pathlib import Path
from typing import Any


class Missing(importlib.abc.MetaPathFinder):
    """Makes packages look as if they were not installed."""

    def find_spec(self, fullname: str, path: Any = None, target: Any = None) -> None:
        if fullname.partition(".")[0] in ("reformer_hf", "jaxtyping", "beartype"):
            raise ModuleNotFoundError(f"No module named {fullname!r}", name=fullname)


sys.meta_path.insert(0, Missing())

import torch  # noqa: E402
import transformers  # noqa: E402
from transformers import (  # noqa: E402
    AutoConfig,
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForSeq2SeqLM,
    AutoTokenizer,
    Trainer,
    TrainingArguments,
)


def main(repository: str, output: Path) -> dict[str, Any]:
    """Load, compare, generate, train, save and load again."""
    config = AutoConfig.from_pretrained(repository, trust_remote_code=True)
    return (use_encoder_decoder if config.is_encoder_decoder else use_all)(repository, output)


def use_encoder_decoder(repository: str, output: Path) -> dict[str, Any]:
    """The same with an encoder-decoder, bare and with its head, and no tokenizer."""
    bare = AutoModel.from_pretrained(repository, trust_remote_code=True)
    model = AutoModelForSeq2SeqLM.from_pretrained(repository, trust_remote_code=True)
    inputs = {"input_ids": torch.arange(3, 25).view(2, 11)}
    labels = torch.arange(5, 17).view(2, 6)
    with torch.no_grad():
        logits = model(**inputs, labels=labels).logits
        states = bare(**inputs).last_hidden_state
    generated = model.generate(**inputs, max_new_tokens=6, num_beams=2, do_sample=False)
    results = {"ids": inputs["input_ids"], "labels": labels}
    results |= {"logits": logits, "states": states, "generated": generated}
    return results | train(model.train(), {**inputs, "labels": labels}, output)


def train(model: Any, inputs: dict[str, Any], output: Path) -> dict[str, Any]:
    """One step; the model is saved."""
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    loss = model(**inputs).loss
    loss.backward()
    optimizer.step()
    model.save_pretrained(output / "saved")
    assert not {"reformer_hf", "jaxtyping"} & sys.modules.keys()
    return {"loss": loss.detach(), "trained": model.state_dict()}


def use_all(repository: str, output: Path) -> dict[str, Any]:
    """All heads load; the causal model is used."""
    results: dict[str, Any] = {}
    # The tokenizer needs no code, hence no trust.
    tokenizer = AutoTokenizer.from_pretrained(repository, trust_remote_code=False)
    inputs = tokenizer(["def f(x):", "return"], return_tensors="pt", padding=True)
    config = AutoConfig.from_pretrained(repository, trust_remote_code=True)
    heads = {
        name: getattr(transformers, name).from_pretrained(
            repository,
            trust_remote_code=True,
            is_decoder=name != "AutoModelForMaskedLM",  # which is never causal
        )
        for name in config.auto_map
        if name != "AutoConfig"
    }
    results["classes"] = {name: type(model).__name__ for name, model in heads.items()}

    model = AutoModelForCausalLM.from_pretrained(repository, trust_remote_code=True)
    results["ids"] = inputs.input_ids
    results["mask"] = inputs.attention_mask
    with torch.no_grad():
        results["logits"] = model(**inputs).logits
    options = {"max_new_tokens": 8, "do_sample": False}
    results["cached"] = model.generate(**inputs, **options)
    results["uncached"] = model.generate(**inputs, **options, use_cache=False)

    arguments = TrainingArguments(
        output_dir=str(output / "run"), label_smoothing_factor=0.1, use_cpu=True, report_to="none"
    )
    with torch.no_grad():
        batch = {"input_ids": inputs.input_ids[:1], "labels": inputs.input_ids[:1]}
        results["smoothed"] = Trainer(model, arguments).compute_loss(model.eval(), batch)
    results |= train(model.train(), {**inputs, "labels": inputs.input_ids}, output)
    tokenizer.save_pretrained(output / "saved")
    return results


if __name__ == "__main__":
    for repository, output in zip(sys.argv[1::2], map(Path, sys.argv[2::2]), strict=True):
        output.mkdir()
        torch.save(main(repository, output), output / "results.pt")
