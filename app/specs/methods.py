"""The methods: which weights are trained, and what each requires of the rest of a spec."""

from app.specs.engines import EngineFacts as MethodFacts

METHOD_FACTS: dict[str, MethodFacts] = {
    "full": MethodFacts("Train every weight."),
    "lora": MethodFacts("Train small matrices that are added to the weights (LoRA), with peft."),
    "qlora": MethodFacts(
        "LoRA over a base model in 4 bits, on a GPU.",
        {"resources.gpus": ("auto", 1), "training.precision": ("auto", "bf16", "fp16")},
    ),
    "freeze": MethodFacts("Train the head, or the upper layers, and freeze the rest."),
}
"""Every `training.method.type`."""

GPU_METHODS = frozenset({"qlora"})
"""Methods that need a worker with a GPU."""
