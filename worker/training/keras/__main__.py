# ruff: noqa: E402 - the death signal is asked for before imports that take seconds
# pyright: basic, reportMissingImports=false, reportMissingModuleSource=false, reportAttributeAccessIssue=false
"""The TensorFlow side of the engine `tensorflow`: a program of its own, in an environment without PyTorch and without us.

It loads a PyTorch-format model folder, and then follows commands, one JSON object a line on standard input, each
answered by one on standard output:

    {"do": "step", "rows": [5, 2, …], "rate": 5e-05}   → {"said": "step", "loss": 0.69, "grad_norm": 1.2}
    {"do": "predict", "split": "eval", "batch_size": 32, "target": "x.npy"} → {"said": "predicted"} or {"said": "interrupted"}
    {"do": "save", "folder": "…"}                      → {"said": "saved"}: model.safetensors and what resuming needs
    {"do": "export", "source": "…", "folder": "…"}     → {"said": "exported"}: a SavedModel of the weights in `source`
    {"do": "interrupt"}                                  ends a prediction between two batches; no answer of its own
    {"do": "quit"}

Training is Keras's `fit`: its batch is a whole optimizer step, and its callback reads the commands between two steps.
The parent process decides which rows and learning rate to use, when to evaluate and what to keep.
"""

import ctypes
import signal

PR_SET_PDEATHSIG = 1
ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
for number in (signal.SIGINT, signal.SIGTERM):
    # Where the whole group is signalled, it is the parent who decides what becomes of it.
    signal.signal(number, signal.SIG_IGN)

import json
import os
import re
import resource
import sys
import traceback
import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf
import tf_keras
from conversation import Conversation
from learner import Learner
from rows import Arrays, Split
from transformers import AutoConfig, TFAutoModelForSequenceClassification
from weights import UnlikeWeights, Weights

STATE = "tensorflow_state.npz"
ADAM_BETAS, ADAM_EPSILON = (0.9, 0.999), 1e-8
OUT_OF_MEMORY = re.compile("OOM when allocating|bad_alloc|Cannot allocate memory|out of memory|exception: ?Status: 1,")
"""The last is oneDNN's `dnnl_out_of_memory`, as TensorFlow passes it on."""
DISK_FULL = re.compile("No space left on device|Disk quota exceeded|File too large")


def main() -> int:
    """Serve one parent until it says quit or is gone."""
    request = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    if os.getppid() != request["parent"]:
        # It died before we asked for the signal.
        return 1
    conversation = Conversation()
    try:
        tf.get_logger().setLevel("ERROR")
        tf_keras.utils.disable_interactive_logging()
        tf.config.threading.set_intra_op_parallelism_threads(request["threads"] or 0)
        tf.config.threading.set_inter_op_parallelism_threads(1)
        run = Run(request, conversation)
        conversation.answer("ready")
        run.serve()
    except BaseException as error:  # noqa: BLE001 - the last words of this process
        traceback.print_exc()
        conversation.answer(
            "failed", kind=_kind(error), message=f"{type(error).__name__}: {error}"[:2000], peak_bytes=_peak()
        )
        return 1
    return 0


