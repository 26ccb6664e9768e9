"""Renders chat templates. A template is a program that came with the model, so its time is limited and its errors are its own."""

import signal
import threading
from collections.abc import Generator
from contextlib import contextmanager
from typing import Any, cast

from transformers.utils.chat_template_utils import render_jinja_template

from worker.training.errors import ModelRefused, without_paths

LONGEST_SECONDS = 10.0
"""For one conversation. Templates take milliseconds."""

Conversation = list[dict[str, Any]]


def render(conversation: Conversation, tokenizer: Any, *, is_open: bool = False) -> str:
    """The text of a conversation; `is_open` adds the prompt for the next answer. Raises ModelRefused."""
    with _guarded():
        return cast("str", tokenizer.apply_chat_template(conversation, tokenize=False, add_generation_prompt=is_open))


def render_marked(conversation: Conversation, tokenizer: Any) -> tuple[str, list[tuple[int, int]]]:
    """The text, and the first and last character of each part that the template marks as generated. Raises ModelRefused."""
    with _guarded():
        texts, stretches = cast("Any", render_jinja_template)(
            conversations=[conversation],
            chat_template=tokenizer.chat_template,
            return_assistant_tokens_mask=True,
            **tokenizer.special_tokens_map,
        )
    return texts[0], [(int(begin), int(end)) for begin, end in stretches[0]]


class _TooSlowError(Exception):
    pass


@contextmanager
def _guarded() -> Generator[None]:
    try:
        with _time_limit(LONGEST_SECONDS):
            yield
    except _TooSlowError as error:
        raise ModelRefused(
            f"the chat template of the model's tokenizer took more than {LONGEST_SECONDS:g} s for one conversation"
        ) from error
    except MemoryError as error:
        raise ModelRefused("the chat template of the model's tokenizer needs more memory than there is") from error
    except Exception as error:
        # A template can fail in as many ways as any program. Some refuse conversations with a message of their own.
        raise ModelRefused(
            f"the chat template of the model's tokenizer failed on a conversation: {without_paths(str(error))}",
            "Check the roles and their order in the rows, or use a model with another chat template.",
        ) from error


@contextmanager
def _time_limit(seconds: float) -> Generator[None]:
    # Signals reach only the main thread, where rows are encoded.
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def end(number: int, frame: object) -> None:
        raise _TooSlowError

    before = signal.signal(signal.SIGALRM, end)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
