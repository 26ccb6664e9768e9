"""Lets a test draw dropout as torch does, to compare a run with the stock Trainer or with earlier versions."""

import pytest
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.modeling_utils import AttentionInterface

from worker.training.models import attention


def use_torch_dropout(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave attention and dropout to torch. The next run without this patch registers our attention again."""
    monkeypatch.setattr(attention, "register", lambda: None)
    monkeypatch.setattr("worker.training.methods.use_fast_dropout", lambda _model: None)
    AttentionInterface.register("sdpa", sdpa_attention_forward)
