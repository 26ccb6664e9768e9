"""Keras on TensorFlow, in a process of its own (`worker/training/keras/`), over the same course and checkpoints as the other engines.

    order of the rows, learning rate → one step over there → log → evaluate → save, and see that PyTorch says the same

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
from worker.training.checkpoints.shelf import Outcome, Shelf
from worker.training.engines.keras_process import KerasProcess
from worker.training.errors import ArchitectureUnsupported, EngineMissing, LossNotFinite, ResultDiffers, Stopped
from worker.training.evaluation.evaluation import judge
from worker.training.evaluation.prediction import forward, gather, predict, training_step
from worker.training.keras import environment as tensorflow_environment
from worker.training.loop.course import Course
from worker.training.loop.decay import decaying_names
from worker.training.loop.pace import Pace
from worker.training.planning.plan import Answers, Plan
from worker.training.tasks.protocol import Batch
from worker.training.tokens.tokenization import lengths

ARCHITECTURES = ("albert", "bert", "camembert", "distilbert", "electra", "mpnet", "roberta", "xlm-roberta")
"""Model types that were seen to compute the same in both frameworks, and to come back whole."""
PROBE_ROWS = 8
TOLERANCE = 1e-4
"""How far a logit may be from TensorFlow's, absolute and relative. Seen were differences of a few 1e-7."""


class TensorflowEngine:
    """Trains with Keras's `fit`."""

    def train(self, plan: Plan) -> Outcome:
        """Train, evaluate and save as the course says.

        Raises ArchitectureUnsupported, EngineMissing, ResultDiffers, LossNotFinite, and what the process raises.
        """
        _check(plan)
        course = _course(plan)
        shelf = Shelf(plan, course)
        if course.finished and not course.evaluation_due and not plan.spec.export:
            return shelf.outcome(None)
        folder = plan.scratch / "tensorflow"
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        probed = _with_probe(plan)
        with KerasProcess(cast("Path", plan.tensorflow_python), _request(probed, course, folder), folder) as keras:
            loop = Loop(probed, course, shelf, keras, folder)
            try:
                keras.wait_until_ready(plan.stop)
                loop.run()
            except Stopped:
                # Before the first step there is nothing to save.
                return Outcome(course, None, is_saved=shelf.current is not None)
            outcome = shelf.outcome(loop)
            return loop.export(outcome)

    def predict(self, plan: Plan, folder: Path, split: str) -> Answers:
        """Run a saved model over a split, in PyTorch. Raises Stopped or ModelRefused."""
        return predict(plan, folder, split)


class Classifier(Protocol):
    """The task, as far as TensorFlow has to know its loss."""

    def soft_targets(self, spec: JobSpec, labels: list[str], targets: Sequence[int]) -> list[list[float]]: ...


