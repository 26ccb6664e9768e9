"""Keeps a run's checkpoints: commits the folder that an engine staged, reports it, and rotates, while training goes on."""

import logging
import shutil
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Self

from worker.training.checkpoints.folders import commit, folder_name, rotate
from worker.training.checkpoints.snapshot import Snapshot
from worker.training.evaluation.evaluation import SplitEvaluation
from worker.training.loop.state import TrainingState
from worker.training.planning.plan import Plan

log = logging.getLogger(__name__)


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
    """The checkpoints of one attempt, in `OUT_DIR/checkpoints`.

    A thread writes and commits one at a time. What goes wrong there is raised by the next call of `check`, `begin`,
    `put` or `trained`. Leaving the context waits for the thread.
    """

    def __init__(self, plan: Plan, state: TrainingState) -> None:
        self._plan, self._state = plan, state
        self._writer = ThreadPoolExecutor(max_workers=1, thread_name_prefix="checkpoint")
        self._writing: Future[None] | None = None
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

    def check(self) -> None:
        """Raise what went wrong with the checkpoint before, such as OSError, if it has ended so."""
        if self._writing is not None and self._writing.done():
            self._wait()

    def begin(self) -> Path:
        """An empty folder in which to stage the next checkpoint, once the one before is committed. Raises OSError."""
        self._wait()
        staging = self._plan.scratch / "checkpoint"
        shutil.rmtree(staging, ignore_errors=True)
        staging.mkdir(parents=True)
        return staging

    def put(self, staging: Path, snapshot: Snapshot | None = None) -> None:
        """Write the snapshot into the staged folder, and commit it as the checkpoint of the current step.

        Returns at once if training may change what the snapshot holds. Raises OSError if the disk refuses.
        """
        self._wait()
        state = self._state
        # Trainer's own arguments: a pickle that names folders of this machine, and resuming does not need it.
        (staging / "training_args.bin").unlink(missing_ok=True)
        state.save(staging)
        final = self._folder / folder_name(state.step)
        work = self._work(staging, final, snapshot, replace(state))
        self._last = (state.step, final)
        self._writing = self._writer.submit(work)
        if snapshot is not None and not snapshot.is_copied:
            self._wait()

    def trained(self, model: Any) -> TrainedModel:
        """The model to publish: the best, otherwise the last. None if the run was stopped before the end."""
        self._wait()
        if not self._state.finished or self._state.evaluation_due:
            return TrainedModel(self._state, None, is_saved=self.current is not None)
        folder, evaluation = self.best or self.current, self._of_published()
        if folder is None:
            folder = self._plan.scratch / "final"
            model.save_pretrained(folder)
            self._plan.tokenizer.save_pretrained(folder)
        return TrainedModel(self._state, folder, is_saved=self.current is not None, evaluation=evaluation)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._writer.shutdown()
        error = self._writing.exception() if self._writing is not None else None
        if error is not None:
            # A more important error is on its way.
            log.error("the last checkpoint could not be written", exc_info=error)

    def _work(self, staging: Path, final: Path, snapshot: Snapshot | None, state: TrainingState) -> Callable[[], None]:
        checkpoints, report = self._plan.spec.checkpoints, self._plan.report
        metrics = state.metrics if state.evaluated_step == state.step else {}

        def work() -> None:
            if snapshot is not None:
                snapshot.write(staging)
            facts = {"step": state.step, "epoch": state.epoch, "metrics": metrics, "best_step": state.best_step}
            commit(staging, final, facts)
            report.checkpoint(
                step=state.step,
                epoch=round(state.epoch, 4),
                path=final.relative_to(self._plan.out_dir).as_posix(),
                metrics=metrics,
                is_best=state.is_best,
            )
            rotate(self._folder, checkpoints.keep if checkpoints.strategy != "none" else 1, state.best_step)

        return work

    def _wait(self) -> None:
        writing, self._writing = self._writing, None
        if writing is not None:
            writing.result()

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
