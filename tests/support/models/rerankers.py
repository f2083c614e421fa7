"""Cross-encoders in the two layouts that are found on the Hub."""

from __future__ import annotations

import tempfile
from pathlib import Path

from tests.support.models.bert import as_checked_out, bert, save_bert
from tests.support.tiny import write_paper

TASK = "text-ranking"


def plain_reranker(folder: Path) -> Path:
    """A BertForSequenceClassification as transformers saves it, without modules.json."""
    save_bert(folder, bert("BertForSequenceClassification"))
    write_paper(folder, "plain-reranker", TASK)
    return folder


def saved_reranker(folder: Path) -> Path:
    """The same model written by CrossEncoder of sentence-transformers 6, with modules.json."""
    from sentence_transformers import CrossEncoder

    with tempfile.TemporaryDirectory() as spare:
        model = CrossEncoder(str(plain_reranker(Path(spare))), device="cpu", local_files_only=True)
        model.save_pretrained(str(folder), create_model_card=False)
    as_checked_out(folder)
    write_paper(folder, "saved-reranker", TASK)
    return folder
