"""Learning from pairs of answers, of which people prefer one (DPO: Rafailov et al., 2023)."""

from collections.abc import Collection, Iterator
from typing import Any, ClassVar, Literal

from pydantic import Field

from app.specs.tasks.base import Columns, Example, Fault, Limits, Role, Row, TaskSpec, text_fault
from app.specs.tasks.conversations import conversation_fault, is_conversation, messages


class Preference(TaskSpec):
    """Make a text generator prefer the answers that people prefer."""

    known_roles: ClassVar[tuple[Role, ...]] = (
        Role("prompt", ("instruction", "question", "input")),
        Role("chosen", ("preferred", "accepted"), is_answer=True),
        Role("rejected", ("dispreferred",), is_answer=True),
    )
    methods: ClassVar[tuple[str, ...]] = ("full", "lora", "qlora")
    streams: ClassVar[bool] = False
    example: ClassVar[Example] = {
        "name": "politeness",
        "task": {"type": "preference"},
        "model": "HuggingFaceTB/SmolLM2-135M-Instruct",
        "data": {
            "train": {
                "rows": [
                    {
                        "prompt": "My screen is dark.",
                        "chosen": "Is the cable plugged in?",
                        "rejected": "Not my problem.",
                    }
                ]
            }
        },
        "training": {"method": {"type": "lora"}, "learning_rate": 1e-5},
    }
    limits: ClassVar[Limits] = {
        "training.class_weights": (None,),
        "training.label_smoothing": (0.0,),
        "training.head_learning_rate": (None,),
    }

    type: Literal["preference"] = Field(description="The task type.")
    beta: float = Field(
        default=0.1, gt=0, le=100, description="How strongly the model is kept close to the model before training."
    )
    loss: Literal["sigmoid", "hinge", "ipo"] = Field(
        default="sigmoid", description="The form of the loss: `sigmoid` is DPO as published."
    )

    @property
    def metrics(self) -> tuple[str, ...]:
        """How often, and by what margin, the chosen answer is preferred."""
        return ("reward_accuracy", "reward_margin")

    def faults(self, row: Row, columns: Columns, known: Collection[str] | None) -> Iterator[Fault]:
        """Rows that lack a text, or whose two answers are the same."""
        asked = row.get(columns["prompt"])
        faults = [
            (role, message)
            for role in ("prompt", "chosen", "rejected")
            if (message := _fault(role, row.get(columns[role]), is_talk=is_conversation(asked)))
        ]
        yield from faults
        if not faults and row[columns["chosen"]] == row[columns["rejected"]]:
            yield "rejected", "it is the same as the chosen answer"


def _fault(role: str, cell: Any, *, is_talk: bool) -> str | None:
    if not is_conversation(cell):
        return text_fault(cell)
    if not is_talk:
        return "the answer is a list of messages and the prompt a text; write both as messages, or both as texts"
    # A prompt ends before the answer does, and an answer is what comes after it.
    closing = [{"role": "assistant", "content": "…"}] if role == "prompt" else []
    found = messages(cell) or []
    if role != "prompt" and len(found) != 1:
        return (
            f"an answer must be one message of the assistant, this has {len(found)}; leave out the messages of "
            f"the prompt"
        )
    return conversation_fault([*found, *closing])


SPEC = Preference