class Run:
    """One attempt, as far as TensorFlow has to do with it."""

    def __init__(self, request: dict[str, Any], conversation: Conversation) -> None:
        self.request, self.conversation = request, conversation
        # Dropout then draws from generators whose state can be saved.
        tf_keras.backend.experimental.enable_tf_random_generator()
        tf_keras.utils.set_random_seed(request["seed"])
        folder = Path(request["model"])
        config = AutoConfig.from_pretrained(folder, local_files_only=True)
        body = TFAutoModelForSequenceClassification.from_config(config)
        body.build_in_name_scope()
        self.weights = Weights(body)
        self.weights.load(folder)
        self.splits = {name: Split(Path(place), request["padding"]) for name, place in request["splits"].items()}
        self.learner = Learner(body, request)
        self.adam_epsilon = tf.Variable(tf.constant(ADAM_EPSILON), trainable=False)
        self.learner.compile(optimizer=self._optimizer(), jit_compile=False)
        self.pending: dict[str, Any] | None = None
        if request["resume"]:
            self._restore(folder)

    def serve(self) -> None:
        """Obey; and once a step is wanted, train."""
        self.obey()
        if self.pending is not None:
            self._fit()

    def obey(self) -> None:
        """Do what the parent says until it wants a step, which is then pending, or has enough."""
        self.pending = None
        while (command := self.conversation.next_command())["do"] != "quit":
            match command["do"]:
                case "step":
                    self._set_rate(command["rate"])
                    self.pending = command
                    return
                case "predict":
                    self.conversation.answer("predicted" if self._predict(**_arguments(command)) else "interrupted")
                case "save":
                    self._save(Path(command["folder"]))
                    self.conversation.answer("saved")
                case "export":
                    self._export(**_arguments(command))
                    self.conversation.answer("exported")

    def _fit(self) -> None:
        run = self

        class Follow(tf_keras.callbacks.Callback):
            """Report each step and follow the commands of the parent process."""

            def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
                run.conversation.answer("step", loss=float(logs["loss"]), grad_norm=float(logs["grad_norm"]))
                run.obey()
                self.model.stop_training = run.pending is None

        # Without fixed widths, so that one traced step serves for all.
        shapes = {
            name: tf.TensorSpec((*array.shape[:2], *(None for _ in array.shape[2:])), array.dtype)
            for name, array in self._batch([0]).items()
        }
        data = tf.data.Dataset.from_generator(self._steps, output_signature=shapes)
        # A prefetched batch would be one that the parent has not requested yet.
        options = tf.data.Options()
        options.autotune.enabled = options.experimental_optimization.apply_default_optimizations = False
        self.learner.fit(data.with_options(options), epochs=1, callbacks=[Follow()], verbose=0)

    def _steps(self) -> Iterator[Arrays]:
        while self.pending is not None:
            yield self._batch(self.pending["rows"])

    def _batch(self, rows: Sequence[int]) -> Arrays:
        return self.splits["train"].step(rows, self.request["batch_size"], self.request["passes"])

    def _optimizer(self) -> Any:
        decay = self.request["weight_decay"] or None
        if self.request["optimizer"] == "sgd":
            optimizer = tf_keras.optimizers.SGD(0.0, weight_decay=decay, jit_compile=False)
        else:
            optimizer = tf_keras.optimizers.Adam(
                0.0, *ADAM_BETAS, epsilon=self.adam_epsilon, weight_decay=decay, jit_compile=False
            )
        if decay is not None:
            optimizer.exclude_from_weight_decay(var_list=self.weights.other_than(self.request["decaying"]))
        optimizer.build(self.learner.trainable_variables)
        return optimizer

    def _set_rate(self, rate: float) -> None:
        optimizer = self.learner.optimizer
        optimizer.learning_rate.assign(rate)
        # Keras's epsilon is the one "hat" of the Adam paper, section 2; this makes it the one that PyTorch adds.
        step = int(optimizer.iterations.numpy()) + 1
        self.adam_epsilon.assign(ADAM_EPSILON * (1 - ADAM_BETAS[1] ** step) ** 0.5)

    def _predict(self, split: str, batch_size: int, target: str) -> bool:
        rows = self.splits[split]
        logits = np.zeros((len(rows.lengths), len(self.request["soft_targets"])), np.float32)
        order = np.argsort(-rows.lengths, kind="stable")
        for start in range(0, len(order), batch_size):
            if self.conversation.is_interrupted():
                return False
            places = order[start : start + batch_size]
            logits[places] = self.learner.logits(rows.features(places)).numpy()
        np.save(target, logits)
        return True

    def _save(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.weights.save(folder / "model.safetensors")
        with zipfile.ZipFile(folder / STATE, "w") as archive:
            # One by one: a second copy of everything would not fit where the model only just does.
            for number, variable in enumerate(self._state()):
                with archive.open(f"{number:05d}.npy", "w", force_zip64=True) as file:
                    np.lib.format.write_array(file, np.asarray(variable.numpy()), allow_pickle=False)

    def _restore(self, folder: Path) -> None:
        with np.load(folder / STATE) as saved:
            for name, variable in zip(sorted(saved.files), self._state(), strict=True):
                variable.assign(saved[name])

    def _state(self) -> list[Any]:
        randoms = [part._random_generator for part in self.learner.submodules if hasattr(part, "_random_generator")]  # noqa: SLF001 - there is no public name
        for random in randoms:
            # Layers make theirs when they first draw, which may be after this.
            random._maybe_init()  # noqa: SLF001 - the same
        generators = [random._generator.state for random in randoms]  # noqa: SLF001 - the same
        return [*self.learner.optimizer.variables, *generators]

    def _export(self, source: str, folder: str) -> None:
        self.weights.load(Path(source))
        archive = tf_keras.export.ExportArchive()
        archive.track(self.learner.body)
        archive.add_endpoint("serve", lambda tokens: {"logits": self.learner.logits(tokens)}, [self.learner.shape()])
        archive.write_out(folder)


def _arguments(command: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in command.items() if name != "do"}


def _kind(error: BaseException) -> str:
    text = str(error)
    if isinstance(error, (tf.errors.ResourceExhaustedError, MemoryError)) or OUT_OF_MEMORY.search(text):
        return "memory"
    if DISK_FULL.search(text):
        return "disk"
    return "architecture" if isinstance(error, UnlikeWeights) else "unknown"


def _peak() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


if __name__ == "__main__":
    sys.exit(main())
