"""The methods: which weights are tuned, and what each needs of the rest of a spec."""

from app.specs.engines import EngineFacts as MethodFacts

METHODS: dict[str, MethodFacts] = {
    "full": MethodFacts("Tune every weight."),
    "lora": MethodFacts("Tune small matrices beside the weights, through peft."),
    "qlora": MethodFacts(
        "The same over a base model in 4 bits, on a GPU.",
        {"resources.gpus": ("auto", 1), "training.precision": ("auto", "bf16", "fp16")},
    ),
    "freeze": MethodFacts("Tune the head, or the upper layers, and leave the rest as it is."),
}
"""Every `training.method.type`."""

GPU_METHODS = frozenset({"qlora"})
"""Methods that only a worker with a GPU can do."""
