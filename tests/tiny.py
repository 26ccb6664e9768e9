"""A BERT of a few thousand weights and rows for it: a whole training run takes a second."""

from pathlib import Path
from typing import Any

from seeds import seed

GOOD = ("good", "great", "fine", "lovely")
BAD = ("bad", "awful", "poor", "dull")
FILLER = ("the", "film", "was", "a", "plot", "very")
SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")


def make_model(folder: Path, **config: int) -> Path:
    """Save the model and its tokenizer; good words are alike in it, and bad words their opposite.

    `config` overrides what makes it tiny.
    """
    import torch
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
    from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

    words = [*SPECIAL, *GOOD, *BAD, *FILLER]
    tokenizer = Tokenizer(models.WordLevel({word: number for number, word in enumerate(words)}, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="[PAD]",
        unk_token="[UNK]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        model_input_names=["input_ids", "token_type_ids", "attention_mask"],
    )
    torch.manual_seed(seed(5))
    tiny = {
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "intermediate_size": 64,
        "max_position_embeddings": 32,
    }
    model = BertModel(BertConfig(vocab_size=len(words), initializer_range=0.1, **{**tiny, **config}))
    with torch.no_grad():
        # What pretraining would have taught it.
        direction = torch.randn(model.config.hidden_size)
        for word in (*GOOD, *BAD):
            model.embeddings.word_embeddings.weight[words.index(word)] += direction if word in GOOD else -direction
    model.save_pretrained(folder)
    fast.save_pretrained(folder)
    return folder


def sentences(count: int) -> list[dict[str, Any]]:
    """Rows with a label that one of their words tells."""
    return [
        {
            "text": f"the film was {FILLER[n % 6]} {(GOOD if n % 2 else BAD)[n % 4]} {FILLER[n // 3 % 6]}",
            "label": "good" if n % 2 else "bad",
        }
        for n in range(count)
    ]


def uneven_sentences(count: int) -> list[dict[str, Any]]:
    """Sentences of one to ten repetitions."""
    return [
        {"text": " ".join([row["text"]] * (1 + place * 7 % 10)), "label": row["label"]}
        for place, row in enumerate(sentences(count))
    ]


def pairs(count: int) -> list[dict[str, Any]]:
    """An anchor of one of seven words, a positive of the word that belongs to it, and a negative of another's."""
    words = (*GOOD, *BAD, *FILLER)
    return [
        {"anchor": words[n % 7], "positive": f"{words[n % 7 + 7]} a", "negative": f"{words[(n + 3) % 7 + 7]} a"}
        for n in range(count)
    ]


def spec(**parts: Any) -> dict[str, Any]:
    """A job on the tiny model, as POST /v1/jobs takes it; parts are merged in by name."""
    body: dict[str, Any] = {
        "task": {"type": "text-classification"},
        "model": "local:tiny",
        "data": {"train": {"rows": sentences(48)}, "eval": {"rows": sentences(12)}},
        "training": {"epochs": 3, "batch_size": 8, "learning_rate": 0.01, "logging_steps": 1},
        "evaluation": {"at_start": True},
    }
    for name, part in parts.items():
        known = body.get(name, {})
        body[name] = {**known, **part} if isinstance(part, dict) and isinstance(known, dict) else part
    return body
