"""Publish a saved model on the Hub: weights, tokenizer, card, metrics and plots in one commit.

python scripts/push_to_hub.py outputs/quickstart my-reformer --private --dry_run

The token comes from HF_TOKEN or `hf auth login`. A folder without README.md gets a card, if the
Trainer's callback RunRecord has left run_record.json there.
"""

import argparse
import logging
import sys
from pathlib import Path

from huggingface_hub.utils import validate_repo_id

from reformer_hf.hub.card import RUN_RECORD, write_run_card
from reformer_hf.hub.files import CARD, describe_files
from reformer_hf.hub.remote_code import add_remote_code
from reformer_hf.hub.tokens import hide_tokens
from reformer_hf.hub.upload import plan_upload, push_folder


class _Parser(argparse.ArgumentParser):
    """Shows no token that was given where none belongs."""

    def error(self, message: str):
        super().error(hide_tokens(message))


def build_parser() -> argparse.ArgumentParser:
    """Describe the arguments; names are those of `huggingface_hub` and transformers."""
    parser = _Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("folder", help="what save_pretrained or the Trainer wrote")
    add("repo_id", help="owner/name, or a name of your own")
    privacy = parser.add_mutually_exclusive_group()
    private = {"dest": "private", "default": None}
    privacy.add_argument("--private", action="store_true", help="only you see it", **private)
    privacy.add_argument("--public", action="store_false", help="everybody sees it", **private)
    add("--revision", help="a branch (made if need be), or refs/pr/<number> of a pull request")
    add("--create_pr", action="store_true", help="open a pull request at an existing repository")
    add("--exist_ok", action="store_true", help="also write to a repository that holds files")
    add("--license", help="of the weights, for a card that is written now, such as apache-2.0")
    add("--commit_message", default="Upload model", help="title of the commit or pull request")
    add("--commit_description", help="what more there is to say")
    add(
        "--remote_code",
        action="store_true",
        help="first add the code to load it without the package",
    )
    add("--include_checkpoints", action="store_true", help="also optimizer and Trainer state")
    add("--ignore_patterns", nargs="+", default=[], metavar="PATTERN", help="names to leave out")
    add("--dry_run", action="store_true", help="only list what would go")
    return parser


def main(arguments: list[str] | None = None) -> int:
    """Upload, or list; a mistake that a user can mend becomes a message and an exit status."""
    options = vars(build_parser().parse_args(arguments))
    names = ("dry_run", "folder", "repo_id", "license", "remote_code")
    dry_run, folder, repo_id, license, remote_code = (options.pop(name) for name in names)
    selection = {name: options[name] for name in ("include_checkpoints", "ignore_patterns")}
    try:
        validate_repo_id(repo_id)
        if remote_code and dry_run:
            print(
                "The modules of this package would go, too: --remote_code adds them to the folder"
            )
        elif remote_code:
            add_remote_code(Path(folder))
        needs_card = not Path(folder, CARD).exists()
        if needs_card and Path(folder, RUN_RECORD).exists() and not dry_run:
            write_run_card(folder, repo_id.rpartition("/")[2], license)
        files = plan_upload(folder, **selection)
        print(describe_files(files))
        if CARD not in files:
            print(f"There is no {CARD} yet: without one the repository will have no model card")
        if dry_run:
            print(f"Nothing was sent. Without --dry_run these go to {repo_id}")
            return 0
        commit = push_folder(folder, repo_id, **options)
    except KeyboardInterrupt:
        print(
            "\nInterrupted. The same command goes on: large files that arrived are not sent again.",
            file=sys.stderr,
        )
        return 130
    except (ValueError, OSError) as error:
        print(f"error: {hide_tokens(' '.join(str(error).split()))}", file=sys.stderr)
        return 1
    print(f"Done: {commit.pr_url or commit.commit_url}")
    return 0


if __name__ == "__main__":
    logging.basicConfig(format="%(message)s")
    sys.exit(main())
