"""Generate text with a checkpoint: the text streams to stdout, everything else goes to stderr.

python scripts/generate.py --model outputs/quickstart --prompt "def main(" --do_sample
python scripts/generate.py --model outputs/quickstart --prompt_file novel.txt
head -c 4000 novel.txt | python scripts/generate.py --model google/reformer-enwik8 --tokenizer byte
"""

import os
import secrets
import sys
import time
from argparse import RawDescriptionHelpFormatter
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    HfArgumentParser,
    StoppingCriteria,
    StoppingCriteriaList,
    set_seed,
)
from transformers.generation.streamers import BaseStreamer
from transformers.utils.logging import disable_progress_bar

import reformer_hf
from reformer_hf.training.data.documents import DocumentTokenizer
from reformer_hf.training.memory import peak_memory_bytes

PREFILL_CHUNK_SIZE = 8192


def _argument(default: Any, help: str, metavar: str | None = None) -> Any:
    return field(default=default, metadata={"help": help, "metavar": metavar})


@dataclass
class RunArguments:
    _argument_group_name = "checkpoint and prompt"
    model: str = field(metadata={"help": "Folder of a causal language model, or its Hub name."})
    prompt: str | None = _argument(None, "The prompt itself.", "TEXT")
    prompt_file: str | None = _argument(None, "UTF-8 file; '-' or nothing: stdin.", "PATH")
    echo_prompt: bool = _argument(False, "Write the prompt before its continuation.")
    tokenizer: str | None = _argument(None, "Default: the model's; 'byte' for bytes.", "NAME")
    assistant_model: str | None = _argument(None, "Smaller model that drafts tokens.", "MODEL")
    seed: int | None = _argument(None, "Seed of sampling. Default: a new one.", "N")
    dtype: Literal["auto", "float32", "float64", "bfloat16", "float16"] = _argument(
        "auto", "Precision of the weights: auto (default, as saved), float32, bfloat16, …", "NAME"
    )
    device: str | None = _argument(None, "Default: cuda if there is one, else cpu.", "NAME")


@dataclass
class GenerationArguments:
    _argument_group_name = "generation, named as in generate(); what is left out is the model's"
    max_new_tokens: int = _argument(200, "Tokens to write at most. Default: 200.", "N")
    do_sample: bool = _argument(False, "Draw tokens instead of taking the likeliest.")
    temperature: float | None = _argument(None, "Below 1 sharpens, above 1 flattens.", "X")
    top_p: float | None = _argument(None, "Draw from this share of the probability.", "X")
    top_k: int | None = _argument(None, "Draw from so many tokens; 0 for all.", "N")
    repetition_penalty: float | None = _argument(None, "Above 1 avoids repeated tokens.", "X")
    num_beams: int = _argument(1, "Above 1: beam search, which can not be streamed.", "N")
    prompt_lookup_num_tokens: int | None = _argument(None, "Draft so many from earlier text.", "N")
    prefill_chunk_size: int | None = _argument(
        None, "Tokens of the prompt read at once. Default: 8192 in the band scope, else all.", "N"
    )
    num_hashes: int | None = _argument(None, "Rounds of hashing.", "N")
    use_cache: bool = field(default=True, metadata={"help": "Keep a cache (default) or not."})

    def __post_init__(self):
        # What generate() would ignore or stumble over; it checks the rest.
        for name in ("num_beams", "prompt_lookup_num_tokens", "prefill_chunk_size"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name}={value}: must be 1 or more")
        if self.top_p is not None and not 0 < self.top_p <= 1:
            raise ValueError(f"top_p={self.top_p}: must be above 0 and at most 1")
        for name in ("temperature", "top_p", "top_k"):
            if getattr(self, name) is not None and not self.do_sample:
                raise ValueError(f"{name}={getattr(self, name)} is for sampling: add --do_sample")


