"""A body for each task that POST /v1/jobs takes as it is."""

from typing import Any

ENCODER = "google-bert/bert-base-cased"
GENERATOR = "HuggingFaceTB/SmolLM2-135M-Instruct"


def _example(name: str, task: str, model: str, rows: list[dict[str, Any]], **more: Any) -> dict[str, Any]:
    return {"name": name, "task": {"type": task}, "model": model, "data": {"train": {"rows": rows}}, **more}


EXAMPLES: dict[str, dict[str, Any]] = {
    "text-classification": _example(
        "mood",
        "text-classification",
        ENCODER,
        [
            {"text": "A joy from start to end.", "label": "good"},
            {"text": "Two hours of my life that I shall miss.", "label": "bad"},
        ],
    ),
    "token-classification": _example(
        "names",
        "token-classification",
        ENCODER,
        [
            {"tokens": ["Ada", "Lovelace", "lived", "in", "London"], "tags": ["B-PER", "I-PER", "O", "O", "B-LOC"]},
            {"tokens": ["It", "rains"], "tags": ["O", "O"]},
        ],
    ),
    "question-answering": _example(
        "answers",
        "question-answering",
        ENCODER,
        [
            {
                "question": "Where is the key?",
                "context": "The key is under the mat.",
                "answers": {"text": ["under the mat"], "answer_start": [11]},
            },
        ],
    ),
    "seq2seq": _example(
        "into-spanish",
        "seq2seq",
        "google-t5/t5-small",
        [{"source": "Good morning.", "target": "Buenos días."}],
    )
    | {"task": {"type": "seq2seq", "problem": "translation", "prefix": "translate English to Spanish: "}},
    "causal-lm": _example(
        "support",
        "causal-lm",
        GENERATOR,
        [
            {
                "messages": [
                    {"role": "user", "content": "My screen is dark."},
                    {"role": "assistant", "content": "Is the cable plugged in?"},
                ]
            }
        ],
        training={"method": {"type": "lora"}, "learning_rate": 2e-4},
    ),
    "preference": _example(
        "politeness",
        "preference",
        GENERATOR,
        [{"prompt": "My screen is dark.", "chosen": "Is the cable plugged in?", "rejected": "Not my problem."}],
        training={"method": {"type": "lora"}, "learning_rate": 1e-5},
    ),
    "masked-lm": _example(
        "medical-words",
        "masked-lm",
        ENCODER,
        [{"text": "The patient was given 5 mg of warfarin daily."}],
    ),
    "sentence-embedding": _example(
        "search",
        "sentence-embedding",
        "sentence-transformers/all-MiniLM-L6-v2",
        [
            {"anchor": "How do I reset my password?", "positive": "Choose 'forgotten password' on the first page."},
            {"anchor": "Where is my order?", "positive": "Parcels can be followed under 'My orders'."},
        ],
    ),
}
