"""Conversations as a chat template writes them, and the places of the assistant's messages in the text.

A template with `{% generation %}` marks these places itself
(https://huggingface.co/docs/transformers/chat_templating_writing). Without it, the places are found exactly:

- the text before a message, with the generation prompt, and the text up to its end are prefixes of the whole text; or
- the conversation is written once more with a placeholder as the message. The part that changes is the message.
"""

import re
from itertools import islice
from typing import Any

from worker.training.errors import ModelRefused
from worker.training.tokens.chat_template import Conversation, render, render_marked

GENERATION = re.compile(r"\{%-?\s*generation\s*-?%\}")
PRIVATE_USE = range(0xE000, 0xF900)
"""Code points without a meaning (https://www.unicode.org/faq/private_use.html)."""

Stretch = tuple[int, int]
"""The first character of a part of a text, and the one after its last."""


def write(conversation: Conversation, tokenizer: Any) -> tuple[str, list[Stretch]]:
    """The text of a conversation, and the stretches of the assistant's messages, each with its end token.

    A message that the template leaves out has no stretch. Raises ModelRefused if that is the last message.
    """
    if GENERATION.search(tokenizer.chat_template):
        return render_marked(conversation, tokenizer)
    whole = render(conversation, tokenizer)
    found = {
        number: _exact(conversation, number, whole, tokenizer) or _changed(conversation, number, whole, tokenizer)
        for number, message in enumerate(conversation)
        if message["role"] == "assistant"
    }
    if found.get(len(conversation) - 1, (0, 0)) is None:
        raise ModelRefused(
            "the chat template of the model's tokenizer leaves out the last message of a conversation",
            "Use a template that writes it, mark it with {% generation %}, or set task.loss_on to all.",
        )
    return whole, [stretch for stretch in found.values() if stretch is not None]


def shared_prefix(first: str, *others: str) -> str:
    """The longest text that all of them begin with."""
    length = next(
        (place for place, signs in enumerate(zip(first, *others, strict=False)) if len(set(signs)) > 1),
        min(map(len, (first, *others))),
    )
    return first[:length]


def _exact(conversation: Conversation, number: int, whole: str, tokenizer: Any) -> Stretch | None:
    before = render(conversation[:number], tokenizer, is_open=True) if number else ""
    after = render(conversation[: number + 1], tokenizer).rstrip()
    if whole.startswith(before) and whole.startswith(after) and len(before) < len(after):
        return len(before), len(after)
    return None


def _changed(conversation: Conversation, number: int, whole: str, tokenizer: Any) -> Stretch | None:
    placeholder = "".join(islice((chr(code) for code in PRIVATE_USE if chr(code) not in whole), 2))
    other = [*conversation]
    other[number] = {**conversation[number], "content": placeholder}
    text = render(other, tokenizer)
    begin = len(shared_prefix(whole, text))
    end = len(whole) - len(shared_prefix(whole[begin:][::-1], text[begin:][::-1]))
    if begin >= end:
        return None
    # The end of a turn is what the template writes after it where the conversation ends with it.
    ending = render(other[: number + 1], tokenizer).partition(placeholder)[2].rstrip()
    return begin, end + len(ending) if whole.startswith(ending, end) else end
