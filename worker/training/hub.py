"""Fetches a model from the hub: config, tokenizer and safetensors only, pinned to one commit."""

import re
from pathlib import Path
from typing import Any, cast

import httpx2
from huggingface_hub import HfApi, snapshot_download
from huggingface_hub.errors import (
    GatedRepoError,
    HFValidationError,
    LocalEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from worker.training.errors import HubUnreachable, ModelNotFound, ModelRefused

WEIGHTS = r"model(-\d+-of-\d+)?\.safetensors"
WANTED = re.compile(
    rf"config\.json|generation_config\.json|{WEIGHTS}|model\.safetensors\.index\.json|"
    r"tokenizer.*\.json|special_tokens_map\.json|added_tokens\.json|vocab\.(json|txt)|merges\.txt|"
    r".*\.model|.*\.spm|chat_template\.jinja"
)
CLIENT_ERRORS = range(400, 500)
TRY_LATER = (408, 429)


def fetch(model_id: str, revision: str) -> tuple[Path, str]:
    """Download what is needed of a hub model. Returns its folder and commit.

    A model that was fetched before is used from the cache where the hub cannot be reached.
    Raises ModelNotFound, ModelRefused or HubUnreachable.
    """
    try:
        files, commit = _listing(model_id, revision)
        wanted = [name for name in files if WANTED.fullmatch(name)]
        _check_weights(files, wanted, model_id)
        return Path(snapshot_download(model_id, revision=commit, allow_patterns=wanted)), commit
    except (GatedRepoError, RepositoryNotFoundError, RevisionNotFoundError, HFValidationError) as error:
        raise ModelNotFound(f"the hub has no model '{model_id}' at '{revision}' for this server: {error}") from error
    except (OSError, httpx2.HTTPError) as error:
        if _is_refusal(error):
            raise ModelNotFound(f"the hub does not give out '{model_id}' at '{revision}': {error}") from error
        return _from_cache(model_id, revision, error)


def _listing(model_id: str, revision: str) -> tuple[list[str], str]:
    info = HfApi().model_info(model_id, revision=revision)
    if info.sha is None:
        raise ModelNotFound(f"the hub names no commit for '{model_id}' at '{revision}'")
    return [sibling.rfilename for sibling in info.siblings or []], info.sha


def _check_weights(files: list[str], wanted: list[str], model_id: str) -> None:
    if not any(re.fullmatch(WEIGHTS, name) for name in wanted):
        kinds = sorted({Path(name).suffix for name in files if "/" not in name and Path(name).suffix})
        raise ModelRefused(
            f"the hub model '{model_id}' has no safetensors weights (its files are of the kinds {', '.join(kinds)})",
            "Choose a model or revision with model.safetensors; pickled weights are never loaded.",
        )


def _is_refusal(error: Exception) -> bool:
    status = cast("Any", getattr(error, "response", None))
    code = getattr(status, "status_code", None)
    return code in CLIENT_ERRORS and code not in TRY_LATER


def _from_cache(model_id: str, revision: str, reason: Exception) -> tuple[Path, str]:
    try:
        folder = Path(snapshot_download(model_id, revision=revision, local_files_only=True))
    except LocalEntryNotFoundError:
        raise HubUnreachable(f"model '{model_id}' could not be fetched from the hub: {reason}") from reason
    return folder, folder.name
