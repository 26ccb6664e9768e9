"""Models of a few thousand weights and rows for them, one pair for each kind of job; each learns its toy task in seconds."""

from pathlib import Path
from typing import Any

from seeds import seed

PEOPLE, PLACES = ("ada", "grace", "linus"), ("rome", "oslo", "lima")
SMALL_WORDS = ("we", "met", "in", "and", "then", "left", "with", "saw")


def make_tagger(folder: Path, **config: int) -> Path:
    """Save a BERT that knows names of people and places, each of two pieces where it ends in "land" or "son"."""
    import torch
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
    from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", *PEOPLE, *PLACES, *SMALL_WORDS, "##land", "##son", ".", ","]
    vocabulary = {word: number for number, word in enumerate(words)}
    tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="[PAD]", unk_token="[UNK]", cls_token="[CLS]", sep_token="[SEP]"
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
    model.save_pretrained(folder)
    fast.save_pretrained(folder)
    return folder


def tagged_sentences(count: int) -> list[dict[str, Any]]:
    """Rows with one person and one place, both of two words in every third row."""
    rows: list[dict[str, Any]] = []
    for n in range(count):
        person, place, small = PEOPLE[n % 3], PLACES[n // 3 % 3], SMALL_WORDS[n % 8]
        if n % 3 == 2:
            tokens = ["we", "met", person, f"{person}son", "in", f"{place}land", place, "."]
            tags = ["O", "O", "B-PER", "I-PER", "O", "B-LOC", "I-LOC", "O"]
        else:
            tokens = [small, f"{person}son", "left", place, "and", small]
            tags = ["O", "B-PER", "O", "B-LOC", "O", "O"]
        rows.append({"tokens": tokens, "tags": tags})
    return rows


def make_reader(folder: Path, **config: float) -> Path:
    """Save a BERT whose words are those of `questions`; its two segments are question and context.

    The words of an answer are alike in it, and like the word that asks for them. `config` overrides what makes it tiny.
    """
    import torch
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
    from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "who", "where", "?", ".", *PEOPLE, *PLACES, *SMALL_WORDS]
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
        "max_position_embeddings": 64,
        # With dropout, LoRA matrices of rank 8 do not learn this task in 150 steps.
        "hidden_dropout_prob": 0.0,
        "attention_probs_dropout_prob": 0.0,
    }
    model = BertModel(BertConfig(vocab_size=len(words), initializer_range=0.1, **{**tiny, **config}))
    with torch.no_grad():
        # What pretraining would have taught it: which words are of one kind.
        for asked, kind in (("who", PEOPLE), ("where", PLACES)):
            direction = torch.randn(model.config.hidden_size)
            for word in (asked, *kind):
                model.embeddings.word_embeddings.weight[words.index(word)] += direction
    model.save_pretrained(folder)
    fast.save_pretrained(folder)
    return folder


def questions(count: int, missing: int = 0) -> list[dict[str, Any]]:
    """Rows that ask for the person or the place of a context; every `missing`th context has none."""
    rows: list[dict[str, Any]] = []
    for n in range(count):
        person, place, small = PEOPLE[n % 3], PLACES[n // 3 % 3], SMALL_WORDS[n % 8]
        asked, answer = ("who ?", person) if n % 2 else ("where ?", place)
        is_missing = missing and n % missing == 0
        if is_missing:
            person, place = ("we", place) if n % 2 else (person, "then")
        context = f"{small} then Saw {person} and left in {place} . {small} {small} ."
        answers = (
            {"text": [], "answer_start": []}
            if is_missing
            else {"text": [answer], "answer_start": [context.index(answer)]}
        )
        rows.append({"question": asked, "context": context, "answers": answers})
    return rows
