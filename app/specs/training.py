"""How to train: engine, method, optimizer and schedule."""

from typing import Annotated, Literal

from pydantic import Field, StringConstraints

from app.specs.strict import Strict

AUTO_BATCH_SIZE = 16
"""The value of `batch_size: "auto"`."""

LayerName = Annotated[str, StringConstraints(min_length=1, max_length=200)]
BatchSize = Annotated[int, Field(ge=1, le=4096)] | Literal["auto"]


class FullMethod(Strict):
    """Train every weight."""

    type: Literal["full"] = Field(description="`full` trains every weight.")


class FreezeMethod(Strict):
    """Train only the upper part of the model."""

    type: Literal["freeze"] = Field(description="`freeze` does not train the lower part of the model.")
    layers: Annotated[int, Field(ge=0, le=1000)] | Literal["all"] = Field(
        default="all",
        description="How many layers are frozen, together with the embeddings, counted from the embeddings up; "
        "`all` trains only the head.",
    )


class LoraMethod(Strict):
    """Train small matrices that are added to the weights (LoRA: Hu et al., 2021)."""

    type: Literal["lora"] = Field(description="`lora` trains small matrices that are added to the weights.")
    rank: int = Field(default=16, ge=1, le=1024, description="The inner size of the matrices.")
    alpha: float = Field(default=32.0, gt=0, le=10_000, description="The matrices are scaled by `alpha / rank`.")
    dropout: float = Field(default=0.0, ge=0, lt=1, description="Dropout on the input of the matrices.")
    target_modules: list[LayerName] | Literal["auto"] = Field(
        default="auto",
        max_length=200,
        description="The layers that get matrices, by the ends of their names; `auto` selects every linear "
        "layer except the head.",
    )
    export: Literal["merged", "adapter"] = Field(
        default="merged",
        description="What is published: `merged` is a whole model that transformers loads, `adapter` only the "
        "matrices, which peft loads onto the base model.",
    )


class QloraMethod(LoraMethod):
    """LoRA over a base model in 4 bits (QLoRA: Dettmers et al., 2023)."""

    type: Literal["qlora"] = Field(  # pyright: ignore[reportIncompatibleVariableOverride] - another tag of the same shape
        description="`qlora` is `lora` over a base model in 4 bits; it needs a GPU."
    )
    export: Literal["merged", "adapter"] = Field(
        default="adapter",
        description="What is published: `adapter` is only the matrices, `merged` a whole model in 32 bits.",
    )


Method = Annotated[FullMethod | LoraMethod | QloraMethod | FreezeMethod, Field(discriminator="type")]
"""Which weights are trained, discriminated by `type`."""


class EarlyStopping(Strict):
    """End the run when evaluation stops improving."""

    patience: int = Field(
        ge=1, le=1000, description="The number of evaluations in a row without improvement after which training ends."
    )
    min_delta: float = Field(
        default=0.0,
        ge=0,
        le=1e6,
        description="The smallest change that counts as an improvement, in units of `best_by`.",
    )


class Training(Strict):
    """How to train. The defaults are those of the Hugging Face fine-tuning tutorial."""

    engine: Literal["trainer", "pytorch", "tensorflow"] = Field(
        default="trainer",
        description="The training loop: `trainer` is the Hugging Face Trainer, `pytorch` a native loop over "
        "accelerate, "
        "`tensorflow` Keras on TensorFlow. `GET /v1/tasks` lists what each supports.",
    )
    method: Method = Field(default=FullMethod(type="full"), description="Which weights are trained.")
    epochs: float = Field(default=3.0, gt=0, le=10_000, description="Passes over train.")
    max_steps: int | None = Field(
        default=None, ge=1, le=100_000_000, description="Optimizer steps; overrides `epochs`."
    )
    batch_size: BatchSize = Field(default=8, description="Rows per forward pass, 1 to 4096, or `auto`, which is 16.")
    batch_tokens: int | None = Field(
        default=None,
        ge=2,
        le=100_000_000,
        description="Instead of `batch_size`: at most so many tokens per forward pass, padding included, so that short "
        "rows share a pass with many others.",
    )
    batching: Literal["auto", "length", "random", "no_duplicates"] = Field(
        default="auto",
        description="Which rows share a batch: `length` are rows of similar length, which need little padding, in "
        "steps of random order; `random` are any rows; `no_duplicates` are rows without a common text, for tasks whose "
        "other rows are negative examples. `auto` is `no_duplicates` for those tasks, otherwise `length`.",
    )
    gradient_accumulation: int = Field(default=1, ge=1, le=4096, description="Forward passes per optimizer step.")
    optimizer: Literal["adamw", "adafactor", "sgd"] = Field(default="adamw", description="The optimizer.")
    learning_rate: float = Field(default=5e-5, gt=0, le=1, description="The peak learning rate.")
    head_learning_rate: float | None = Field(
        default=None,
        gt=0,
        le=1,
        description="The learning rate of a randomly initialized head. Without it: `learning_rate`.",
    )
    scheduler: Literal["linear", "cosine", "constant", "constant_with_warmup", "polynomial", "inverse_sqrt"] = Field(
        default="linear", description="The schedule of the learning rate."
    )
    warmup_steps: int = Field(
        default=0, ge=0, le=100_000_000, description="Steps over which the learning rate rises from 0."
    )
    weight_decay: float = Field(
        default=0.0, ge=0, le=10, description="Decoupled weight decay; not applied to biases and norms."
    )
    max_grad_norm: float = Field(default=1.0, gt=0, le=1e6, description="Gradients are clipped to this norm.")
    label_smoothing: float = Field(
        default=0.0,
        ge=0,
        lt=1,
        description="Label smoothing: the fraction of each target that is spread over all classes.",
    )
    class_weights: Literal["balanced"] | dict[str, float] | None = Field(
        default=None,
        description="Weights of the classes in the loss: `balanced` (inverse to frequency in train), or class "
        "name to weight.",
    )
    gradient_checkpointing: bool = Field(
        default=False, description="Trade compute for memory by recomputing activations."
    )
    precision: Literal["auto", "fp32", "bf16", "fp16"] = Field(
        default="auto",
        description="Autocast over fp32 weights. `auto` is bf16 if the hardware is fast at it, otherwise fp32.",
    )
    compile: Literal["auto", "always", "never"] = Field(
        default="auto",
        description="Whether `torch.compile` compiles the layers of the model. `auto` does so on a GPU, where a measured "
        "estimate says that it pays back within the job.",
    )
    seed: int = Field(default=42, ge=0, le=2**32 - 1, description="Seeds the new head, the data order and dropout.")
    logging_steps: int = Field(
        default=10, ge=1, le=1_000_000, description="Steps between two points of the loss series."
    )
    early_stopping: EarlyStopping | None = Field(
        default=None, description="End training early when evaluation stops improving."
    )
