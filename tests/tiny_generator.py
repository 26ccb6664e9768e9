"""A text generator of a few thousand weights with a chat template, and conversations that it can learn in seconds."""

from pathlib import Path
from typing import Any

from seeds import seed

GREETINGS = {"hello": "good day", "bye": "so long", "thanks": "you are welcome", "help": "what is wrong"}
TEMPLATE = (
    "{% for message in messages %}<{{ message.role }}> {{ message.content }} <end> {% endfor %}"
    "{% if add_generation_prompt %}<assistant> {% endif %}"
)


def make_generator(folder: Path, **config: Any) -> Path:
    """Save a Llama with a chat template, whose words are those of `GREETINGS`. `config` overrides what makes it tiny."""
    import torch
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    special = ["<pad>", "<unk>", "<end>", "<user>", "<assistant>", "<system>"]
    words = sorted(
        {word for pair in GREETINGS.items() for text in pair for word in text.split()} | {"please", "be", "kind"}
    )
    vocabulary = {word: number for number, word in enumerate([*special, *words])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<pad>",
        unk_token="<unk>",
        eos_token="<end>",
        additional_special_tokens=special[3:],
        model_input_names=["input_ids", "attention_mask"],
    )
    fast.chat_template = TEMPLATE
    torch.manual_seed(seed(5))
    tiny = {
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 2,
        "max_position_embeddings": 64,
        "tie_word_embeddings": True,
        "eos_token_id": 2,
        "pad_token_id": 0,
        "bos_token_id": None,
    }
    model = LlamaForCausalLM(LlamaConfig(vocab_size=len(vocabulary), initializer_range=0.1, **{**tiny, **config}))
    model.save_pretrained(folder)
    fast.save_pretrained(folder)
    return folder


def conversations(count: int) -> list[dict[str, Any]]:
    """Rows with a greeting and its answer."""
    pairs = list(GREETINGS.items())
    return [
        {
            "messages": [
                {"role": "user", "content": pairs[number % len(pairs)][0]},
                {"role": "assistant", "content": pairs[number % len(pairs)][1]},
            ]
        }
        for number in range(count)
    ]


def preferences(count: int) -> list[dict[str, Any]]:
    """Rows with a greeting, its answer, and the answer to another."""
    pairs = list(GREETINGS.items())[:3]
    return [
        {
            "prompt": [{"role": "user", "content": pairs[n % 3][0]}],
            "chosen": [{"role": "assistant", "content": pairs[n % 3][1]}],
            "rejected": [{"role": "assistant", "content": pairs[(n + 1) % 3][1]}],
        }
        for n in range(count)
    ]
