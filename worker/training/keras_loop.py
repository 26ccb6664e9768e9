# ruff: noqa: E402 - the death signal is asked for before imports that take seconds
# pyright: basic, reportMissingImports=false, reportMissingModuleSource=false, reportAttributeAccessIssue=false
"""The TensorFlow side of the engine `tensorflow`: a program of its own, in an environment without PyTorch and without us.

It loads a PyTorch-format model folder, and then does what it is told, one JSON object a line on standard input, each
answered by one on standard output:

    {"do": "step", "rows": [5, 2, …], "rate": 5e-05}   → {"said": "step", "loss": 0.69, "grad_norm": 1.2}
    {"do": "predict", "split": "eval", "batch_size": 32, "target": "x.npy"} → {"said": "predicted"} or {"said": "interrupted"}
    {"do": "save", "folder": "…"}                      → {"said": "saved"}: model.safetensors and what resuming needs
    {"do": "export", "source": "…", "folder": "…"}     → {"said": "exported"}: a SavedModel of the weights in `source`
    {"do": "interrupt"}                                  ends a prediction between two batches; no answer of its own
    {"do": "quit"}

Training is Keras's `fit`: its batch is a whole optimiser step, and its callback reads the commands between two steps.
Which rows, which learning rate, when to evaluate and what to keep is decided by whoever talks to it.
"""

import ctypes
import signal

PR_SET_PDEATHSIG = 1
ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)

import json
import os
import re
import resource
import select
import sys
import traceback
import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf
import tf_keras
from safetensors.numpy import load_file, save_file
from transformers import AutoConfig, TFAutoModelForSequenceClassification
from transformers.modeling_tf_pytorch_utils import apply_transpose, convert_tf_weight_name_to_pt_weight_name

STATE = "tensorflow_state.npz"
ADAM_BETAS, ADAM_EPSILON = (0.9, 0.999), 1e-8
CLIP_EPSILON = 1e-6
"""What PyTorch's clipping adds to the norm before it divides by it."""
OUT_OF_MEMORY = re.compile("OOM when allocating|bad_alloc|Cannot allocate memory")
DISK_FULL = re.compile("No space left on device|Disk quota exceeded|File too large")
Arrays = dict[str, np.ndarray]


def main() -> int:
    """Serve one parent until it says quit or is gone."""
    request = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    if os.getppid() != request["parent"]:
        # It died before we asked for the signal.
        return 1
    talk = Talk()
    try:
        tf.get_logger().setLevel("ERROR")
        tf.config.threading.set_intra_op_parallelism_threads(request["threads"] or 0)
        tf.config.threading.set_inter_op_parallelism_threads(1)
        run = Run(request, talk)
        talk.say("ready")
        run.serve()
    except BaseException as error:  # noqa: BLE001 - the last words of this process
        traceback.print_exc()
        talk.say("failed", kind=_kind(error), message=f"{type(error).__name__}: {error}"[:2000], peak_bytes=_peak())
        return 1
    return 0


class UnlikeWeights(Exception):
    """A folder's weights are not those of TensorFlow's model."""


class Talk:
    """The conversation with the parent. What libraries print goes to standard error instead."""

    def __init__(self) -> None:
        self._answers = os.fdopen(os.dup(1), "w", encoding="utf-8", buffering=1)
        os.dup2(2, 1)
        self._read = b""

    def say(self, said: str, **more: Any) -> None:
        """Answer."""
        self._answers.write(json.dumps({"said": said, **more}) + "\n")

    def hear(self) -> dict[str, Any]:
        """The next command; a parent that is gone says quit."""
        while b"\n" not in self._read:
            piece = os.read(0, 1 << 16)
            if not piece:
                return {"do": "quit"}
            self._read += piece
        line, _, self._read = self._read.partition(b"\n")
        return json.loads(line)

    def is_interrupted(self) -> bool:
        """Whether the parent wants no more of what is being done; takes that command up."""
        if b"\n" not in self._read and not select.select([0], [], [], 0)[0]:
            return False
        return self.hear()["do"] in ("interrupt", "quit")


