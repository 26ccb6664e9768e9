"""Keeps a run's checkpoints: commits the folder that an engine staged, reports it, and rotates."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from worker.training.checkpoints.folders import commit, folder_name, rotate
from worker.training.evaluation.evaluation import SplitEvaluation
from worker.training.loop.state import TrainingState
from worker.training.planning.plan import Plan


@dataclass(frozen=True)
class TrainedModel:
    """The end of the training loop. `folder` holds the model to publish; it is None if the run was stopped."""

    state: TrainingState
    folder: Path | None
    is_saved: bool
    """Whether there is a checkpoint of the last step, so that a stop from here on loses nothing."""
    exports: Path | None = None
    """A folder of files to publish with the model."""
    evaluation: SplitEvaluation | None = None
    """The evaluation of exactly these weights on eval, if this attempt has made it."""


class CheckpointManager:
    """The checkpoints of one attempt, in `OUT_DIR/checkpoints`."""

    def __init__(self, plan: Plan, state: TrainingState) -> None:
        self._plan, self._state = plan, state
        self._folder = plan.out_dir / "checkpoints"
        self._evaluation: tuple[int, SplitEvaluation] | None = None
        self._last: tuple[int, Path] | None = (state.step, plan.resume_from) if plan.resume_from else None
        self._find_best()

    @property
    def current(self) -> Path | None:
        """The checkpoint of the current step, if there is one."""
        return self._last[1] if self._last and self._last[0] == self._state.step else None

    @property
    def best(self) -> Path | None:
        """The checkpoint of the best step."""
        return self._place(self._state.best_step) if self._state.best_step is not None else None

    def evaluated(self, evaluation: SplitEvaluation) -> None:
        """Record an evaluation of the current step in the state, and keep it for as long as its model may be published.

        Raises LossNotFinite.
        """
        state = self._state
        state.evaluated(evaluation.metrics)
        if state.is_best or state.best_step is None:
            self._evaluation = state.step, evaluation

    def put(self, staging: Path) -> None:
        """Commit the staged folder as the checkpoint of the current step. Raises OSError if the disk refuses."""
        state, checkpoints = self._state, self._plan.spec.checkpoints
        # Trainer's own arguments: a pickle that names folders of this machine, and resuming does not need it.
        (staging / "training_args.bin").unlink(missing_ok=True)
        state.save(staging)
        final = self._folder / folder_name(state.step)
        metrics = state.metrics if state.evaluated_step == state.step else {}
        facts = {"step": state.step, "epoch": state.epoch, "metrics": metrics, "best_step": state.best_step}
        commit(staging, final, facts)
        self._last = (state.step, final)
        self._plan.report.checkpoint(
            step=state.step,
            epoch=round(state.epoch, 4),
            path=final.relative_to(self._plan.out_dir).as_posix(),
            metrics=metrics,
            is_best=state.is_best,
        )
        rotate(self._folder, checkpoints.keep if checkpoints.strategy != "none" else 1, state.best_step)

    def trained(self, model: Any) -> TrainedModel:
        """The model to publish: the best, otherwise the last. None if the run was stopped before the end."""
        if not self._state.finished or self._state.evaluation_due:
            return TrainedModel(self._state, None, is_saved=self.current is not None)
        folder, evaluation = self.best or self.current, self._of_published()
        if folder is None:
            folder = self._plan.scratch / "final"
            model.save_pretrained(folder)
            self._plan.tokenizer.save_pretrained(folder)
        return TrainedModel(self._state, folder, is_saved=self.current is not None, evaluation=evaluation)

    def _of_published(self) -> SplitEvaluation | None:
        step, evaluation = self._evaluation or (None, None)
        return evaluation if step == (self._state.best_step or self._state.step) else None

    def _find_best(self) -> None:
        # The best model so far has a checkpoint of its own. It may not have been moved here with the newest one.
        state = self._state
        if state.best_step is None or self.best is not None:
            return
        self._plan.report.note(f"the best checkpoint so far, of step {state.best_step}, is missing")
        state.forget_best()

    def _place(self, step: int) -> Path | None:
        if self._last and self._last[0] == step:
            return self._last[1]
        folders = [self._folder] + ([self._plan.resume_from.parent] if self._plan.resume_from else [])
        return next((path for path in (folder / folder_name(step) for folder in folders) if path.is_dir()), None)
