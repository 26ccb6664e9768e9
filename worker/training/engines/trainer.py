"""The Hugging Face Trainer, following our course and our checkpoint protocol."""

import gc
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import torch
from transformers import PrinterCallback, TrainingArguments

from worker.training.checkpoints.shelf import Outcome
from worker.training.engines.dpo import dpo_trainer
from worker.training.engines.following import Follow, Following, arguments
from worker.training.evaluation.prediction import feed, predict
from worker.training.loop.course import Course
from worker.training.methods import load_trainable
from worker.training.planning.plan import Answers, Plan


class TrainerEngine:
    """Trains with `transformers.Trainer`."""

    def train(self, plan: Plan) -> Outcome:
        """Train, evaluate and save as the course says. Raises LossNotFinite."""
        course = _course(plan)
        trainer = TRAINERS.get(plan.spec.task.type, CourseTrainer)(plan, course)
        if course.evaluation_due:
            trainer.evaluate()
        if not course.finished and not plan.stop.is_set():
            trainer.train(resume_from_checkpoint=str(plan.resume_from) if plan.resume_from else None)
            course.loss_sum = trainer.loss_sum()
        outcome = trainer.shelf.outcome(trainer.model)
        # Trainer and its callback hold each other, and so model, gradients and optimiser: left to themselves they
        # would still fill the GPU when the published model is judged.
        del trainer
        gc.collect()
        return outcome

    def predict(self, plan: Plan, folder: Path, split: str) -> Answers:
        """Run a saved model over a split. Raises Stopped or ModelRefused."""
        return predict(plan, folder, split)


class CourseTrainer(Following):
    """Trainer with the loss of the task."""

    def __init__(self, plan: Plan, course: Course) -> None:
        self.follow(plan, course)
        super().__init__(
            model=load_trainable(plan),
            args=arguments(plan, TrainingArguments),
            train_dataset=cast("Any", feed(plan)),
            data_collator=cast("Any", plan.task.collate(plan.tokenizer, plan.spec, plan.resolved.max_length)),
            processing_class=plan.tokenizer,
            compute_loss_func=self._trainer_loss,
            callbacks=[Follow(self)],
        )
        # It prints each log to stdout, which is not ours to write on.
        self.remove_callback(PrinterCallback)

    def _get_num_items_in_batch(self, batch_samples: list[Any], device: torch.device) -> int | None:
        # What the task counts: Trainer itself counts every label, one a class where a row has several.
        weights = [self.plan.task.weight(batch["labels"]) for batch in batch_samples]
        return sum(weights) if weights else None

    def _trainer_loss(self, outputs: Any, labels: Any, num_items_in_batch: Any = None) -> torch.Tensor:
        return self.loss(outputs, labels, num_items_in_batch)


TRAINERS: dict[str, Callable[[Plan, Course], Following]] = {"preference": dpo_trainer}
"""Tasks whose library brings a Trainer of its own."""


def _course(plan: Plan) -> Course:
    if plan.resume_from:
        return Course.resume(plan.spec, plan.resolved, plan.steps_per_epoch, plan.resume_from)
    return Course.begin(plan.spec, plan.resolved, plan.steps_per_epoch, plan.head)
