"""The Hugging Face Trainer, with our training step, our training state and our checkpoint protocol.

Trainer's own evaluation and saving strategies stay off. A callback raises its flags at the end of each step, our
`evaluate` follows, and what Trainer then saves into scratch is committed as a checkpoint of ours.
"""

import gc
import math
from pathlib import Path
from typing import Any, cast

import torch
from torch.utils.data import DataLoader
from transformers import PrinterCallback, Trainer, TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from worker.training.checkpoints.checkpoint_manager import CheckpointManager, TrainedModel
from worker.training.checkpoints.snapshot import Snapshot, load_optimizer
from worker.training.engines.protocol import Engine
from worker.training.errors import LossNotFinite, Stopped
from worker.training.evaluation.evaluation import evaluate
from worker.training.evaluation.prediction import forward, gather, predict, training_step
from worker.training.loop.code_paths import CodePaths
from worker.training.loop.compilation import Compilation
from worker.training.loop.feed import batches_of, feed
from worker.training.loop.fused_layers import FusedLayers
from worker.training.loop.pace import Pace, hidden_size
from worker.training.loop.state import TrainingState
from worker.training.methods import load_trainable, publishes_as_trained
from worker.training.planning.plan import Answers, Plan
from worker.training.tasks.protocol import Batch, set_epoch

# The fused AdamW is one kernel for all weights: a step of a 23 M encoder took 20 % less CPU time with it.
OPTIMIZERS = {"adamw": "adamw_torch_fused", "adafactor": "adafactor", "sgd": "sgd"}


class TrainerEngine(Engine):
    """Trains with `transformers.Trainer`."""

    def train(self, plan: Plan) -> TrainedModel:
        """Train, evaluate and save. Raises LossNotFinite."""
        plan.report.phase("training")
        training_state = _training_state(plan)
        trainer = TunesmithTrainer(plan, training_state)
        with trainer.checkpoints:
            if training_state.evaluation_due:
                trainer.evaluate()
            if not training_state.finished and not plan.stop.is_set():
                trainer.train(resume_from_checkpoint=str(plan.resume_from) if plan.resume_from else None)
                training_state.loss_sum = trainer.loss_sum()
            trained = trainer.checkpoints.trained(trainer.model)
        # Trainer and its callback hold each other, and so the model, gradients and optimizer. Without a collection they
        # would still fill the GPU while the published model is evaluated.
        del trainer
        gc.collect()
        return trained

    def predict(self, plan: Plan, folder: Path, split: str) -> Answers:
        """Run a saved model over a split. Raises Stopped or ModelRefused."""
        return predict(plan, folder, split)


