import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sentence_transformers import CrossEncoder
from tiny import BAD, FILLER, GOOD
from transformers import pipeline

from app.specs import JobSpec
from worker.training.evaluation.metrics import compute
from worker.training.models.pretrained import load_tokenizer
from worker.training.tasks import TASKS
from worker.training.tasks.reranker import ACTIVATIONS

Train = Callable[..., Any]
TASK = TASKS["reranker"]
RANKED = ("ndcg_at_10", "mrr")


def documents(count: int, target: str = "label") -> list[dict[str, Any]]:
    """Four documents a query, of which one has a good word."""
    return [
        {
            "query": f"the {FILLER[n // 4 % 6]}",
            "document": f"{FILLER[n % 6]} {GOOD[n // 4 % 4] if n % 4 == n // 4 % 4 else BAD[n % 4]}",
            target: (2.5 if target == "score" else 1) if n % 4 == n // 4 % 4 else 0,
        }
        for n in range(count)
    ]


def spec(target: str = "label", **parts: Any) -> JobSpec:
    body: dict[str, Any] = {
        "task": {"type": "reranker", "target": target},
        "model": {"id": "local:tiny"},
        "data": {"train": {"rows": documents(48, target)}, "eval": {"rows": documents(16, target)}},
        "training": {"epochs": 8, "batch_size": 8, "learning_rate": 0.01, "logging_steps": 1},
        "resources": {"gpus": 0},
    }
    for name, part in parts.items():
        body[name] = {**body.get(name, {}), **part}
    return JobSpec.model_validate(body)


def measured(
    queries: str, scores: list[float], targets: list[float], names: tuple[str, ...], scratch: Path
) -> list[float]:
    predictions = [{"query": ord(query), "score": score} for query, score in zip(queries, scores, strict=True)]
    return list(compute(TASK.metrics, names, predictions, targets, scratch).values())


def encoded(asked: JobSpec, rows: list[dict[str, Any]], tokenizer: Any, max_length: int = 32) -> dict[str, list[Any]]:
    numbered = [{**row, "_row": number} for number, row in enumerate(rows, start=1)]
    return TASK.encode(numbered, tokenizer, asked, [], max_length, "train")


def predictions(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "evaluation" / "predictions.jsonl").read_text().splitlines()]


def test_ndcg_and_mrr_of_labels_are_those_computed_by_hand(tmp_path: Path) -> None:
    # Query a: the relevant documents have ranks 2 and 3. Query b: rank 1. The rows of the queries are mixed.
    found = measured("abaab", [0.9, 5.0, 0.8, 0.7, -2.0], [0, 1, 1, 1, 0], RANKED, tmp_path)
    ndcg = (1 / np.log2(3) + 1 / np.log2(4)) / (1 + 1 / np.log2(3))
    assert found == [pytest.approx((ndcg + 1) / 2), pytest.approx((1 / 2 + 1) / 2)]


def test_grades_are_gains_and_the_highest_grade_is_the_relevant_document(tmp_path: Path) -> None:
    found = measured("aaa", [3.0, 2.0, 1.0], [1, 3, 0], RANKED, tmp_path)
    ndcg = (1 + 3 / np.log2(3)) / (3 + 1 / np.log2(3))
    assert found == [pytest.approx(ndcg), pytest.approx(1 / 2)]


def test_the_lowest_of_negative_scores_is_the_gain_0(tmp_path: Path) -> None:
    found = measured("aaa", [3.0, 2.0, 1.0], [-4, -2, -5], RANKED, tmp_path)
    ndcg = (1 + 3 / np.log2(3)) / (3 + 1 / np.log2(3))
    assert found == [pytest.approx(ndcg), pytest.approx(1 / 2)]


def test_only_the_first_ten_documents_count_for_ndcg(tmp_path: Path) -> None:
    scores, targets = [float(-n) for n in range(12)], [0.0] * 11 + [1.0]
    assert measured("a" * 12, scores, targets, RANKED, tmp_path) == [0.0, pytest.approx(1 / 12)]


