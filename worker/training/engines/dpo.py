"""TRL's trainer for preferences, following our course. Rows come to it encoded, and with what the reference said of them."""

from typing import Any, cast

import datasets
import torch
from transformers import PrinterCallback

from app.specs.tasks.preference import Preference
from worker.training.engines.following import Follow, Following, arguments
from worker.training.evaluation.prediction import learned
from worker.training.loop.course import Course
from worker.training.methods import load_trainable
from worker.training.planning.plan import Plan
from worker.training.tasks.protocol import REFERENCE


def dpo_trainer(plan: Plan, course: Course) -> Following:
    """The trainer of this plan, whose encoded rows have their references."""
    # It takes long to import, and no other task needs it.
    from trl.trainer.dpo_config import DPOConfig  # noqa: PLC0415
    from trl.trainer.dpo_trainer import DataCollatorForPreference, DPOTrainer  # noqa: PLC0415

    class CourseDPOTrainer(Following, DPOTrainer):
        """DPOTrainer without the parts that would prepare rows, and compute references from a model that was resumed."""

        def _prepare_dataset(self, dataset: Any, *_: Any, **__: Any) -> Any:
            return dataset

        def _precompute_ref_logps(self, dataset: Any, name: str, batch_size: int) -> Any:
            return dataset

        def _get_num_items_in_batch(self, batch_samples: list[Any], device: torch.device) -> None:
            # Its loss is a mean already.
            return None

    asked = cast("Preference", plan.spec.task)
    trainer = CourseDPOTrainer.__new__(CourseDPOTrainer)
    trainer.follow(plan, course)
    model = load_trainable(plan)
    config = arguments(
        plan,
        DPOConfig,
        beta=asked.beta,
        loss_type=[asked.loss],
        precompute_ref_log_probs=True,
        max_length=None,
        gradient_checkpointing=plan.spec.training.gradient_checkpointing,
    )
    DPOTrainer.__init__(
        trainer,
        model=model,
        args=config,
        train_dataset=_as_trl_has_it(learned(plan)),
        processing_class=plan.tokenizer,
        data_collator=DataCollatorForPreference(pad_token_id=plan.tokenizer.pad_token_id),
        callbacks=[Follow(trainer)],
    )
    # A copy of the adapter, to compare with; our references do without.
    if "ref" in getattr(model, "peft_config", {}):
        model.delete_adapter("ref")
    # It prints each log to stdout, which is not ours to write on.
    trainer.remove_callback(PrinterCallback)
    return trainer


def _as_trl_has_it(rows: datasets.Dataset) -> datasets.Dataset:
    names = {f"{part}_input_ids": f"{part}_ids" for part in ("prompt", "chosen", "rejected")}
    said = [tuple(pair) for pair in rows[REFERENCE]]
    own = rows.remove_columns([REFERENCE]).rename_columns(names)
    own = own.add_column("ref_chosen_logps", [chosen for chosen, _ in said])
    return own.add_column("ref_rejected_logps", [rejected for _, rejected in said])
