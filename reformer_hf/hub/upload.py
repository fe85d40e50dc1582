"""Publishing a folder: the repository, and all the folder's files in one commit."""

from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from huggingface_hub import CommitInfo, CommitOperationAdd, HfApi
from huggingface_hub.errors import HfHubHTTPError, LocalTokenNotFoundError, RepositoryNotFoundError
from huggingface_hub.utils import validate_repo_id

from reformer_hf.hub.files import check_files, select_files
from reformer_hf.hub.tokens import find_token

HTTPError: Any = HfHubHTTPError.__bases__[0]
"""Root of the errors of the HTTP library, which differs between versions of `huggingface_hub`."""


def plan_upload(
    folder: str | Path,
    include_checkpoints: bool = False,
    ignore_patterns: Sequence[str] = (),
    token: str | None = None,
) -> dict[str, Path]:
    """Choose and check what :func:`push_folder` would send, without a request.

    Returns:
        Name in the repository to path on this machine.

    Raises:
        ValueError: if no model could be loaded from these files, or one holds a token.
    """
    files = select_files(Path(folder), include_checkpoints, ignore_patterns)
    check_files(Path(folder), files, find_token(token))
    return files


def push_folder(
    folder: str | Path,
    repo_id: str,
    *,
    private: bool | None = None,
    revision: str | None = None,
    create_pr: bool = False,
    exist_ok: bool = False,
    commit_message: str = "Upload model",
    commit_description: str | None = None,
    token: str | None = None,
    include_checkpoints: bool = False,
    ignore_patterns: Sequence[str] = (),
) -> CommitInfo:
    """Upload a saved model with all that lies beside it, in one commit.

    `huggingface_hub` repeats the requests that carry large files and raises its own errors. After
    an interruption the same call goes on: large files that arrived are not sent again.
    (`huggingface_hub`'s own `upload_folder` may make several commits.)

    Args:
        folder: what `save_pretrained` or the Trainer wrote, with card, metrics and plots.
        repo_id: `owner/name`, or a name of your own.
        private: for a repository that does not exist yet; None for the owner's default.
        revision: a branch, made if it does not exist, or `refs/pr/<number>` of a pull request.
        create_pr: open a pull request at an existing repository.
        exist_ok: also write to a repository that holds files already.
        commit_message: title of the commit or pull request.
        commit_description: what more there is to say.
        token: with the right to write; None for HF_TOKEN or the login on this machine.
        include_checkpoints: also checkpoints and the optimizer's state.
        ignore_patterns: names to leave out.

    Returns:
        Address and id of the commit, and of the pull request.

    Raises:
        ValueError: if an argument, the folder or the card is wrong; no file was sent.
        OSError: if there is no token, the Hub refuses, or it cannot be reached.
    """
    validate_repo_id(repo_id)
    if not commit_message:
        raise ValueError("commit_message='': give a title")
    files = plan_upload(folder, include_checkpoints, ignore_patterns, token)
    if (found := find_token(token)) is None:
        raise LocalTokenNotFoundError(
            "no token: make one with the right to write at https://huggingface.co/settings/tokens, "
            "then set HF_TOKEN or run `hf auth login`"
        )
    api = HfApi(token=found, library_name="reformer_hf", library_version=version("reformer_hf"))
    try:
        if "/" not in repo_id:
            repo_id = f"{api.whoami()['name']}/{repo_id}"
        _prepare_repository(api, repo_id, private, create_pr, exist_ok)
        if revision is not None and not revision.startswith("refs/"):
            api.create_branch(repo_id, branch=revision, exist_ok=True)
        return api.create_commit(
            repo_id,
            [CommitOperationAdd(name, path) for name, path in files.items()],
            commit_message=commit_message,
            commit_description=commit_description,
            revision=revision,
            create_pr=create_pr,
        )
    except HTTPError as error:
        if isinstance(error, HfHubHTTPError):
            raise
        raise ConnectionError(
            f"no answer from {api.endpoint} ({error}). Check the network, proxies and HF_ENDPOINT, "
            "then run the same again: large files that arrived are not sent twice"
        ) from error


def _prepare_repository(
    api: HfApi, repo_id: str, private: bool | None, create_pr: bool, exist_ok: bool
) -> None:
    """Create the repository, or see that the existing one is meant."""
    try:
        info = api.model_info(repo_id)
    except RepositoryNotFoundError as error:
        if create_pr:
            raise ValueError(
                f"create_pr=True: {repo_id} is not there, or not yours to see. Leave out create_pr "
                "to create it"
            ) from error
        api.create_repo(repo_id, private=private)
        return
    if private and not info.private:
        raise ValueError(
            f"private=True, but {repo_id} is public already, and uploading does not change that. "
            "Make it private in its settings, or leave out private"
        )
    files = {file.rfilename for file in info.siblings or []} - {".gitattributes"}
    if files and not (exist_ok or create_pr):
        raise ValueError(
            f"{repo_id} exists already, with {len(files)} files. To write a commit on top give "
            "exist_ok, to propose one create_pr; or choose another name"
        )
