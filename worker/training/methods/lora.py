"""LoRA and QLoRA through peft (Hu et al., 2021; Dettmers et al., 2023).

A checkpoint holds the adapter: its matrices and the randomly initialized parts of the head. The base model is loaded again.

    adapter_config.json  adapter_model.safetensors
"""

import json
import re
from pathlib import Path
from typing import Any, cast

import torch
from peft import LoraConfig, PeftModel, TaskType, get_peft_model, prepare_model_for_kbit_training
from transformers import BitsAndBytesConfig, set_seed

from app.specs import JobSpec
from app.specs.training import LoraMethod as LoraSpec
from worker.training.errors import ModelConfigInvalid, nearest
from worker.training.planning.plan import Plan
from worker.training.tasks.protocol import Task

ADAPTER = "adapter_config.json"
WHOLE = ("classifier", "score", "qa_outputs", "lm_head", "pooler", "pre_classifier", "classification_head", "cls")
"""Heads. They stay in full precision, because a randomly initialized head has no pretrained values to quantize."""


class LoraMethod:
    """An adapter on the unquantized model."""

    may_round_frozen = True

    def begin(self, task: Task, base: Path, spec: JobSpec, labels: list[str]) -> tuple[Any, tuple[str, ...]]:
        """The pretrained model with an adapter that does not change its outputs yet. Raises ModelConfigInvalid for unknown targets."""
        model, head = task.build_model(base, spec, labels, **self.kind())
        set_seed(spec.training.seed)
        try:
            tuned = cast("Any", get_peft_model)(self.prepared(model), _config(task, spec, model, head))
        except ValueError as error:
            raise _refused(spec, model, error) from error
        # It would be asked for on the hub, at every save.
        tuned.peft_config["default"].base_model_name_or_path = None
        names = [name for name, weight in tuned.named_parameters() if weight.requires_grad and "lora_" not in name]
        return tuned, tuple(names)

    def load(self, plan: Plan, folder: Path, *, trainable: bool) -> Any:
        """The base model with the adapter of the folder."""
        return _with_adapter(plan, folder, trainable=trainable, model=self.prepared(self.base(plan)))

    def publishes_as_trained(self, spec: JobSpec) -> bool:
        """Whether the adapter is published. Merging rounds the weights."""
        return cast("LoraSpec", spec.training.method).export == "adapter"

    def export(self, plan: Plan, folder: Path) -> Path:
        """The adapter with the name of its base, or one merged model."""
        published = plan.scratch / "published"
        if cast("LoraSpec", plan.spec.training.method).export == "merged":
            whole, _ = plan.task.build_model(plan.base, plan.spec, plan.resolved.labels)
            _with_adapter(plan, folder, trainable=False, model=whole).merge_and_unload().save_pretrained(published)
        else:
            _with_adapter(plan, folder, trainable=False, model=self.base(plan)).save_pretrained(published)
            _name_base(published / ADAPTER, plan)
        plan.tokenizer.save_pretrained(published)
        return published

    def base(self, plan: Plan) -> Any:
        """The pretrained model."""
        return plan.task.build_model(plan.base, plan.spec, plan.resolved.labels, **self.kind())[0]

    def kind(self) -> dict[str, Any]:
        """How the base is loaded."""
        return {}

    def prepared(self, model: Any) -> Any:
        """The base, ready for an adapter."""
        return model


class QloraMethod(LoraMethod):
    """An adapter on a model in 4 bits."""

    may_round_frozen = False

    def publishes_as_trained(self, spec: JobSpec) -> bool:
        """Never: what is published is evaluated on its base as it is loaded again."""
        return False

    def kind(self) -> dict[str, Any]:
        """In 4-bit NormalFloat, its scales quantized too, computing in bf16."""
        quantization = BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_use_double_quant=True,
            bnb_4bit_compute_dtype=torch.bfloat16,
            llm_int8_skip_modules=list(WHOLE),
        )
        return {"quantization_config": quantization, "device_map": {"": 0 if torch.cuda.is_available() else "cpu"}}

    def prepared(self, model: Any) -> Any:
        """Without gradients, and with its norms in float32."""
        return prepare_model_for_kbit_training(model, use_gradient_checkpointing=False)


def _config(task: Task, spec: JobSpec, model: Any, head: tuple[str, ...]) -> LoraConfig:
    asked = cast("LoraSpec", spec.training.method)
    # A randomly initialized layer has no pretrained weights to adapt. It is trained and saved whole.
    made = sorted(
        {name.rpartition(".")[0] for name in head} | {name for name in task.trained_heads if hasattr(model, name)}
    )
    return LoraConfig(
        task_type=None if task.peft_type is None else TaskType[task.peft_type],
        r=asked.rank,
        lora_alpha=cast("Any", asked.alpha),
        lora_dropout=asked.dropout,
        target_modules="all-linear" if asked.target_modules == "auto" else asked.target_modules,
        exclude_modules=made or None,
        modules_to_save=made or None,
    )


def _with_adapter(plan: Plan, folder: Path, *, trainable: bool, model: Any) -> Any:
    tuned = PeftModel.from_pretrained(model, str(folder), is_trainable=trainable, local_files_only=True)
    tuned.peft_config["default"].base_model_name_or_path = None
    return tuned


def _name_base(config: Path, plan: Plan) -> None:
    written = json.loads(config.read_text(encoding="utf-8"))
    if written.get("modules_to_save"):
        # Every load adds to them what the kind of model has anyway.
        written["modules_to_save"] = sorted(set(written["modules_to_save"]))
    written |= {"base_model_name_or_path": plan.spec.model.id, "revision": plan.resolved.model_commit}
    config.write_text(json.dumps(written, indent=2) + "\n", encoding="utf-8")


def _refused(spec: JobSpec, model: Any, error: ValueError) -> ModelConfigInvalid:
    asked = cast("LoraSpec", spec.training.method).target_modules
    if isinstance(asked, str):
        return ModelConfigInvalid(f"the method lora does not fit this model: {error}")
    linear = {
        re.sub(r"^.*\.", "", name) for name, module in model.named_modules() if isinstance(module, torch.nn.Linear)
    }
    near = next((hint for name in asked if name not in linear and (hint := nearest(name, linear))), "")
    return ModelConfigInvalid(
        f"training.method.target_modules: {error}",
        f'The linear layers of this model are {", ".join(sorted(linear))}, or use "auto".{near}',
    )
