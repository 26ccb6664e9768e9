# pyright: basic, reportMissingImports=false, reportMissingModuleSource=false, reportAttributeAccessIssue=false
"""The Keras model that learns: our loss, and a step over several batches."""

from typing import Any

import tensorflow as tf
import tf_keras

CLIP_EPSILON = 1e-6
"""What PyTorch's clipping adds to the norm before it divides by it."""


class Learner(tf_keras.Model):
    """The model with our loss, and a step over several batches."""

    def __init__(self, body: Any, request: dict[str, Any]) -> None:
        super().__init__()
        self.body = body
        self.features, self.passes = tuple(request["features"]), int(request["passes"])
        self.max_grad_norm = float(request["max_grad_norm"])
        self.soft_targets = tf.constant(request["soft_targets"], tf.float32)
        self.logits = tf.function(self.call, input_signature=[self.shape()], autograph=False)

    def shape(self) -> dict[str, Any]:
        """Rows by tokens of each feature, of any number."""
        return {name: tf.TensorSpec((None, None), tf.int32, name=name) for name in self.features}

    def call(self, tokens: Any, training: bool = False) -> Any:
        """Logits (rows by classes)."""
        return self.body(tokens, training=training).logits

    # These models have no `if` or `for` that depends on a tensor, and AutoGraph takes longer than all other tracing.
    @tf.autograph.experimental.do_not_convert
    def train_step(self, data: dict[str, Any]) -> dict[str, Any]:
        """One optimizer step; the first dimension of `data` counts its forward passes."""
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