class StepClock(StoppingCriteria):
    """Never stops anything; notes time and length at the first and the last step."""

    def __init__(self, prompt_tokens: int):
        self.prompt_tokens = self.first_length = self.length = prompt_tokens
        self.start = self.first = self.last = time.perf_counter()
        self.ids: Tensor | None = None

    def __call__(self, input_ids: Tensor, scores: Any, **kwargs: Any) -> Any:
        input_ids[:, -1].tolist()  # waits for the device, or the time is that of the launch
        self.last, self.length = time.perf_counter(), input_ids.shape[1]
        if self.ids is None:
            self.first, self.first_length = self.last, self.length
        self.ids = input_ids
        return torch.zeros(len(input_ids), dtype=torch.bool, device=input_ids.device)

    def report(self) -> str:
        """Say how fast prefill and decode were; the first step is the prefill."""
        prefill, decode = "prefill not finished", ""
        if self.ids is not None:
            seconds = self.first - self.start
            prefill = f"prefill {seconds:.2f} s ({self.prompt_tokens / seconds:,.0f} tokens/s)"
        if self.length > self.first_length:
            rate = (self.length - self.first_length) / (self.last - self.first)
            decode = f", decode {self.last - self.first:.2f} s ({rate:,.1f} tokens/s)"
        return (
            f"prompt: {self.prompt_tokens:,} tokens, {prefill}\n"
            f"new: {self.length - self.prompt_tokens:,} tokens{decode}\n"
            f"peak resident memory: {(peak_memory_bytes() or 0) / 1e9:.2f} GB"
        )


class TextStream(BaseStreamer):
    """Writes the text of tokens to stdout as soon as its characters are whole.

    A token's text may depend on some before it (the space of a piece, the bytes of a character), so
    a window of the last tokens is decoded; to decode all of them would cost more at each step.
    """

    window, context = 64, 16  # tokens: when to shorten it, and to what

    def __init__(self, tokenizer: Any, echo: str):
        self.decode = partial(tokenizer.decode, skip_special_tokens=True)
        self.special_ids, self.echo = set(tokenizer.all_special_ids), echo
        self.ids: list[int] = []  # the window
        self.written = 0  # characters of its text
        self.prompt_is_next = True

    def put(self, value: Tensor) -> None:
        """Take the prompt, and then the tokens of each step."""
        self.ids += [index for index in value.flatten().tolist() if index not in self.special_ids]
        text = self.decode(self.ids)
        # A character's first bytes decode to replacement characters until the others are there.
        end = len(text.rstrip("\ufffd"))
        no_text = len(self.ids) > 2 * self.window  # but bytes that begin nothing
        if self.prompt_is_next:
            self.prompt_is_next, self.written = False, len(text)
        elif no_text:
            end = max(end, len(text) - 3)
        self._write(text[self.written : end])
        self.written = max(self.written, end)
        if no_text or (len(self.ids) > self.window and self.written == len(text)):
            self._shorten(text)

    def end(self) -> None:
        """Write what waited, and a line break."""
        self._write(self.decode(self.ids)[self.written :] + "\n")

    def _shorten(self, text: str) -> None:
        waiting = len(text) - self.written
        for size in range(self.context, self.window):
            tail = self.decode(self.ids[-size:])
            if text.endswith(tail) and len(tail) >= waiting:  # it begins with a whole character
                self.ids, self.written = self.ids[-size:], len(tail) - waiting
                return

    def _write(self, text: str) -> None:
        print(self.echo + text, end="", flush=True)
        self.echo = ""


def read_prompt(arguments: RunArguments) -> str:
    """Find the prompt: argument, file or stdin."""
    text, path = arguments.prompt, arguments.prompt_file
    if text is not None and path is not None:
        raise ValueError("prompt and prompt_file are both given: choose one")
    if text is None and path is None and sys.stdin.isatty():
        raise ValueError("no prompt: give --prompt or --prompt_file, or pipe one into stdin")
    if text is None:
        data = sys.stdin.buffer.read() if path in (None, "-") else Path(path).read_bytes()
        try:
            text = data.decode("utf-8-sig")
        except UnicodeDecodeError as error:
            raise ValueError(f"prompt_file={path or '-'} is not UTF-8 text: {error}") from error
    if not text:
        raise ValueError("the prompt is empty: give at least one character to continue")
    return text


def choose_device(name: str | None) -> str:
    """Check a device, or choose one."""
    name = name or ("cuda" if torch.cuda.is_available() else "cpu")
    try:
        torch.empty(0, device=name)
        return name
    except (RuntimeError, AssertionError) as error:  # torch raises either
        raise ValueError(f"device={name}: {str(error).splitlines()[0]}") from error


