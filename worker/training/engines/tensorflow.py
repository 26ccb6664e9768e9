"""Keras on TensorFlow, in a process of its own (`worker/training/keras/`), with the same training state and checkpoints as the other engines.

    order of the rows, learning rate → one step in that process → log → evaluate → save, and check PyTorch against it

What is kept and published is always a PyTorch-format folder, and each one is loaded by PyTorch here first.
"""

import json
import math
import shutil
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from threading import Event
from typing import Any, Protocol, cast

import numpy as np
import torch
from torch.optim.lr_scheduler import LambdaLR
from transformers import get_scheduler

from app.specs import JobSpec
from worker.training.checkpoints.checkpoint_manager import CheckpointManager, TrainedModel
from worker.training.engines.keras_process import KerasProcess
from worker.training.engines.protocol import Engine
from worker.training.errors import ArchitectureUnsupported, EngineMissing, LossNotFinite, ResultDiffers, Stopped
from worker.training.evaluation.evaluation import evaluate
from worker.training.evaluation.prediction import forward, gather, predict, training_step
from worker.training.keras import environment as tensorflow_environment
from worker.training.loop.batching import order_of_epoch
from worker.training.loop.code_paths import CodePaths
from worker.training.loop.decay import decaying_names
from worker.training.loop.pace import Pace
from worker.training.loop.state import TrainingState
from worker.training.planning.plan import Answers, Plan
from worker.training.tasks.protocol import Batch
from worker.training.tokens.tokenization import lengths

ARCHITECTURES = ("albert", "bert", "camembert", "distilbert", "electra", "mpnet", "roberta", "xlm-roberta")
"""Model types that were seen to compute the same in both frameworks, and to come back whole."""
PROBE_ROWS = 8
TOLERANCE = 1e-4
"""How far a logit may be from TensorFlow's, absolute and relative. Seen were differences of a few 1e-7."""


class TensorflowEngine(Engine):
    """Trains with Keras's `fit`."""

    def versions(self, tensorflow_python: Path | None) -> dict[str, str]:
        """The versions in the environment that has TensorFlow. Raises EngineMissing."""
        found = tensorflow_environment.versions(tensorflow_python)
        if found is None:
            raise EngineMissing("this worker has no environment with TensorFlow")
        return found

    def train(self, plan: Plan) -> TrainedModel:
        """Train, evaluate and save.

        Raises ArchitectureUnsupported, ResultDiffers, LossNotFinite, and what the process raises.
        """
        plan.report.phase("training")
        _check(plan)
        state = _state(plan)
        with CheckpointManager(plan, state) as checkpoints:
            if state.finished and not state.evaluation_due and not plan.spec.export:
                return checkpoints.trained(None)
            return _trained(plan, state, checkpoints)

    def predict(self, plan: Plan, folder: Path, split: str) -> Answers:
        """Run a saved model over a split, in PyTorch. Raises Stopped or ModelRefused."""
        return predict(plan, folder, split)


class Classifier(Protocol):
    """The task, as far as TensorFlow has to know its loss."""

    def soft_targets(self, spec: JobSpec, labels: list[str], targets: Sequence[int]) -> list[list[float]]: ...


def _trained(plan: Plan, state: TrainingState, checkpoints: CheckpointManager) -> TrainedModel:
    folder = plan.scratch / "tensorflow"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    probed = _with_probe(plan)
    with KerasProcess(cast("Path", plan.tensorflow_python), _request(probed, state, folder), folder) as keras:
        loop = Loop(probed, state, checkpoints, keras, folder)
        try:
            keras.wait_until_ready(plan.stop)
            loop.run()
        except Stopped:
            # Before the first step there is nothing to save.
            return TrainedModel(state, None, is_saved=checkpoints.current is not None)
        trained = checkpoints.trained(loop)
        return loop.export(trained)