class TunesmithTrainer(Trainer):
    """A Trainer with the task's training step, our evaluation loop, and a learning rate of its own for the head."""

    def __init__(self, plan: Plan, training_state: TrainingState) -> None:
        self.plan, self.training_state = plan, training_state
        self.task_step = training_step(plan)
        self.checkpoints = CheckpointManager(plan, training_state)
        self.earlier_loss = training_state.loss_sum
        model = load_trainable(plan)
        self.pace = Pace(plan, training_state, hidden_size(model), is_evaluated_again=not publishes_as_trained(plan))
        self.compilation = Compilation(plan, model, self.pace)
        self.fused_layers = FusedLayers(plan)
        self.code_paths = CodePaths(plan, model, [self.compilation, self.fused_layers])
        super().__init__(
            model=model,
            args=_arguments(plan),
            train_dataset=cast("Any", feed(plan)),
            data_collator=cast("Any", plan.task.collate(plan.tokenizer, plan.spec, plan.resolved.max_length)),
            processing_class=plan.tokenizer,
            callbacks=[Follow(self)],
        )
        # `compute_loss` divides by the items of the whole step, so Trainer must not divide by the number of batches.
        self.loss_is_scaled_for_ga = True
        # It prints each log to stdout, which is not ours to write on.
        self.remove_callback(PrinterCallback)

    def compute_loss(
        self, model: Any, inputs: Any, return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> torch.Tensor:
        """The loss of one batch, divided by the items of the whole optimizer step."""
        batch = cast("Batch", inputs)
        self.fused_layers.check(model, batch, self.task_step)
        return self.task_step(model, batch).loss_sum / num_items_in_batch

    def get_train_dataloader(self) -> DataLoader[Any]:
        """The batches of train, which Trainer would make of equally many rows each."""
        return self.accelerator.prepare(batches_of(self.plan, self.data_collator))

    def floating_point_ops(self, inputs: Any) -> int:
        """Zero: Trainer would count them from a batch of its own shape, and nobody reads the number."""
        return 0

    def _get_num_items_in_batch(self, batch_samples: list[Any], device: torch.device) -> int:
        return max(1, sum(batch.num_items for batch in batch_samples))

    def create_optimizer(self, model: Any = None) -> torch.optim.Optimizer:
        """Trainer's optimizer, with the head's parameters in groups of their own where they have their own rate."""
        optimizer = super().create_optimizer(model)
        rate, head = self.plan.spec.training.head_learning_rate, set(self.training_state.head)
        if rate is None or not head:
            return optimizer
        mine = {id(weight) for name, weight in cast("Any", self.model).named_parameters() if name in head}
        for group in list(optimizer.param_groups):
            apart = [weight for weight in group["params"] if id(weight) in mine]
            if apart:
                group["params"] = [weight for weight in group["params"] if id(weight) not in mine]
                optimizer.add_param_group({**group, "params": apart, "lr": rate})
        return optimizer

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """Write the tokenizer. The snapshot of `on_save` writes the model."""
        self.plan.tokenizer.save_pretrained(cast("str", output_dir))

    def _save_optimizer_and_scheduler(self, output_dir: str) -> None:
        torch.save(cast("Any", self.lr_scheduler).state_dict(), Path(output_dir) / "scheduler.pt")

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        if checkpoint is not None:
            load_optimizer(cast("Any", self.optimizer), Path(checkpoint), self.args.device)
            schedule = torch.load(Path(checkpoint) / "scheduler.pt", weights_only=True)
            cast("Any", self.lr_scheduler).load_state_dict(schedule)

    def snapshot(self) -> Snapshot:
        """The model and the optimizer as they are now."""
        return Snapshot(self.accelerator.unwrap_model(cast("Any", self.model)), cast("Any", self.optimizer))

    def evaluate(self, *_args: Any, **_kwargs: Any) -> dict[str, Any]:
        """Evaluate the current model on eval. If a stop is requested meanwhile, end training with a checkpoint instead."""
        self.plan.report.phase("evaluating")
        try:
            with self.pace.aside("evaluation"):
                batches = forward(self.model, self.plan, "eval", self.task_step)
                evaluation = evaluate(self.plan, "eval", gather(batches, len(self.plan.encoded["eval"])))
        except Stopped:
            self.control.should_evaluate = False
            self.control.should_save = self.control.should_training_stop = True
            return {}
        self.checkpoints.evaluated(evaluation)
        metrics = evaluation.metrics
        self.log(cast("dict[str, float]", dict(metrics)))
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        self.control.should_save = self.training_state.is_best or self.training_state.checkpoint_due
        self.control.should_training_stop |= self.training_state.ended_early
        if not self.training_state.finished:
            self.plan.report.phase("training")
        return metrics

    def loss_sum(self) -> float:
        """The training loss summed over all steps of all attempts."""
        return self.earlier_loss + self._total_loss_scalar + float(self._tr_loss.item())


class Follow(TrainerCallback):
    """Makes Trainer follow the training state, and reports what it does."""

    def __init__(self, trainer: TunesmithTrainer) -> None:
        self._trainer = trainer

    def on_epoch_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Set the epoch of the collation before the first batch of the epoch is made."""
        training_state = self._trainer.training_state
        set_epoch(cast("Any", self._trainer.data_collator), training_state.step // training_state.steps_per_epoch)

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Decide whether this step is logged, evaluated, saved or the last."""
        trainer, training_state = self._trainer, self._trainer.training_state
        training_state.step = state.global_step
        control.should_evaluate = training_state.evaluation_due
        control.should_save = training_state.checkpoint_due
        control.should_log |= training_state.finished
        trainer.pace.tick()
        trainer.compilation.after_step()
        trainer.code_paths.report()
        trainer.checkpoints.check()
        if trainer.plan.stop.is_set():
            control.should_evaluate = False
            control.should_save = control.should_training_stop = True
        # Reading the loss makes a GPU wait, so there it is read only where it is needed anyway.
        if args.device.type == "cpu" or control.should_log or control.should_evaluate or control.should_save:
            training_state.loss_sum = trainer.loss_sum()
            if not math.isfinite(training_state.loss_sum):
                raise LossNotFinite(f"the training loss became NaN or infinite at or before step {training_state.step}")

    def on_log(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, logs: Any = None, **_: Any
    ) -> None:
        """Relay the loss and the evaluations, but not Trainer's closing summary, which covers one attempt only."""
        values = {
            name: None if value is None else float(value)
            for name, value in cast("dict[str, Any]", logs or {}).items()
            if name != "epoch"
        }
        if "train_runtime" not in values:
            training_state = self._trainer.training_state
            self._trainer.plan.report.metric(training_state.step, round(training_state.epoch, 4), values)

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Commit what Trainer just wrote into scratch, with a snapshot of the rest."""
        trainer, folder = self._trainer, Path(cast("str", args.output_dir)) / f"checkpoint-{state.global_step}"
        with trainer.pace.aside("checkpoint"):
            trainer.checkpoints.put(folder, trainer.snapshot())


def _training_state(plan: Plan) -> TrainingState:
    if plan.resume_from:
        return TrainingState.resume(plan.spec, plan.resolved, plan.steps_per_epoch, plan.resume_from)
    return TrainingState.begin(plan.spec, plan.resolved, plan.steps_per_epoch, plan.head)


def _arguments(plan: Plan) -> TrainingArguments:
    training, resolved = plan.spec.training, plan.resolved
    found = TrainingArguments(
        output_dir=str(plan.scratch / "trainer"),
        max_steps=resolved.total_steps,
        per_device_train_batch_size=resolved.batch_size,
        gradient_accumulation_steps=resolved.gradient_accumulation,
        optim=OPTIMIZERS[training.optimizer],
        learning_rate=training.learning_rate,
        lr_scheduler_type=training.scheduler,
        warmup_steps=training.warmup_steps,
        weight_decay=training.weight_decay,
        max_grad_norm=training.max_grad_norm,
        activation_checkpointing=training.gradient_checkpointing,
        bf16=resolved.precision == "bf16",
        fp16=resolved.precision == "fp16",
        seed=training.seed,
        use_cpu=resolved.device == "cpu",
        dataloader_pin_memory=resolved.device == "cuda",
        remove_unused_columns=False,
        # Rows of a stream differ in shape from batch to batch, and there is one process to give them to.
        accelerator_config={"dispatch_batches": False, "non_blocking": resolved.device == "cuda"},
        logging_steps=training.logging_steps,
        logging_nan_inf_filter=False,
        eval_strategy="no",
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
    )
    # Where several GPUs are visible, Trainer would split each batch over them and change its size.
    if found.n_gpu > 1:
        found._n_gpu = 1  # noqa: SLF001 # pyright: ignore[reportPrivateUsage]
    return found
