"""Runs lm-evaluation-harness, which then knows the models of this package.

It is that tool's own command line, after an import of this package:

python scripts/evaluate_lm_harness.py run --model hf --tasks wikitext \
    --model_args pretrained=outputs/quickstart,max_length=8192

`pip install "reformer_hf[eval]"` brings it. Models of the `chunk` scope need `--batch_size 1`: it
fills rows up without saying so, and there later tokens change earlier outputs.
"""

import sys

import reformer_hf  # noqa: F401  # registers the models


def main() -> None:
    """Hand over to the harness."""
    try:
        from lm_eval.__main__ import cli_evaluate  # type: ignore[import-not-found]  # an extra
    except ModuleNotFoundError as error:
        sys.exit(f"error: {error}. Install it: pip install 'reformer_hf[eval]'")
    cli_evaluate()


if __name__ == "__main__":
    main()
