"""Build the small BERT that most of the repositories here are made of, with the libraries people use."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.support.tiny import Shape, write_tokenizer


@contextmanager
def seed(number: int) -> Iterator[None]:
    """Let torch draw the same numbers inside, and leave the caller's own generator as it was."""
    import torch

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(number)
        yield


def bert(architecture: str = "BertModel") -> Any:
    """Return the model with its seeded weights; ``architecture`` is the name of a class of transformers."""
    import transformers

    # With the usual 0.02 all texts give nearly the same vector, and a lost weight would hardly show.
    values: dict[str, Any] = {**Shape().config(architecture), "initializer_range": 0.25, "num_labels": 1}
    with seed(7):
        return getattr(transformers, architecture)(transformers.BertConfig(**values)).eval()


def save_bert(folder: Path, model: Any, shard: str = "1GB") -> None:
    """Save model and tokenizer as a plain transformers repository."""
    model.save_pretrained(folder, max_shard_size=shard)
    write_tokenizer(folder)
    as_checked_out(folder)


@contextmanager
def transformer() -> Iterator[Any]:
    """Lend the sentence-transformers module over ``bert()``, which it will only load from a directory."""
    from sentence_transformers.base.modules import Transformer

    with tempfile.TemporaryDirectory() as spare:
        save_bert(Path(spare), bert())
        yield Transformer(spare)


def as_checked_out(folder: Path) -> None:
    """Give all files the mode that git gives them; safetensors 0.8 writes its own with 0600."""
    for path in folder.rglob("*"):
        path.chmod(0o755 if path.is_dir() else 0o644)