class Loop:
    """One attempt's training, from the initial model or a checkpoint to the last step."""

    def __init__(
        self, plan: Plan, state: TrainingState, checkpoints: CheckpointManager, keras: KerasProcess, folder: Path
    ) -> None:
        self.plan, self.state, self.checkpoints, self.keras, self.folder = plan, state, checkpoints, keras, folder
        self.task_step = training_step(plan)
        self.rows_per_step = plan.resolved.rows_per_step
        self.rate_of = _rates(plan)
        self.logged_loss, self.logged_step = state.loss_sum, state.step
        self.first_step = state.step
        self.is_stopped = False

    def run(self) -> None:
        """Train until no step is left or a stop is requested. Raises Stopped before the first step."""
        self.see_that_pytorch_agrees(self.plan.initial.folder)
        # Only now, because loading TensorFlow is no training.
        self.code_paths = CodePaths(self.plan, None)
        self.pace = Pace(self.plan, self.state, None, is_evaluated_again=True, process=self.keras.pid)
        if self.state.evaluation_due:
            self.evaluate()
        self.is_stopped |= self.plan.stop.is_set()
        order: list[int] = []
        while not self.state.finished and not self.is_stopped:
            epoch, done = divmod(self.state.step, self.state.steps_per_epoch)
            if not done or not order:
                order = order_of_epoch(self.plan, epoch)
            self.step(order[done * self.rows_per_step : (done + 1) * self.rows_per_step])

    def step(self, rows: list[int]) -> None:
        """One optimizer step over these rows, and then log, evaluate and save where it is due."""
        state, rate = self.state, self.rate_of(self.state.step)
        command: dict[str, Any] = {"rows": rows, "rate": rate}
        if state.step == self.first_step:
            # Tracing takes many seconds, and so far there is nothing to lose.
            answer = self.keras.ask_stoppable(self.plan.stop, "step", **command)
        else:
            answer = self.keras.ask("step", **command)
        state.step += 1
        state.loss_sum += answer["loss"]
        if not math.isfinite(answer["loss"]):
            raise LossNotFinite(f"the training loss became NaN or infinite at step {state.step}")
        self.pace.tick()
        self.code_paths.report()
        self.is_stopped = self.plan.stop.is_set()
        if state.finished or state.step % self.plan.spec.training.logging_steps == 0:
            self.log(answer["grad_norm"], rate)
        evaluation_due = state.evaluation_due and not self.is_stopped
        if evaluation_due:
            self.evaluate()
        if self.is_stopped or state.checkpoint_due or (evaluation_due and state.is_best):
            self.save()

    def log(self, norm: float, rate: float) -> None:
        """One point of the loss series: the mean over the steps since the last one."""
        mean = (self.state.loss_sum - self.logged_loss) / (self.state.step - self.logged_step)
        values = {"loss": mean, "grad_norm": norm, "learning_rate": rate}
        self.plan.report.metric(self.state.step, round(self.state.epoch, 4), values)
        self.logged_loss, self.logged_step = self.state.loss_sum, self.state.step

    def evaluate(self) -> None:
        """Evaluate the current model on eval. If a stop is requested meanwhile, leave it to the next attempt."""
        plan, state = self.plan, self.state
        plan.report.phase("evaluating")
        try:
            with self.pace.aside("evaluation"):
                metrics = evaluate(plan, "eval", self.predictions("eval", plan.stop)).metrics
        except Stopped:
            self.is_stopped = True
            return
        state.evaluated(metrics)
        plan.report.metric(state.step, round(state.epoch, 4), metrics)
        if not state.finished:
            plan.report.phase("training")

    def predictions(self, split: str, stop: Event) -> Answers:
        """The answers of the current TensorFlow model for a split. Raises Stopped."""
        target = self.folder / "logits.npy"
        size = self.plan.resolved.eval_batch_size
        self.keras.ask_interruptible(stop, "predict", split=split, batch_size=size, target=str(target))
        logits, targets = np.load(target), _targets(self.plan, split)
        # The logits are there already: the step only adds up the loss over them.
        batch = Batch({}, {"labels": torch.tensor(targets)}, num_items=len(targets))
        found = self.task_step(lambda: {"logits": torch.from_numpy(logits)}, batch)
        return Answers(list(logits), float(found.loss_sum) / found.num_items)

    def save(self) -> None:
        """Commit a checkpoint of this step."""
        with self.pace.aside("checkpoint"):
            folder = self.checkpoints.begin()
            self.save_pretrained(folder)
            self.plan.tokenizer.save_pretrained(folder)
            self.checkpoints.put(folder)

    def save_pretrained(self, folder: Path) -> None:
        """Write the present model as PyTorch has it. Raises ResultDiffers or ModelRefused where PyTorch does not agree."""
        shutil.rmtree(folder, ignore_errors=True)
        self.keras.ask("save", folder=str(folder))
        # TensorFlow's own would name TensorFlow's class.
        shutil.copyfile(self.plan.initial.folder / "config.json", folder / "config.json")
        self.see_that_pytorch_agrees(folder)

    def see_that_pytorch_agrees(self, folder: Path) -> None:
        """Compare PyTorch's logits of a folder with those that TensorFlow computes now. Raises ResultDiffers or ModelRefused."""
        compare(self.plan, folder, np.stack(self.predictions("probe", Event()).each))

    def export(self, trained: TrainedModel) -> TrainedModel:
        """Add the extra formats of the spec."""
        if trained.folder is None or not self.plan.spec.export:
            return trained
        exports = self.folder / "exports"
        self.keras.ask("export", source=str(trained.folder), folder=str(exports / "saved_model"))
        return replace(trained, exports=exports)