def test_queries_that_cannot_be_ranked_wrongly_do_not_count(tmp_path: Path) -> None:
    # b has one document, c only relevant ones, d none.
    found = measured("aabccdd", [1.0, 2.0, 1, 1, 2, 1, 2], [1, 0, 1, 1, 1, 0, 0], RANKED, tmp_path)
    assert found == [pytest.approx(1 / np.log2(3)), pytest.approx(1 / 2)]


def test_a_constant_model_gets_the_average_ndcg_and_the_worst_rank(tmp_path: Path) -> None:
    found = measured("aaa", [0.5] * 3, [1, 0, 0], RANKED, tmp_path)
    assert found == [pytest.approx((1 + 1 / np.log2(3) + 1 / 2) / 3), pytest.approx(1 / 3)]


def test_accuracy_and_spearman_are_over_all_rows(tmp_path: Path) -> None:
    assert measured("aabb", [0.1, -0.1, 0.2, 3.0], [1, 0, 0, 1], ("accuracy",), tmp_path) == [0.75]
    assert measured("aabb", [1.0, 2.0, 3.0, 4.0], [0.1, 5.0, 7.0, 6.0], ("spearman",), tmp_path) == [pytest.approx(0.8)]
    assert measured("ab", [1.0, 1.0], [0.0, 1.0], ("spearman",), tmp_path) == [0.0]


def test_the_document_is_truncated_and_the_query_stays(models_dir: Path) -> None:
    tokenizer = load_tokenizer(models_dir / "tiny")
    rows = [{"query": "the film", "document": "good " * 20, "label": 1}, {"query": "a", "document": "bad", "label": 0}]
    found = encoded(spec(), rows, tokenizer, 10)
    assert tokenizer.decode(found["input_ids"][0]) == "[CLS] the film [SEP] good good good good good [SEP]"
    assert (found["truncated"], found["labels"]) == ([True, False], [1.0, 0.0])


@pytest.mark.parametrize("target", ["label", "score"])
def test_the_loss_is_that_of_pytorch(target: str, models_dir: Path) -> None:
    asked, tokenizer = spec(target), load_tokenizer(models_dir / "tiny")
    model, head = TASK.build_model(models_dir / "tiny", asked, [])
    assert "classifier.weight" in head
    found = encoded(asked, documents(6, target), tokenizer)
    rows = [{name: found[name][place] for name in found if name != "truncated"} for place in range(6)]
    batch = TASK.collate(tokenizer, asked, 32)(rows)
    step = TASK.training_step(asked, [], None)(model.eval(), batch)
    # A model of transformers computes its own loss for its problem type.
    labels = torch.tensor(found["labels"]).unsqueeze(-1)
    assert step.num_items == 6
    expected = model(**batch.inputs, labels=labels).loss
    assert step.loss_sum.item() / 6 == pytest.approx(expected.item(), rel=1e-5)


@pytest.mark.parametrize("target", ["label", "score"])
def test_it_learns_to_rank_and_cross_encoder_predicts_the_same(target: str, train: Train) -> None:
    done = train(spec(target, evaluation={"at_start": True}))
    assert done.result["status"] == "succeeded", done.result
    losses = done.series("eval_loss")
    assert losses[max(losses)] < 0.5 * losses[0]
    assert done.result["metrics"]["eval_ndcg_at_10"] > 0.9
    assert set(done.resolved.metrics) == {*RANKED, "accuracy" if target == "label" else "spearman"}
    folder = done.out_dir / "model"
    lines = predictions(folder)
    pairs = [(line["query"], line["document"]) for line in lines]
    model = CrossEncoder(str(folder), device="cpu")
    assert model.predict(pairs) == pytest.approx([line["predicted"] for line in lines], abs=1e-4)
    assert model.rank(*[pairs[0][0], [document for _, document in pairs[:4]]])[0]["corpus_id"] == 0
    assert model.max_seq_length == done.resolved.max_length == 32
    classify = pipeline("text-classification", model=str(folder), device="cpu")
    answers = classify([{"text": query, "text_pair": document} for query, document in pairs])
    assert [answer["score"] for answer in answers] == pytest.approx([line["predicted"] for line in lines], abs=1e-4)


