"""Models and rows for a machine without a network: BERT-base and a decoder of 135 M with random weights, and texts of real lengths.

The time of a step depends on sizes and lengths, not on what the weights are, so nothing needs to be downloaded.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import BertConfig, BertModel, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]")
WORDS = tuple(f"word{number}" for number in range(2000))
LABELS = ("first", "second")
TEMPLATE = (
    "{% for m in messages %}{{ '[CLS] ' + m.content + ' [SEP] ' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '[CLS] ' }}{% endif %}"
)
SMALL = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 128}
BERT_BASE = {"hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12, "intermediate_size": 3072}
SMOL = {"hidden_size": 576, "num_hidden_layers": 30, "num_attention_heads": 9, "intermediate_size": 1536}


def write_models(folder: Path, *, small: bool) -> None:
    """Save `encoder` and `decoder` with their tokenizers in a folder."""
    encoder = BertModel(BertConfig(vocab_size=30522, **(SMALL if small else BERT_BASE)))
    heads: dict[str, Any] = SMALL if small else {**SMOL, "num_key_value_heads": 3}
    decoder = LlamaForCausalLM(LlamaConfig(vocab_size=49152, tie_word_embeddings=True, pad_token_id=0, **heads))
    for name, model in (("encoder", encoder), ("decoder", decoder)):
        model.save_pretrained(folder / name)
        _tokenizer(is_chat=name == "decoder").save_pretrained(folder / name)


def write_rows(folder: Path, train: int, evaluation: int) -> dict[str, dict[str, Path]]:
    """Write texts as CSV and chats as JSON lines: kind of model to split to file. A text has 12 to 600 words, 90 on average."""
    draw = np.random.default_rng(7)
    files: dict[str, dict[str, Path]] = {"encoder": {}, "decoder": {}}
    for split, count in (("train", train), ("eval", evaluation)):
        texts = [_text(draw) for _ in range(count)]
        labels = [LABELS[number % len(LABELS)] for number in range(count)]
        table = folder / f"{split}.csv"
        table.write_text(
            "text,label\n" + "".join(f"{text},{label}\n" for text, label in zip(texts, labels, strict=True))
        )
        chats = folder / f"{split}.jsonl"
        chats.write_text("".join(json.dumps({"messages": _chat(text)}) + "\n" for text in texts))
        files["encoder"][split], files["decoder"][split] = table, chats
    return files


def _text(draw: np.random.Generator) -> str:
    length = int(np.clip(draw.lognormal(4.3, 0.85), 12, 600))
    return " ".join(WORDS[number] for number in draw.integers(len(WORDS), size=length))


def _chat(text: str) -> list[dict[str, str]]:
    words = text.split()
    middle = len(words) // 3
    return [
        {"role": "user", "content": " ".join(words[:middle])},
        {"role": "assistant", "content": " ".join(words[middle:])},
    ]


def _tokenizer(*, is_chat: bool) -> PreTrainedTokenizerFast:
    vocabulary = {word: number for number, word in enumerate((*SPECIAL, *WORDS))}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token=SPECIAL[1]))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    if not is_chat:
        tokenizer.post_processor = processors.TemplateProcessing(
            single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
        )
    names = dict(zip(("pad_token", "unk_token", "cls_token", "sep_token"), SPECIAL, strict=True))
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, **names)
    if is_chat:
        fast.eos_token, fast.chat_template = SPECIAL[3], TEMPLATE
    return fast