class Run:
    """One attempt, as far as TensorFlow has to do with it."""

    def __init__(self, request: dict[str, Any], talk: Talk) -> None:
        self.request, self.talk = request, talk
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
        while (command := self.talk.hear())["do"] != "quit":
            match command["do"]:
                case "step":
                    self._set_rate(command["rate"])
                    self.pending = command
                    return
                case "predict":
                    self.talk.say("predicted" if self._predict(**_arguments(command)) else "interrupted")
                case "save":
                    self._save(Path(command["folder"]))
                    self.talk.say("saved")
                case "export":
                    self._export(**_arguments(command))
                    self.talk.say("exported")

    def _fit(self) -> None:
        run = self

        class Follow(tf_keras.callbacks.Callback):
            """After each step, tells of it and does what the parent says."""

            def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
                run.talk.say("step", loss=float(logs["loss"]), grad_norm=float(logs["grad_norm"]))
                run.obey()
                self.model.stop_training = run.pending is None

        # Without fixed widths, so that one traced step serves for all.
        shapes = {
            name: tf.TensorSpec((*array.shape[:2], *(None for _ in array.shape[2:])), array.dtype)
            for name, array in self._batch([0]).items()
        }
        data = tf.data.Dataset.from_generator(self._steps, output_signature=shapes)
        # A batch fetched ahead would be one that nobody has asked for yet.
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
            if self.talk.is_interrupted():
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
        archive.add_endpoint("serve", lambda tokens: {"logits": self.learner(tokens)}, [self.learner.shape()])
        archive.write_out(folder)


class Learner(tf_keras.Model):
    """The model with our loss, and a step over several batches."""

    def __init__(self, body: Any, request: dict[str, Any]) -> None:
        super().__init__()
        self.body = body
        self.features, self.passes = tuple(request["features"]), int(request["passes"])
        self.max_grad_norm = float(request["max_grad_norm"])
        self.soft_targets = tf.constant(request["soft_targets"], tf.float32)
        self.logits = tf.function(self.call, input_signature=[self.shape()])

    def shape(self) -> dict[str, Any]:
        """Rows by tokens of each feature, of any number."""
        return {name: tf.TensorSpec((None, None), tf.int32, name=name) for name in self.features}

    def call(self, tokens: Any, training: bool = False) -> Any:
        """Logits (rows by classes)."""
        return self.body(tokens, training=training).logits

    def train_step(self, data: dict[str, Any]) -> dict[str, Any]:
        """One optimiser step; the first dimension of `data` counts its forward passes."""
        weights = self.trainable_variables

        def one_pass(number: Any, loss: Any, sums: list[Any]) -> tuple[Any, Any, list[Any]]:
            with tf.GradientTape() as tape:
                part = self._loss({name: tensor[number] for name, tensor in data.items()})
            parts = tape.gradient(part, weights, unconnected_gradients=tf.UnconnectedGradients.ZERO)
            # Made plain tensors: the norm of a sparse gradient would be wrong where a token comes twice.
            return number + 1, loss + part, [a + tf.convert_to_tensor(b) for a, b in zip(sums, parts, strict=True)]

        begin = (tf.constant(0), tf.constant(0.0), [tf.zeros_like(weight) for weight in weights])
        if self.passes == 1:
            _, loss, gradients = one_pass(*begin)
        else:
            # A loop of the graph: written out, it would take as many times as long to trace.
            _, loss, gradients = tf.while_loop(
                lambda number, *_: number < self.passes, one_pass, begin, parallel_iterations=1
            )
        norm = tf.linalg.global_norm(gradients)
        scale = tf.minimum(1.0, self.max_grad_norm / (norm + CLIP_EPSILON))
        self.optimizer.apply_gradients(
            [(part * scale, weight) for part, weight in zip(gradients, weights, strict=True)]
        )
        return {"loss": loss, "grad_norm": norm}

    def _loss(self, batch: dict[str, Any]) -> Any:
        logits = self({name: batch[name] for name in self.features}, training=True)
        wanted = tf.gather(self.soft_targets, batch["labels"])
        return -tf.reduce_sum(batch["weight"] * tf.reduce_sum(wanted * tf.nn.log_softmax(logits), -1))


