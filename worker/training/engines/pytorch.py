"""The native PyTorch loop, over `accelerate` for device and precision, to be read in one sitting.

    steps of an epoch → forward, backward, clip, step → log → evaluate → save

It takes the rows in the order that `transformers.Trainer` takes them, draws the same random numbers and forms the
same groups of weights, so with one seed its losses are those of the engine `trainer`.
"""

import gc
import math
import random
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from accelerate import Accelerator, skip_first_batches
from accelerate.state import AcceleratorState
from accelerate.utils import DataLoaderConfiguration
from transformers import get_scheduler, set_seed

from worker.training.checkpoints.checkpoint_manager import CheckpointManager, TrainedModel
from worker.training.checkpoints.snapshot import Snapshot, load_optimizer
from worker.training.engines.protocol import Engine
from worker.training.errors import LossNotFinite, Stopped
from worker.training.evaluation.evaluation import evaluate
from worker.training.evaluation.prediction import forward, gather, predict, training_step
from worker.training.loop.code_paths import CodePaths
from worker.training.loop.compilation import Compilation
from worker.training.loop.feed import batches_of
from worker.training.loop.fused_layers import FusedLayers
from worker.training.loop.optimizers import optimizer_of
from worker.training.loop.pace import Pace, hidden_size
from worker.training.loop.state import TrainingState
from worker.training.methods import load_trainable, publishes_as_trained
from worker.training.planning.plan import Answers, Plan
from worker.training.tasks.protocol import Batch, set_epoch


class PytorchEngine(Engine):
    """Trains with our own loop."""

    def train(self, plan: Plan) -> TrainedModel:
        """Train, evaluate and save. Raises LossNotFinite."""
        plan.report.phase("training")
        loop = Loop(plan)
        with loop.checkpoints:
            loop.run()
            trained = loop.checkpoints.trained(loop.bare_model())
        # Patched forwards reference their models. Without this they would still fill the GPU during the final evaluation.
        loop.accelerator.free_memory()
        del loop
        gc.collect()
        return trained

    def predict(self, plan: Plan, folder: Path, split: str) -> Answers:
        """Run a saved model over a split. Raises Stopped or ModelRefused."""
        return predict(plan, folder, split)


