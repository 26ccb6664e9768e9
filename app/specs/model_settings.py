"""The names that `model.config` may have: fields that some configuration class of transformers declares.

Other names are arguments of the functions that load a model, such as `subfolder` or `gguf_file`, or set nothing at all.
`tools/model_settings.py` writes the list from the installed transformers. The worker checks again, against the class of
the model at hand.
"""

from difflib import get_close_matches
from functools import cache
from pathlib import Path

NAMES_FILE = Path(__file__).with_name("model_settings.txt")
RESERVED = frozenset(
    {
        "architectures",
        "auto_map",
        "backbone",
        "backbone_config",
        "backbone_kwargs",
        "dtype",
        "id2label",
        "is_encoder_decoder",
        "label2id",
        "model_type",
        "num_labels",
        "output_attentions",
        "output_hidden_states",
        "problem_type",
        "quantization_config",
        "return_dict",
        "torch_dtype",
        "transformers_version",
    }
)
"""The service sets these itself, or they make transformers load another model."""


@cache
def known_names() -> frozenset[str]:
    """The names of all settings of all configuration classes, without the reserved ones."""
    return frozenset(NAMES_FILE.read_text(encoding="ascii").split())


def setting_problem(name: str) -> str | None:
    """Why `model.config` cannot have this name, or None."""
    if name.startswith("_") or name in RESERVED:
        return f"'{name}' is set by the service and cannot be overridden"
    if name in known_names():
        return None
    near = get_close_matches(name, known_names(), n=1)
    return f"'{name}' is no setting of any model's configuration" + (f"; did you mean '{near[0]}'?" if near else "")
