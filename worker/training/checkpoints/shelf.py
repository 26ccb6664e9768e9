"""Keeps a run's checkpoints: commits what an engine staged, tells of it, and rotates."""

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from worker.training.checkpoints.folders import commit, folder_name, rotate
from worker.training.loop.course import Course
from worker.training.planning.plan import Plan

RESUME_ONLY = frozenset(
    {
        "manifest.json",
        "optimizer.pt",
        "rng_state.pth",
        "scaler.pt",
        "scheduler.pt",
        "tensorflow_state.npz",
        "trainer_state.json",
        "training_args.bin",
        "tunesmith.json",
    }
)
"""Files of a checkpoint that only resuming needs."""


@dataclass(frozen=True)
class Outcome:
    """How training ended. `folder` holds the model to publish, None where the run was stopped."""

    course: Course
    folder: Path | None
    is_saved: bool
    """Whether a checkpoint of the last step stands, so that a stop from here on loses nothing."""
    exports: Path | None = None
    """A folder of what is published beside the model."""


class Shelf:
    """The checkpoints of one attempt, in `OUT_DIR/checkpoints`."""

    def __init__(self, plan: Plan, course: Course) -> None:
        self._plan, self._course = plan, course
        self._folder = plan.out_dir / "checkpoints"
        self._last: tuple[int, Path] | None = (course.step, plan.resume_from) if plan.resume_from else None
        self._find_best()

    @property
    def current(self) -> Path | None:
        """The checkpoint of the present step, if there is one."""
        return self._last[1] if self._last and self._last[0] == self._course.step else None

    @property
    def best(self) -> Path | None:
        """The checkpoint of the best step."""
        return self._place(self._course.best_step) if self._course.best_step is not None else None

    def put(self, staging: Path) -> None:
        """Commit the staged folder as the checkpoint of the present step. Raises OSError where the disk says no."""
        course, checkpoints = self._course, self._plan.spec.checkpoints
        # Trainer's own arguments: a pickle that names folders of this machine, and resuming does not need it.
        (staging / "training_args.bin").unlink(missing_ok=True)
        course.save(staging)
        final = self._folder / folder_name(course.step)
        metrics = course.metrics if course.evaluated_step == course.step else {}
        facts = {"step": course.step, "epoch": course.epoch, "metrics": metrics, "best_step": course.best_step}
        commit(staging, final, facts)
        self._last = (course.step, final)
        self._plan.report.checkpoint(
            step=course.step,
            epoch=round(course.epoch, 4),
            path=final.relative_to(self._plan.out_dir).as_posix(),
            metrics=metrics,
            is_best=course.is_best,
        )
        rotate(self._folder, checkpoints.keep if checkpoints.strategy != "none" else 1, course.best_step)

    def outcome(self, model: Any) -> Outcome:
        """The model to publish: the best, else the last; none where we were asked to stop before the end."""
        if not self._course.finished or self._course.evaluation_due:
            return Outcome(self._course, None, is_saved=self.current is not None)
        folder = self.best or self.current
        if folder is None:
            folder = self._plan.scratch / "final"
            model.save_pretrained(folder)
            self._plan.tokenizer.save_pretrained(folder)
        return Outcome(self._course, folder, is_saved=self.current is not None)

    def _find_best(self) -> None:
        # The best model so far lies in a checkpoint of its own, which whoever moved the newest may have left behind.
        course = self._course
        if course.best_step is None or self.best is not None:
            return
        self._plan.report.note(f"the best checkpoint so far, of step {course.best_step}, is not here any more")
        course.forget_best()

    def _place(self, step: int) -> Path | None:
        if self._last and self._last[0] == step:
            return self._last[1]
        beside = [self._folder] + ([self._plan.resume_from.parent] if self._plan.resume_from else [])
        return next((path for path in (folder / folder_name(step) for folder in beside) if path.is_dir()), None)


def copy_model(source: Path, target: Path) -> None:
    """Copy the files of a model out of a checkpoint folder, without those that only resuming needs."""
    target.mkdir(parents=True)
    for path in sorted(source.iterdir()):
        if path.is_file() and path.name not in RESUME_ONLY:
            shutil.copyfile(path, target / path.name)
