"""Supervised fine-tuning of a text generator, on conversations or on prompts with completions."""

from collections.abc import Collection, Iterator
from typing import ClassVar, Literal

from pydantic import Field

from app.specs.tasks.base import Columns, Example, Fault, Limits, Role, Row, TaskSpec, text_faults
from app.specs.tasks.conversations import conversation_fault


class CausalLM(TaskSpec):
    """Teach a text generator to answer: chat, instructions, completion."""

    known_roles: ClassVar[tuple[Role, ...]] = (
        Role("messages", ("conversation", "conversations", "chat")),
        Role("prompt", ("instruction", "question", "input"), is_required=False),
        Role("completion", ("response", "output", "answer"), is_required=False, is_answer=True),
    )
    example: ClassVar[Example] = {
        "name": "support",
        "task": {"type": "causal-lm"},
        "model": "HuggingFaceTB/SmolLM2-135M-Instruct",
        "data": {
            "train": {
                "rows": [
                    {
                        "messages": [
                            {"role": "user", "content": "My screen is dark."},
                            {"role": "assistant", "content": "Is the cable plugged in?"},
                        ]
                    }
                ]
            }
        },
        "training": {"method": {"type": "lora"}, "learning_rate": 2e-4},
    }
    limits: ClassVar[Limits] = {"training.class_weights": (None,)}

    type: Literal["causal-lm"] = Field(description="The task type.")
    format: Literal["messages", "prompt-completion"] = Field(
        default="messages",
        description="The form of a row: `messages` (a conversation, formatted with the tokenizer's chat "
        "template), or `prompt-completion` (two texts, concatenated).",
    )
    loss_on: Literal["answer", "all"] = Field(
        default="answer",
        description="The tokens that are trained on: only the assistant's messages or the completion, or every token.",
    )
    packing: bool = Field(
        default=False,
        description="Put several rows into one sequence of `max_length` tokens, so that short rows need no "
        "padding. Rows do not attend to each other.",
    )

    @property
    def roles(self) -> tuple[str, ...]:
        """Those of the format."""
        return ("messages",) if self.format == "messages" else ("prompt", "completion")

    @property
    def metrics(self) -> tuple[str, ...]:
        """Over the tokens that are trained on."""
        return ("perplexity", "token_accuracy")

    def faults(self, row: Row, columns: Columns, known: Collection[str] | None) -> Iterator[Fault]:
        """Conversations with invalid roles or empty messages, and missing texts."""
        if self.format == "prompt-completion":
            yield from text_faults(row, columns, "prompt", "completion")
        elif message := conversation_fault(row.get(columns["messages"])):
            yield "messages", message


SPEC = CausalLM