class Loop:
    """One attempt's training, from the initial model or a checkpoint to the last step."""

    def __init__(self, plan: Plan) -> None:
        self.plan, training, resolved = plan, plan.spec.training, plan.resolved
        self.per_epoch = plan.steps_per_epoch
        self.state = (
            TrainingState.resume(plan.spec, resolved, self.per_epoch, plan.resume_from)
            if plan.resume_from
            else TrainingState.begin(plan.spec, resolved, self.per_epoch, plan.head)
        )
        self.checkpoints = CheckpointManager(plan, self.state)
        self.task_step = training_step(plan)
        self.accelerator = _accelerator(plan)
        model = load_trainable(plan)
        if training.gradient_checkpointing:
            model.activation_checkpointing_enable()
        optimizer = optimizer_of(plan.spec.training, model, self.state.head)
        scheduler = get_scheduler(
            training.scheduler,
            optimizer,
            num_warmup_steps=training.warmup_steps,
            num_training_steps=resolved.total_steps,
        )
        set_seed(training.seed)
        self.collate = plan.task.collate(plan.tokenizer, plan.spec, resolved.max_length)
        self.model, self.optimizer, self.loader, self.scheduler = self.accelerator.prepare(
            model, optimizer, cast("Any", batches_of(plan, self.collate)), scheduler
        )
        self.to_restore = plan.resume_from
        self.pace = Pace(plan, self.state, hidden_size(model), is_evaluated_again=not publishes_as_trained(plan))
        self.compilation = Compilation(plan, model, self.pace)
        self.fused_layers = FusedLayers(plan)
        self.code_paths = CodePaths(plan, model, [self.compilation, self.fused_layers])
        self.logged_loss, self.logged_step = self.state.loss_sum, self.state.step
        self.unlogged_loss = torch.zeros((), device=self.accelerator.device)
        self.is_stopped = False

    def run(self) -> None:
        """Train until no step is left or a stop is requested."""
        if self.state.evaluation_due:
            self.evaluate()
        # Before the first step there is nothing to save. A later request to stop is handled after a step.
        self.is_stopped |= self.plan.stop.is_set()
        while not self.state.finished and not self.is_stopped:
            for batches in self.steps_of_epoch():
                self.step(batches)
                if self.state.finished or self.is_stopped:
                    break

    def steps_of_epoch(self) -> Iterator[list[Batch]]:
        """The batches of each step from here to the end of the epoch."""
        passes = self.plan.resolved.gradient_accumulation
        epoch, done = divmod(self.state.step, self.per_epoch)
        # Beginning an epoch draws a random number: a checkpoint between two epochs was taken before that, others after.
        if not done:
            self.restore()
        loader: Any = skip_first_batches(self.loader, done * passes) if done else self.loader
        loader.set_epoch(epoch)
        set_epoch(self.collate, epoch)
        rest = iter(loader)
        while batches := list(islice(rest, passes)):
            self.restore()
            yield batches

    def step(self, batches: list[Batch]) -> None:
        """One optimizer step over so many batches, and then log, evaluate and save where it is due."""
        num_items = max(1, sum(batch.num_items for batch in batches))
        self.model.train()
        for batch in batches:
            with self.accelerator.autocast():
                self.fused_layers.check(self.model, batch, self.task_step)
                # The mean over the whole step, so `accelerate` must not divide by the number of batches as well.
                loss = self.task_step(self.model, batch).loss_sum / num_items
            self.accelerator.backward(loss)
            self.unlogged_loss += loss.detach()
        norm = self.accelerator.clip_grad_norm_(self.model.parameters(), self.plan.spec.training.max_grad_norm)
        self.optimizer.step()
        rate = self.scheduler.get_last_lr()[0]
        self.scheduler.step()
        self.optimizer.zero_grad()
        self.state.step += 1
        self.after_step(norm, rate)

    def after_step(self, norm: Any, rate: float) -> None:
        """Log, evaluate and save where it is due. A request to stop saves and skips the rest."""
        state = self.state
        self.pace.tick()
        self.compilation.after_step()
        self.code_paths.report()
        self.checkpoints.check()
        self.is_stopped = self.plan.stop.is_set()
        log_due = state.finished or state.step % self.plan.spec.training.logging_steps == 0
        evaluation_due = state.evaluation_due and not self.is_stopped
        # Reading the loss makes a GPU wait, so there it is read only where it is needed anyway.
        if (
            log_due
            or evaluation_due
            or state.checkpoint_due
            or self.is_stopped
            or self.accelerator.device.type == "cpu"
        ):
            self.read_loss()
        if log_due:
            self.log(norm, rate)
        if evaluation_due:
            self.evaluate()
        if self.is_stopped or state.checkpoint_due or (evaluation_due and state.is_best):
            self.save()

    def read_loss(self) -> None:
        """Update the sum of losses in the state. Raises LossNotFinite."""
        self.state.loss_sum = self.logged_loss + float(self.unlogged_loss)
        if not math.isfinite(self.state.loss_sum):
            raise LossNotFinite(f"the training loss became NaN or infinite at or before step {self.state.step}")

    def log(self, norm: Any, rate: float) -> None:
        """One point of the loss series: the mean over the steps since the last one."""
        mean = (self.state.loss_sum - self.logged_loss) / (self.state.step - self.logged_step)
        values = {
            "loss": mean,
            "grad_norm": float(norm),
            "learning_rate": rate,
        }
        self.plan.report.metric(self.state.step, round(self.state.epoch, 4), values)
        self.logged_loss, self.logged_step = self.state.loss_sum, self.state.step
        self.unlogged_loss.zero_()

    def evaluate(self) -> None:
        """Evaluate the current model on eval. If a stop is requested meanwhile, leave it to the next attempt."""
        plan = self.plan
        plan.report.phase("evaluating")
        try:
            with self.pace.aside("evaluation"):
                batches = forward(self.model, plan, "eval", self.task_step)
                evaluation = evaluate(plan, "eval", gather(batches, len(plan.encoded["eval"])))
        except Stopped:
            self.is_stopped = True
            return
        self.checkpoints.evaluated(evaluation)
        plan.report.metric(self.state.step, round(self.state.epoch, 4), evaluation.metrics)
        if not self.state.finished:
            plan.report.phase("training")

    def save(self) -> None:
        """Take a checkpoint of this step. Most of it is written while training goes on."""
        with self.pace.aside("checkpoint"):
            folder = self.checkpoints.begin()
            self.plan.tokenizer.save_pretrained(folder)
            torch.save(self.scheduler.state_dict(), folder / "scheduler.pt")
            torch.save(_random_state(), folder / "rng_state.pth")
            if self.accelerator.scaler is not None:
                torch.save(self.accelerator.scaler.state_dict(), folder / "scaler.pt")
            self.checkpoints.put(folder, Snapshot(self.bare_model(), self.optimizer))

    def restore(self) -> None:
        """Once, load the optimizer, the schedule and the random state of the checkpoint. Its weights are loaded already."""
        checkpoint, self.to_restore = self.to_restore, None
        if checkpoint is None:
            return
        device = self.accelerator.device
        load_optimizer(self.optimizer, checkpoint, device)
        self.scheduler.load_state_dict(torch.load(checkpoint / "scheduler.pt", weights_only=True))
        if self.accelerator.scaler is not None:
            self.accelerator.scaler.load_state_dict(torch.load(checkpoint / "scaler.pt", weights_only=True))
        _set_random_state(torch.load(checkpoint / "rng_state.pth", weights_only=True))

    def bare_model(self) -> Any:
        """The model without the wrapper of `accelerate`."""
        return self.accelerator.unwrap_model(self.model)


