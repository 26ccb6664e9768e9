from pathlib import Path

import huggingface_hub.constants
import pytest

from worker.training.errors import HubUnreachable, ModelRefused
from worker.training.hub import WANTED, fetch
from worker.training.models import check_weights

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    return tmp_path


def test_an_unreachable_hub_is_told_and_may_be_retried(cache: Path) -> None:
    with pytest.raises(HubUnreachable, match="google-bert/bert-base-cased") as caught:
        fetch("google-bert/bert-base-cased", "main")
    assert caught.value.retryable
    assert "local:NAME" in caught.value.hint


def test_a_model_in_the_cache_needs_no_hub(cache: Path) -> None:
    repository = cache / "models--someone--model"
    (repository / "snapshots" / COMMIT).mkdir(parents=True)
    (repository / "snapshots" / COMMIT / "config.json").write_text("{}")
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(COMMIT)
    assert fetch("someone/model", "main") == (repository / "snapshots" / COMMIT, COMMIT)
    assert fetch("someone/model", COMMIT)[1] == COMMIT


@pytest.mark.parametrize(
    "name",
    [
        "config.json",
        "model.safetensors",
        "model-00001-of-00002.safetensors",
        "tokenizer.json",
        "vocab.txt",
        "spm.model",
    ],
)
def test_what_a_model_needs_is_fetched(name: str) -> None:
    assert WANTED.fullmatch(name)


@pytest.mark.parametrize(
    "name", ["pytorch_model.bin", "modeling_x.py", "onnx/model.onnx", "model.fp16.safetensors", "x/model.safetensors"]
)
def test_pickles_code_and_other_variants_are_not(name: str) -> None:
    assert not WANTED.fullmatch(name)


def test_a_model_with_neither_kind_of_weights_is_refused() -> None:
    with pytest.raises(ModelRefused, match="has no weights"):
        check_weights(["config.json"], "m")