def from_pretrained(auto_class: Any, name: str, **options: Any) -> Any:
    """Load from a folder or the Hub."""
    try:
        return auto_class.from_pretrained(name, **options)
    except (OSError, ValueError) as error:
        if Path(name).exists():
            raise
        raise OSError(f"{name} is no folder here, and the Hub did not give it: {error}") from error


def load(arguments: RunArguments) -> tuple[Any, Any, Any]:
    """Load model, tokenizer and assistant, which may be None."""
    start, device = time.perf_counter(), choose_device(arguments.device)
    options = {"dtype": arguments.dtype, "device_map": device}
    load_model = partial(from_pretrained, AutoModelForCausalLM, **options)
    model = load_model(arguments.model)
    assistant = arguments.assistant_model and load_model(arguments.assistant_model)
    if arguments.tokenizer == "byte":
        tokenizer = reformer_hf.ReformerHFByteTokenizer()
    else:
        tokenizer = from_pretrained(AutoTokenizer, arguments.tokenizer or arguments.model)
    print(
        f"{arguments.model}: {model.num_parameters():,} parameters, {model.dtype}, {model.device}, "
        f"loaded in {time.perf_counter() - start:.1f} s",
        file=sys.stderr,
    )
    return model, tokenizer, assistant


def choose_options(
    arguments: GenerationArguments, model: Any, assistant: Any, prompt_tokens: int
) -> dict[str, Any]:
    """Collect the arguments of `generate()`."""
    options = asdict(arguments) | {"assistant_model": assistant}
    options = {name: value for name, value in options.items() if value is not None}
    drafts = options.keys() & {"assistant_model", "prompt_lookup_num_tokens"}
    if drafts and arguments.prefill_chunk_size:
        raise ValueError(
            f"prefill_chunk_size with {min(drafts)}: generate() reads the prompt at once when it "
            "drafts tokens; leave one of them out"
        )
    in_blocks = arguments.use_cache and not drafts and prompt_tokens > PREFILL_CHUNK_SIZE
    if in_blocks and getattr(model.config, "attention_scope", None) == "band":
        options.setdefault("prefill_chunk_size", PREFILL_CHUNK_SIZE)
    return options


def write(prompt: str, run: RunArguments, generation: GenerationArguments) -> int:
    """Continue the prompt on stdout, report on stderr, and return the exit status."""
    model, tokenizer, assistant = load(run)
    # Without the end of sequence that some tokenizers put behind a text: it goes on.
    ids = torch.tensor(DocumentTokenizer(tokenizer)([prompt], [True], [False])).to(model.device)
    options = choose_options(generation, model, assistant, ids.shape[1])
    if generation.do_sample:
        seed = secrets.randbelow(2**32) if run.seed is None else run.seed
        set_seed(seed)
        print(f"seed: {seed}", file=sys.stderr)
    stream, clock = TextStream(tokenizer, prompt * run.echo_prompt), StepClock(ids.shape[1])
    streamed, status = generation.num_beams == 1, 0
    try:
        sequences = model.generate(
            input_ids=ids,
            attention_mask=torch.ones_like(ids),
            streamer=stream if streamed else None,
            stopping_criteria=StoppingCriteriaList([clock]),
            **options,
        )
    except KeyboardInterrupt:
        status, sequences = 130, ids if clock.ids is None else clock.ids
    if not streamed:  # the best beam, as if it came in one step
        stream.put(ids)
        stream.put(sequences[0, ids.shape[1] :])
    if status or not streamed:  # else generate() has done it
        stream.end()
    print(clock.report(), file=sys.stderr)
    return status


def main(arguments: list[str] | None = None) -> int:
    """Run, and turn what a user can mend into a message and an exit status."""
    disable_progress_bar()  # those of loading
    parser = HfArgumentParser(
        [RunArguments, GenerationArguments],  # type: ignore[arg-type]
        description=__doc__,
        formatter_class=RawDescriptionHelpFormatter,
    )
    try:
        run, generation = parser.parse_args_into_dataclasses(arguments)
        return write(read_prompt(run), run, generation)
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:  # the reader has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except (ValueError, OSError, ImportError) as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    # Not in main(): both hold for the whole process.
    reformer_hf.register(override_stock=True)
    sys.stdout.reconfigure(errors="replace")  # type: ignore[union-attr]
    sys.exit(main())