def test_a_truncated_document_is_scored_by_cross_encoder_as_in_the_evaluation(train: Train) -> None:
    rows = [{**row, "document": f"{row['document']} {'film ' * 9}bad"} for row in documents(16)]
    done = train(spec(tokenization={"max_length": 9}, data={"eval": {"rows": rows}}, training={"epochs": 1}))
    folder = done.out_dir / "model"
    lines = predictions(folder)
    scores = CrossEncoder(str(folder), device="cpu").predict([(line["query"], line["document"]) for line in lines])
    assert scores == pytest.approx([line["predicted"] for line in lines], abs=1e-4)


def test_a_published_reranker_is_a_start_for_another_target(train: Train, models_dir: Path, tmp_path: Path) -> None:
    first = train(spec(training={"epochs": 1}), "first")
    own = tmp_path / "own"
    shutil.copytree(first.out_dir / "model", own / "tiny")
    done = train(spec("score", training={"epochs": 1}), "second", models_dir=own)
    assert done.result["status"] == "succeeded", done.result
    assert any("already has a head of the right size" in record.get("message", "") for record in done.records)
    folder = done.out_dir / "model"
    assert (
        json.loads((folder / "config_sentence_transformers.json").read_text())["activation_fn"] == ACTIVATIONS["score"]
    )
    lines = predictions(folder)
    scores = CrossEncoder(str(folder), device="cpu").predict([(line["query"], line["document"]) for line in lines])
    assert scores == pytest.approx([line["predicted"] for line in lines], abs=1e-4)


def test_without_the_files_of_sentence_transformers_the_activation_is_that_of_the_configuration(train: Train) -> None:
    # As releases before 6 load it, and as it is after `AutoModel.save_pretrained`.
    folder = train(spec("score", training={"epochs": 1})).out_dir / "model"
    for name in ("modules.json", "config_sentence_transformers.json", "sentence_bert_config.json"):
        (folder / name).unlink()
    assert isinstance(CrossEncoder(str(folder), device="cpu").activation_fn, torch.nn.Identity)


def test_an_adapter_alone_has_no_files_of_sentence_transformers(train: Train) -> None:
    method = {"type": "lora", "rank": 4, "export": "adapter"}
    done = train(spec(training={"epochs": 1, "method": method}))
    folder = done.out_dir / "model"
    assert (folder / "adapter_model.safetensors").is_file()
    assert not [name for name in ("config.json", "modules.json") if (folder / name).exists()]
    assert "num_labels=1" in (folder / "README.md").read_text()


def test_queries_with_one_document_are_evaluated_row_by_row(train: Train) -> None:
    rows = [{**row, "query": f"the film {number}"} for number, row in enumerate(documents(8))]
    done = train(spec(data={"eval": {"rows": rows}}, training={"epochs": 1}))
    assert (done.resolved.metrics, done.resolved.best_by) == (["accuracy"], "accuracy")
    assert set(done.result["metrics"]) >= {"eval_accuracy", "eval_loss"}
    assert not any(name in done.result["metrics"] for name in ("eval_ndcg_at_10", "eval_mrr"))
    notes = [record["message"] for record in done.records if record["type"] == "note"]
    assert any("no two eval rows with the same 'query' have different 'label' values" in note for note in notes)


def test_held_out_queries_are_whole(train: Train) -> None:
    done = train(spec(data={"eval": None, "eval_fraction": 0.34}, training={"epochs": 1}))
    held = {line["query"] for line in predictions(done.out_dir / "model")}
    assert len(held) == 2
    assert done.resolved.rows == {"train": 32, "eval": 16}


@pytest.mark.parametrize("engine", ["trainer", "pytorch"])
def test_resuming_ends_where_an_undisturbed_run_does(train: Train, engine: str) -> None:
    asked = spec(training={"engine": engine, "epochs": 2}, checkpoints={"strategy": "steps", "every": 5})
    whole = train(asked, "whole")
    stopped = train(asked, "stopped", stop_when=lambda record: record.get("step") == 7)
    again = train(
        asked, "again", resume_from=max((stopped.out_dir / "checkpoints").iterdir()), resolved=stopped.resolved
    )
    assert again.weights == whole.weights
