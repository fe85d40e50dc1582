"""Which model a training script starts from, with the names of transformers' example scripts."""

from dataclasses import dataclass, field

from reformer_hf.training.data_arguments import argument


@dataclass
class PretrainedModelArguments:
    """A checkpoint to go on from, or a configuration to start from, and what of it is trained."""

    _argument_group_name = "model"

    model_name_or_path: str | None = argument(
        None, "Checkpoint to start from: of this package, or in the format of google/reformer-*."
    )
    config_name: str | None = argument(
        None, "Configuration to start from, with random weights, if it is not the checkpoint's."
    )
    config_overrides: str | None = argument(
        None,
        "Fields of the configuration of a model with random weights, for example "
        "'hidden_size=512,attn_layers=[local,lsh],num_hashes=4'.",
    )
    tokenizer_name: str | None = argument(
        None,
        "Tokenizer, if it is not the model's; 'bytes' for ReformerHFByteTokenizer, which is also "
        "what a model with random weights gets.",
    )
    cache_dir: str | None = argument(None, "Where downloads and prepared data are kept.")
    model_revision: str = argument("main", "Branch, tag or commit of the checkpoint.")
    token: str | None = argument(
        None, "Token for private repositories. Default: the one of `hf auth login`."
    )
    trust_remote_code: bool = argument(False, "Run the code of a tokenizer's repository.")
    dtype: str | None = argument(
        None,
        "Type of the parameters. Default: float32, whatever the checkpoint has; for bfloat16 "
        "arithmetic with float32 parameters use --bf16 or --mixed_precision instead.",
        choices=["auto", "bfloat16", "float16", "float32"],
    )
    attn_implementation: str | None = argument(
        None, "How attention is computed.", choices=["sdpa", "eager", "flex_attention"]
    )
    freeze_embeddings: bool = argument(False, "Do not train word and position embeddings.")
    use_lora: bool = argument(False, "Train LoRA adapters instead of the weights (needs peft).")
    lora_r: int = argument(8, "Rank of the adapters.")
    lora_alpha: int = argument(16, "Scale of the adapters, times lora_r.")
    lora_dropout: float = argument(0.0, "Dropout before the adapters.")
    lora_target_modules: list[str] = field(
        default_factory=lambda: ["all-linear"],
        metadata={"help": "Modules with adapters: 'all-linear', or names such as query_key value."},
    )

    def __post_init__(self):
        if self.config_overrides and self.model_name_or_path:
            raise ValueError(
                f"config_overrides={self.config_overrides!r} with model_name_or_path: the weights "
                "fit their own configuration; leave one of the two out"
            )
        if self.lora_r < 1:
            raise ValueError(f"lora_r={self.lora_r}: must be at least 1")
