"""Two versions of one embedding model in which every file differs that numbers depend on."""

from __future__ import annotations

import json
from pathlib import Path

from tests.support.models.bert import bert, seed
from tests.support.models.embeddings import plain_embedding


def one_version(folder: Path) -> Path:
    """Return the plain model: mean pooling."""
    return plain_embedding(folder)


def other_version(folder: Path) -> Path:
    """Return it with other weights, another vocabulary, and the vector of the first token."""
    plain_embedding(folder)
    import torch

    model = bert()
    with seed(11), torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.2)
    model.save_pretrained(folder)
    (folder / "model.safetensors").chmod(0o644)
    config = json.loads((folder / "1_Pooling" / "config.json").read_text())
    config |= {"pooling_mode_mean_tokens": False, "pooling_mode_cls_token": True}
    (folder / "1_Pooling" / "config.json").write_text(json.dumps(config))
    tokenizer = json.loads((folder / "tokenizer.json").read_text())
    words = [word for word in tokenizer["model"]["vocab"] if not word.startswith("[")]
    numbers = [tokenizer["model"]["vocab"][word] for word in words]
    tokenizer["model"]["vocab"] |= dict(zip(words, reversed(numbers), strict=True))
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer))
    return folder
