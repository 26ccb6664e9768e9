"""Models of a few thousand weights that write texts or guess words, and rows that they can learn in seconds."""

from pathlib import Path
from typing import Any

from seeds import seed

NUMBERS = {"one": "uno", "two": "dos", "three": "tres", "four": "cuatro", "five": "cinco", "six": "seis"}


def make_translator(folder: Path, kind: str = "t5", **config: Any) -> Path:
    """Save a T5 or a BART (`kind`) that knows the words of `NUMBERS`. `config` overrides what makes it tiny."""
    import torch
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import (
        BartConfig,
        BartForConditionalGeneration,
        PreTrainedTokenizerFast,
        T5Config,
        T5ForConditionalGeneration,
    )

    words = ["<pad>", "</s>", "<unk>", "<s>", "translate:", *NUMBERS, *NUMBERS.values()]
    vocabulary = {word: number for number, word in enumerate(words)}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<pad>",
        unk_token="<unk>",
        eos_token="</s>",
        bos_token="<s>",
        model_input_names=["input_ids", "attention_mask"],
    )
    common = {"vocab_size": len(words), "d_model": 32, "pad_token_id": 0, "eos_token_id": 1}
    torch.manual_seed(seed(5))
    if kind == "t5":
        tiny = {
            "d_kv": 16,
            "d_ff": 64,
            "num_layers": 2,
            "num_heads": 2,
            "dropout_rate": 0.05,
            "decoder_start_token_id": 0,
        }
        model = T5ForConditionalGeneration(T5Config(**{**common, **tiny, **config}))
    else:
        sizes = {
            f"{side}_{part}": size
            for side in ("encoder", "decoder")
            for part, size in (("layers", 2), ("attention_heads", 2), ("ffn_dim", 64))
        }
        more = {"max_position_embeddings": 32, "bos_token_id": 3, "decoder_start_token_id": 1, "init_std": 0.1}
        quiet = {"forced_eos_token_id": None}
        model = BartForConditionalGeneration(BartConfig(**{**common, **sizes, **more, **quiet, **config}))
    model.save_pretrained(folder)
    fast.save_pretrained(folder)
    return folder


def translations(count: int) -> list[dict[str, Any]]:
    """Rows of one or two numbers and their Spanish."""
    words = list(NUMBERS)
    picked = [[words[n % 6], words[n // 6 % 6]][: 1 + n % 2] for n in range(count)]
    return [{"source": " ".join(own), "target": " ".join(NUMBERS[word] for word in own)} for own in picked]


WEEK = ("monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday")


def make_guesser(folder: Path, *, with_head: bool = True, **config: Any) -> Path:
    """Save a BERT that knows the days of `WEEK`, with or without its head. `config` overrides what makes it tiny."""
    import torch
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import BertConfig, BertForMaskedLM, BertModel, PreTrainedTokenizerFast

    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "then", "comes", *WEEK]
    tokenizer = Tokenizer(models.WordLevel({word: number for number, word in enumerate(words)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="[PAD]",
        unk_token="[UNK]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        mask_token="[MASK]",
        model_input_names=["input_ids", "token_type_ids", "attention_mask"],
    )
    tiny = {
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "intermediate_size": 64,
        "max_position_embeddings": 32,
    }
    torch.manual_seed(seed(5))
    kind = BertForMaskedLM if with_head else BertModel
    model: Any = kind(BertConfig(vocab_size=len(words), initializer_range=0.1, **{**tiny, **config}))
    model.save_pretrained(folder)
    fast.save_pretrained(folder)
    return folder


def weeks(count: int) -> list[dict[str, Any]]:
    """Rows of days in their order, beginning anywhere."""
    return [{"text": " then comes ".join(WEEK[(n + step) % 7] for step in range(3 + n % 3))} for n in range(count)]
