"""Uses a repository with remote code in a process that knows neither this package nor jaxtyping.

    python remote_code_worker.py REPOSITORY OUTPUT_FOLDER

It leaves `results.pt`, and in `saved/` what saving the trained model writes.
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
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer  # noqa: E402


def main(repository: str, output: Path) -> dict[str, Any]:
    """Load, compare, generate, train, save and load again."""
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

    model.train()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    loss = model(**inputs, labels=inputs.input_ids).loss
    loss.backward()
    optimizer.step()
    results["loss"] = loss.detach()
    results["trained"] = model.state_dict()
    model.save_pretrained(output / "saved")
    tokenizer.save_pretrained(output / "saved")
    assert not {"reformer_hf", "jaxtyping"} & sys.modules.keys()
    return results


if __name__ == "__main__":
    folder = Path(sys.argv[2])
    torch.save(main(sys.argv[1], folder), folder / "results.pt")