def _accelerator(plan: Plan) -> Accelerator:
    # Its state is global, and keeps the precision of an earlier run of this process.
    AcceleratorState._reset_state(reset_partial_state=True)  # noqa: SLF001 # pyright: ignore[reportPrivateUsage]
    return Accelerator(
        cpu=plan.resolved.device == "cpu",
        mixed_precision={"fp32": "no"}.get(plan.resolved.precision, plan.resolved.precision),
        # The order of an epoch then follows from the seed and the number of the epoch alone.
        dataloader_config=DataLoaderConfiguration(
            use_seedable_sampler=True,
            dispatch_batches=False,
            # A batch goes to the GPU while it computes the one before and the next one is collated.
            non_blocking=plan.resolved.device == "cuda",
        ),
    )


def _random_state() -> dict[str, Any]:
    kind, keys, position, has_gauss, gauss = np.random.get_state()  # noqa: NPY002 - what libraries draw from
    numpy_state = [kind, torch.from_numpy(np.asarray(keys, dtype=np.int64)), position, has_gauss, gauss]
    cuda = torch.cuda.get_rng_state() if torch.cuda.is_available() else None
    return {"python": random.getstate(), "numpy": numpy_state, "torch": torch.get_rng_state(), "cuda": cuda}


def _set_random_state(state: dict[str, Any]) -> None:
    kind, keys, position, has_gauss, gauss = state["numpy"]
    random.setstate(state["python"])
    np.random.set_state((kind, keys.numpy().astype(np.uint32), position, has_gauss, gauss))  # noqa: NPY002 - see above
    torch.set_rng_state(state["torch"])
    if state["cuda"] is not None:
        torch.cuda.set_rng_state(state["cuda"])