class Loop:
    """One attempt's training, from the initial model or a checkpoint to the end of the course."""

    def __init__(self, plan: Plan, course: Course, shelf: Shelf, keras: KerasProcess, folder: Path) -> None:
        self.plan, self.course, self.shelf, self.keras, self.folder = plan, course, shelf, keras, folder
        self.task_step = training_step(plan)
        self.rows_per_step = plan.resolved.batch_size * plan.resolved.gradient_accumulation
        self.rate_of = _rates(plan)
        self.logged_loss, self.logged_step = course.loss_sum, course.step
        self.first_step = course.step
        self.is_stopped = False

    def run(self) -> None:
        """Train until the course is finished or we are asked to stop. Raises Stopped before the first step."""
        self.see_that_pytorch_agrees(self.plan.initial)
        # Only now, because loading TensorFlow is no training.
        self.pace = Pace(self.plan.report, self.course, self.rows_per_step)
        if self.course.evaluation_due:
            self.evaluate()
        self.is_stopped |= self.plan.stop.is_set()
        order: list[int] = []
        while not self.course.finished and not self.is_stopped:
            epoch, done = divmod(self.course.step, self.course.steps_per_epoch)
            if not done or not order:
                order = _order(self.plan, epoch)
            self.step(order[done * self.rows_per_step : (done + 1) * self.rows_per_step])

    def step(self, rows: list[int]) -> None:
        """One optimiser step over these rows, and what the course wants after it."""
        course, rate = self.course, self.rate_of(self.course.step)
        command: dict[str, Any] = {"rows": rows, "rate": rate}
        if course.step == self.first_step:
            # Tracing takes many seconds, and so far there is nothing to lose.
            told = self.keras.ask_stoppable(self.plan.stop, "step", **command)
        else:
            told = self.keras.ask("step", **command)
        course.step += 1
        course.loss_sum += told["loss"]
        if not math.isfinite(told["loss"]):
            raise LossNotFinite(f"the training loss became NaN or infinite at step {course.step}")
        self.pace.tick()
        self.is_stopped = self.plan.stop.is_set()
        if course.finished or course.step % self.plan.spec.training.logging_steps == 0:
            self.log(told["grad_norm"], rate)
        evaluation_due = course.evaluation_due and not self.is_stopped
        if evaluation_due:
            self.evaluate()
        if self.is_stopped or course.checkpoint_due or (evaluation_due and course.is_best):
            self.save()

    def log(self, norm: float, rate: float) -> None:
        """One point of the loss series: the mean over the steps since the last one."""
        mean = (self.course.loss_sum - self.logged_loss) / (self.course.step - self.logged_step)
        values = {"loss": mean, "grad_norm": norm, "learning_rate": rate}
        self.plan.report.metric(self.course.step, round(self.course.epoch, 4), values)
        self.logged_loss, self.logged_step = self.course.loss_sum, self.course.step

    def evaluate(self) -> None:
        """Judge the present model on eval; asked to stop meanwhile, leave it to the next attempt."""
        plan, course = self.plan, self.course
        plan.report.phase("evaluating")
        try:
            with self.pace.aside():
                metrics = judge(plan, "eval", self.predictions("eval", plan.stop))
        except Stopped:
            self.is_stopped = True
            return
        course.evaluated(metrics)
        plan.report.metric(course.step, round(course.epoch, 4), metrics)
        if not course.finished:
            plan.report.phase("training")

    def predictions(self, split: str, stop: Event) -> Answers:
        """What TensorFlow says about a split now. Raises Stopped."""
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
        with self.pace.aside():
            folder = self.plan.scratch / "checkpoint"
            self.save_pretrained(folder)
            self.plan.tokenizer.save_pretrained(folder)
            self.shelf.put(folder)

    def save_pretrained(self, folder: Path) -> None:
        """Write the present model as PyTorch has it. Raises ResultDiffers or ModelRefused where PyTorch does not agree."""
        shutil.rmtree(folder, ignore_errors=True)
        self.keras.ask("save", folder=str(folder))
        # TensorFlow's own would name TensorFlow's class.
        shutil.copyfile(self.plan.initial / "config.json", folder / "config.json")
        self.see_that_pytorch_agrees(folder)

    def see_that_pytorch_agrees(self, folder: Path) -> None:
        """Compare PyTorch's logits of a folder with those that TensorFlow computes now. Raises ResultDiffers or ModelRefused."""
        compare(self.plan, folder, np.stack(self.predictions("probe", Event()).each))

    def export(self, outcome: Outcome) -> Outcome:
        """Add what the spec wants beside the model."""
        if outcome.folder is None or not self.plan.spec.export:
            return outcome
        exports = self.folder / "exports"
        self.keras.ask("export", source=str(outcome.folder), folder=str(exports / "saved_model"))
        return replace(outcome, exports=exports)


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
    if tensorflow_environment.versions(plan.tensorflow_python) is None:
        raise EngineMissing("this worker has no environment with TensorFlow")
    kind = json.loads((plan.initial / "config.json").read_text(encoding="utf-8"))["model_type"]
    if kind not in ARCHITECTURES:
        known = ", ".join(ARCHITECTURES)
        raise ArchitectureUnsupported(f"the engine tensorflow cannot train a {kind} model; it can: {known}")


def _course(plan: Plan) -> Course:
    if plan.resume_from:
        return Course.resume(plan.spec, plan.resolved, plan.steps_per_epoch, plan.resume_from)
    return Course.begin(plan.spec, plan.resolved, plan.steps_per_epoch, plan.head)


def _with_probe(plan: Plan) -> Plan:
    train = plan.encoded["train"]
    rows = np.linspace(0, len(train) - 1, min(PROBE_ROWS, len(train)), dtype=int)
    return replace(plan, encoded={**plan.encoded, "probe": train.select(rows.tolist()).flatten_indices()})


def _request(plan: Plan, course: Course, folder: Path) -> dict[str, Any]:
    training, resolved = plan.spec.training, plan.resolved
    tokens = [name for name in plan.encoded["train"].column_names if name != "labels"]
    fill = {"input_ids": plan.tokenizer.pad_token_id, "token_type_ids": plan.tokenizer.pad_token_type_id}
    return {
        "model": str(plan.initial),
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
        "decaying": sorted(decaying_names(plan.task.load_model(plan.initial, plan.spec))),
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


def _order(plan: Plan, epoch: int) -> list[int]:
    # As `accelerate` shuffles with a seedable sampler, so that all engines go over the rows alike.
    shuffled = torch.Generator().manual_seed(plan.spec.training.seed + epoch)
    return torch.randperm(len(plan.encoded["train"]), generator=shuffled).tolist()


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
