"""Fetches a model from the hub: config, tokenizer and safetensors only, pinned to one commit.

What was fetched stays in the hub's own cache, and is found there by its revision while the hub is away:

    models--google-bert--bert-base-cased/refs/main                 the commit that `main` was when it was last fetched
    models--google-bert--bert-base-cased/trees/COMMIT.json         every file of that commit
    models--google-bert--bert-base-cased/snapshots/COMMIT/…        those that were wanted
"""

import logging
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any, cast
from uuid import uuid4

import httpx2
from huggingface_hub import HfApi, constants, get_cached_repo_tree, snapshot_download
from huggingface_hub.errors import (
    CachedRepoTreeNotFoundError,
    GatedRepoError,
    HFValidationError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.file_download import repo_folder_name

from worker.training.downloads import reported
from worker.training.errors import HubUnreachable, ModelNotFound, ModelRefused, nearest
from worker.training.reports import Reporter

log = logging.getLogger(__name__)

WEIGHTS = r"model(-\d+-of-\d+)?\.safetensors"
WANTED = re.compile(
    rf"config\.json|generation_config\.json|{WEIGHTS}|model\.safetensors\.index\.json|"
    r"tokenizer.*\.json|special_tokens_map\.json|added_tokens\.json|vocab\.(json|txt)|merges\.txt|"
    r".*\.model|.*\.spm|chat_template\.jinja"
)
CLIENT_ERRORS = range(400, 500)
TRY_LATER = (408, 429)


def fetch(model_id: str, revision: str, report: Reporter) -> tuple[Path, str]:
    """Download what is needed of a hub model. Returns its folder and commit.

    A model that was fetched before is used from the cache where the hub cannot be reached.
    Raises ModelNotFound, ModelRefused or HubUnreachable.
    """
    if revision.startswith("/") or ".." in revision:
        # No name in git is like this, and the cache makes a path of it.
        raise ModelNotFound(f"'{revision}' is not the name of a branch, tag or commit")
    try:
        files, commit = _listing(model_id, revision)
        wanted = _wanted(files)
        _check_weights(files, wanted, model_id)
        blobs = Path(constants.HF_HUB_CACHE) / repo_folder_name(repo_id=model_id, repo_type="model") / "blobs"
        with reported(report, f"model {model_id}", [blobs], _missing_bytes(model_id, commit, wanted)):
            folder = Path(snapshot_download(model_id, revision=commit, allow_patterns=wanted))
    except (GatedRepoError, RepositoryNotFoundError, RevisionNotFoundError, HFValidationError) as error:
        raise ModelNotFound(f"the hub has no model '{model_id}' at '{revision}' for this server: {error}") from error
    except (OSError, httpx2.HTTPError) as error:
        if _is_refusal(error):
            raise ModelNotFound(f"the hub does not give out '{model_id}' at '{revision}': {error}") from error
        return _from_cache(model_id, revision, error)
    _remember(folder, revision, commit)
    return folder, commit


def _listing(model_id: str, revision: str) -> tuple[list[str], str]:
    info = HfApi().model_info(model_id, revision=revision)
    if info.sha is None:
        raise ModelNotFound(f"the hub names no commit for '{model_id}' at '{revision}'")
    return [sibling.rfilename for sibling in info.siblings or []], info.sha


def _wanted(files: Iterable[str]) -> list[str]:
    return [name for name in files if WANTED.fullmatch(name)]


def _check_weights(files: list[str], wanted: list[str], model_id: str) -> None:
    if not any(re.fullmatch(WEIGHTS, name) for name in wanted):
        kinds = sorted({Path(name).suffix for name in files if "/" not in name and Path(name).suffix})
        raise ModelRefused(
            f"the hub model '{model_id}' has no safetensors weights (its files are of the kinds {', '.join(kinds)})",
            "Choose a model or revision with model.safetensors; pickled weights are never loaded.",
        )


def _missing_bytes(model_id: str, commit: str, wanted: list[str]) -> int:
    files = snapshot_download(model_id, revision=commit, allow_patterns=wanted, dry_run=True)
    return sum(file.file_size or 0 for file in files if file.will_download)


def _remember(folder: Path, revision: str, commit: str) -> None:
    # Only now that it is whole: a download by commit leaves no ref, and one by branch would leave it too early.
    if revision == commit:
        return
    ref = folder.parent.parent / "refs" / revision
    building = ref.with_name(f"{ref.name}.{uuid4().hex}")
    try:
        ref.parent.mkdir(parents=True, exist_ok=True)
        building.write_text(commit)
        building.replace(ref)
    except OSError as error:
        # The model is here; all that is lost is finding it while the hub is away.
        log.warning("'%s' of %s could not be remembered: %s", revision, folder.parent.parent.name, error)


def _is_refusal(error: Exception) -> bool:
    status = cast("Any", getattr(error, "response", None))
    code = getattr(status, "status_code", None)
    return code in CLIENT_ERRORS and code not in TRY_LATER


def _from_cache(model_id: str, revision: str, reason: Exception) -> tuple[Path, str]:
    try:
        # Without this list, a snapshot counts as incomplete that lacks any file of the repository.
        wanted = _wanted(file.path for file in get_cached_repo_tree(model_id, revision=revision))
    except CachedRepoTreeNotFoundError:
        # Another tool, or an older one, filled the cache: what is there is all we know.
        wanted = None
    try:
        folder = Path(snapshot_download(model_id, revision=revision, allow_patterns=wanted, local_files_only=True))
    except LocalEntryNotFoundError as error:
        raise _unreachable(model_id, reason) from error
    if not any(re.fullmatch(WEIGHTS, path.name) for path in folder.iterdir()):
        raise _unreachable(model_id, reason) from reason
    return folder, folder.name


def _unreachable(model_id: str, reason: Exception) -> HubUnreachable | ModelNotFound:
    if isinstance(reason, OfflineModeIsEnabled):
        # Another attempt would ask the hub no more than this one did.
        known = [
            path.name.removeprefix("models--").replace("--", "/")
            for path in Path(constants.HF_HUB_CACHE).glob("models--*")
        ]
        return ModelNotFound(
            f"this worker does not use the hub (HF_HUB_OFFLINE), and its cache does not hold all of model '{model_id}'."
            f"{nearest(model_id, known)}",
            "Check model.id, or download the model into the worker's cache first.",
        )
    return HubUnreachable(
        f"model '{model_id}' could not be fetched from the hub, and the cache does not hold all of it: {reason}"
    )