def compare(plan: Plan, folder: Path, logits: np.ndarray[Any, Any]) -> None:
    """See that PyTorch, with the model in `folder`, gives these logits for the rows of the split `probe`.

    Raises ResultDiffers, or ModelRefused where a weight is missing or of no use.
    """
    model = plan.task.load_model(folder, plan.spec)
    unstoppable = replace(plan, stop=Event())
    ours = np.stack(gather(forward(model, unstoppable, "probe", training_step(plan)), len(plan.encoded["probe"])).each)
    if not np.allclose(ours, logits, rtol=TOLERANCE, atol=TOLERANCE):
        apart = float(np.abs(ours - logits).max())
        raise ResultDiffers(f"PyTorch's logits of {folder.name} are up to {apart:.3g} from TensorFlow's")


def _check(plan: Plan) -> None:
    kind = json.loads((plan.initial.folder / "config.json").read_text(encoding="utf-8"))["model_type"]
    if kind not in ARCHITECTURES:
        known = ", ".join(ARCHITECTURES)
        raise ArchitectureUnsupported(f"the engine tensorflow cannot train a {kind} model; it can: {known}")


def _state(plan: Plan) -> TrainingState:
    if plan.resume_from:
        return TrainingState.resume(plan.spec, plan.resolved, plan.steps_per_epoch, plan.resume_from)
    return TrainingState.begin(plan.spec, plan.resolved, plan.steps_per_epoch, plan.head)


def _with_probe(plan: Plan) -> Plan:
    train = plan.encoded["train"]
    rows = np.linspace(0, len(train) - 1, min(PROBE_ROWS, len(train)), dtype=int)
    return replace(plan, encoded={**plan.encoded, "probe": train.select(rows.tolist()).flatten_indices()})


def _request(plan: Plan, state: TrainingState, folder: Path) -> dict[str, Any]:
    training, resolved = plan.spec.training, plan.resolved
    tokens = [name for name in plan.encoded["train"].column_names if name != "labels"]
    fill = {"input_ids": plan.tokenizer.pad_token_id, "token_type_ids": plan.tokenizer.pad_token_type_id}
    return {
        "model": str(plan.initial.folder),
        "resume": plan.resume_from is not None,
        "threads": plan.threads,
        "seed": training.seed,
        "splits": {
            split: str(_write(plan, split, tokens, folder / split)) for split in plan.encoded if split != "test"
        },
        "features": [*tokens, "attention_mask"],
        "padding": {
            "values": {name: fill[name] for name in tokens},
            "left": plan.tokenizer.padding_side == "left",
            "most": resolved.max_length,
            "always": resolved.max_length if plan.spec.tokenization.padding == "max_length" else None,
        },
        "batch_size": resolved.batch_size,
        "passes": resolved.gradient_accumulation,
        "optimizer": training.optimizer,
        "weight_decay": training.weight_decay,
        "decaying": sorted(decaying_names(plan.task.load_model(plan.initial.folder, plan.spec))),
        "max_grad_norm": training.max_grad_norm,
        "soft_targets": cast("Classifier", plan.task).soft_targets(plan.spec, resolved.labels, _targets(plan, "train")),
    }


def _write(plan: Plan, split: str, tokens: list[str], folder: Path) -> Path:
    folder.mkdir()
    encoded = plan.encoded[split]
    columns = cast("Any", encoded.data)
    np.save(folder / "starts.npy", np.concatenate([[0], np.cumsum(lengths(encoded))]))
    np.save(folder / "labels.npy", np.asarray(_targets(plan, split), dtype=np.int32))
    for name in tokens:
        np.save(folder / f"{name}.npy", columns.column(name).combine_chunks().flatten().to_numpy())
    return folder


def _targets(plan: Plan, split: str) -> list[int]:
    return cast("Any", plan.encoded[split].data).column("labels").to_pylist()


def _rates(plan: Plan) -> Callable[[int], float]:
    """The learning rate of each step, counted from 0."""
    training = plan.spec.training
    weight = torch.nn.Parameter(torch.zeros(()))
    optimizer = torch.optim.SGD([weight], lr=training.learning_rate)
    scheduler = get_scheduler(
        training.scheduler,
        optimizer,
        num_warmup_steps=training.warmup_steps,
        num_training_steps=plan.resolved.total_steps,
    )
    # All schedulers of a spec are of this class. Stepping through them would take seconds in a long job.
    (factor,), (rate,) = cast("LambdaLR", scheduler).lr_lambdas, scheduler.base_lrs
    return lambda step: float(rate * factor(step))