class Weights:
    """The weights of a model by their PyTorch names, in PyTorch's shapes."""

    def __init__(self, body: Any) -> None:
        self._found: dict[str, tuple[Any, Any]] = {}
        self._shapes: dict[str, tuple[int, ...]] = {}
        for variable in body.weights:
            name, transpose = convert_tf_weight_name_to_pt_weight_name(variable.name, "", variable.shape)
            aliases = body.tf_to_pt_weight_rename(name) if hasattr(body, "tf_to_pt_weight_rename") else (name,)
            self._found[aliases[0]] = (variable, transpose)

    def load(self, folder: Path) -> None:
        """Take every weight of the folder. Raises UnlikeWeights where its names are not the model's."""
        arrays = load_file(folder / "model.safetensors")
        if odd := sorted(set(arrays) ^ set(self._found)):
            raise UnlikeWeights(
                f"{len(odd)} weights are not in both TensorFlow's and PyTorch's model, such as {odd[:3]}"
            )
        self._shapes = {name: array.shape for name, array in arrays.items()}
        for name, (variable, transpose) in self._found.items():
            variable.assign(apply_transpose(transpose, arrays.pop(name), variable.shape))

    def save(self, path: Path) -> None:
        """Write safetensors as PyTorch's classes load them."""
        # safetensors writes memory as it lies: a transposed view would go out untransposed.
        arrays = {
            name: np.ascontiguousarray(apply_transpose(transpose, variable.numpy(), self._shapes[name], pt_to_tf=False))
            for name, (variable, transpose) in self._found.items()
        }
        save_file(arrays, path, metadata={"format": "pt"})

    def other_than(self, names: Sequence[str]) -> list[Any]:
        """The variables without these names."""
        named = set(names)
        return [variable for name, (variable, _) in self._found.items() if name not in named]


class Split:
    """The tokens of one split: flat arrays, and where in them each row begins."""

    def __init__(self, folder: Path, padding: dict[str, Any]) -> None:
        self._padding = padding
        self._starts = np.load(folder / "starts.npy")
        self._labels = np.load(folder / "labels.npy", mmap_mode="r")
        self._tokens = {name: np.load(folder / f"{name}.npy", mmap_mode="r") for name in padding["values"]}
        self.lengths = np.diff(self._starts)

    def features(self, rows: np.ndarray) -> Arrays:
        """Padded arrays (rows by tokens, int32), the mask among them."""
        padding, longest = self._padding, int(self.lengths[rows].max())
        # Few widths, so that what a kernel prepared for one serves again.
        width = padding["always"] or max(longest, min(-(-longest // 8) * 8, padding["most"]))
        arrays = {name: np.full((len(rows), width), padding["values"][name], np.int32) for name in self._tokens}
        arrays["attention_mask"] = np.zeros((len(rows), width), np.int32)
        for place, row in enumerate(rows):
            begin, length = self._starts[row], self.lengths[row]
            span = slice(width - length, width) if padding["left"] else slice(length)
            for name, tokens in self._tokens.items():
                arrays[name][place, span] = tokens[begin : begin + length]
            arrays["attention_mask"][place, span] = 1
        return arrays

    def step(self, rows: Sequence[int], batch_size: int, passes: int) -> Arrays:
        """The rows of a step as `passes` batches of one size; what fills up the last ones weighs nothing."""
        room = batch_size * passes
        filled = np.array([*rows, *[rows[0]] * (room - len(rows))])
        weight = np.zeros(room, np.float32)
        weight[: len(rows)] = 1 / len(rows)
        flat = {**self.features(filled), "labels": self._labels[filled].astype(np.int32), "weight": weight}
        return {name: array.reshape(passes, batch_size, *array.shape[1:]) for name, array in flat.items()}


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
