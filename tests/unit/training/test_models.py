import json
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import BertForSequenceClassification

from app.specs import JobSpec
from worker.training.errors import ArchitectureUnsupported, ModelConfigInvalid, ModelNotFound, ModelRefused
from worker.training.models.pretrained import load_config, load_tokenizer, locate, token_limit
from worker.training.reports import Reporter
from worker.training.request import TrainingRequest
from worker.training.tasks import TASKS

Make = Callable[..., JobSpec]
LABELS = ["bad", "good"]


@pytest.fixture
def folder(models_dir: Path, tmp_path: Path) -> Path:
    return shutil.copytree(models_dir / "tiny", tmp_path / "models" / "tiny")


def find(spec: JobSpec, models: Path | None) -> Path:
    with tempfile.TemporaryDirectory() as out:
        request = TrainingRequest(spec, Path(out), {}, models, {}, None, None)
        return locate(request, Reporter(request.out_dir)).folder


def build(spec: JobSpec, folder: Path) -> tuple[Any, tuple[str, ...]]:
    return TASKS["text-classification"].build_model(folder, spec, LABELS)


def test_a_local_model_is_found_through_an_operators_symlink(spec: Make, folder: Path, tmp_path: Path) -> None:
    (tmp_path / "links").mkdir()
    (tmp_path / "links" / "linked").symlink_to(folder)
    assert find(spec(model="local:linked"), tmp_path / "links").name == "linked"


def test_an_unknown_local_model_names_the_nearest(spec: Make, folder: Path) -> None:
    with pytest.raises(ModelNotFound, match=r"there are: tiny\. Did you mean 'tiny'\?"):
        find(spec(model="local:tiney"), folder.parent)
    with pytest.raises(ModelNotFound, match="no models folder"):
        find(spec(), None)


def test_a_model_of_a_job_that_is_not_here_is_reported(spec: Make) -> None:
    with pytest.raises(ModelNotFound, match="job_aaaa"):
        find(spec(model="job:job_" + "a" * 26), None)


def test_pickled_weights_are_refused(spec: Make, folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with pytest.raises(ModelRefused, match=r"pytorch_model\.bin"):
        find(spec(), folder.parent)


@pytest.mark.parametrize(
    "extra",
    [
        {"auto_map": {"AutoModel": "code.Model"}},
        {"_attn_implementation": "someone/kernel"},
        {"_attn_implementation_internal": "x"},
        {"text_config": {"auto_map": {}}},
    ],
)
def test_a_config_that_brings_code_is_refused(spec: Make, folder: Path, extra: dict[str, Any]) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, **extra}))
    with pytest.raises(ModelRefused, match="code of its own"):
        find(spec(), folder.parent)


def test_a_leftover_mark_in_the_config_is_harmless(spec: Make, folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "_attn_implementation_autoset": True}))
    assert find(spec(), folder.parent) == folder


def test_the_new_head_is_seeded_and_named(spec: Make, folder: Path) -> None:
    model, head = build(spec(), folder)
    again, _ = build(spec(), folder)
    other, _ = build(spec(training={"seed": 1}), folder)
    assert head == ("classifier.bias", "classifier.weight")
    assert torch.equal(model.classifier.weight, again.classifier.weight)
    assert not torch.equal(model.classifier.weight, other.classifier.weight)
    assert model.config.id2label == {0: "bad", 1: "good"}


def test_a_trained_head_of_the_same_size_is_kept_and_another_is_made_anew(
    spec: Make, folder: Path, tmp_path: Path
) -> None:
    for classes, new in ((2, ()), (3, ("classifier.bias", "classifier.weight"))):
        trained = BertForSequenceClassification.from_pretrained(folder, num_labels=classes)
        trained.save_pretrained(tmp_path / str(classes))
        assert build(spec(), tmp_path / str(classes))[1] == new


def test_a_setting_that_the_model_lacks_names_the_nearest(spec: Make, folder: Path) -> None:
    asked = spec(model={"config": {"hidden_dropout": 0.2}})
    with pytest.raises(ModelConfigInvalid, match=r"Did you mean 'hidden_dropout_prob'"):
        build(asked, folder)


@pytest.mark.parametrize("config", [{"hidden_dropout_prob": "much"}, {"hidden_act": "no-such"}])
def test_a_setting_of_a_wrong_value_is_reported(spec: Make, folder: Path, config: dict[str, Any]) -> None:
    with pytest.raises(ModelConfigInvalid):
        build(spec(model={"config": config}), folder)


def test_a_setting_that_makes_weights_unfit_is_refused(spec: Make, folder: Path) -> None:
    with pytest.raises(ModelRefused, match="do not fit"):
        build(spec(model={"config": {"intermediate_size": 16}}), folder)
    with pytest.raises(ModelRefused, match="do not fit"):
        build(spec(model={"config": {"num_hidden_layers": 3}}), folder)


def test_dropout_and_attention_can_be_chosen(spec: Make, folder: Path) -> None:
    model, _ = build(spec(model={"config": {"hidden_dropout_prob": 0.3}, "attn_implementation": "eager"}), folder)
    assert model.config.hidden_dropout_prob == 0.3
    assert model.config._attn_implementation == "eager"  # noqa: SLF001 - it has no other name


def test_a_tokenizer_without_padding_pads_with_its_end(spec: Make, folder: Path) -> None:
    path = folder / "tokenizer_config.json"
    config = json.loads(path.read_text())
    config.pop("pad_token")
    path.write_text(json.dumps({**config, "eos_token": "[SEP]"}))
    assert load_tokenizer(folder).pad_token == "[SEP]"
    path.write_text(json.dumps(config))
    with pytest.raises(ModelRefused, match="neither"):
        load_tokenizer(folder)


def test_the_token_limit_is_the_smaller_of_model_and_tokenizer(spec: Make, folder: Path) -> None:
    tokenizer, config = load_tokenizer(folder), load_config(folder, spec())
    assert token_limit(config, tokenizer) == 32
    tokenizer.model_max_length = 20
    assert token_limit(config, tokenizer) == 20
    config.model_type, config.pad_token_id = "roberta", 1
    tokenizer.model_max_length = 10**30
    assert token_limit(config, tokenizer) == 30


def test_an_architecture_without_such_a_head_is_named_and_the_others_are_not(spec: Make, folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "model_type": "vit"}))
    with pytest.raises(ArchitectureUnsupported, match="no text-classification model of the type vit") as caught:
        build(spec(), folder)
    assert len(caught.value.failure.message) < 100
    assert "AutoModelForSequenceClassification" in caught.value.failure.hint
    assert "engine" not in caught.value.failure.hint
