"""The part of a model that a file belongs to, by its name. Rules only."""

from __future__ import annotations

from collections.abc import Callable

from modelcache.core.changes import Part
from modelcache.core.file_types import SAFE_WEIGHTS, ending_of, is_code
from modelcache.core.types import RemoteCode
from modelcache.resolver.weights import WEIGHTS_INDEX

TEMPLATES = "additional_chat_templates"
"""The folder of more chat templates, which transformers opens beside a tokenizer."""

_LICENCES = ("license", "licence", "notice", "copying", "copyright")
_DOCUMENTS = (*_LICENCES, "readme", "authors", "citation", "changelog", "contributing")
_PAPERS = frozenset({".md", ".rst"})
_TOKENIZERS = frozenset({"tokenizer", "vocab", "merges", "special_tokens_map", "added_tokens", "chat_template"})
_TOKENIZER_ENDINGS = frozenset({".model", ".spm", ".vocab", ".bpe", ".jinja", ".tiktoken"})
# No loader of sentence-transformers opens them: settings of text generation, notes on training data.
_WITHOUT_EFFECT = frozenset({"generation_config.json", "data_config.json"})


def part_of_document(path: str) -> Part | None:
    """Return the part of a file that is text for people; None for any other file."""
    name = path.rpartition("/")[2].casefold()
    ending = ending_of(name)
    if ending in _PAPERS or (ending in ("", ".txt") and name.startswith(_DOCUMENTS)):
        return Part.LICENCE if name.startswith(_LICENCES) else Part.DOCUMENTS
    return None


def part_of(path: str, is_included: Callable[[str], bool], code: RemoteCode = RemoteCode.NONE) -> Part:
    """Return the part of a file of a model with a loader; `is_included` says that it is for other programs alone.

    Code of the model may read a text whose name does not say that it is for people: a prompt.
    """
    name = path.rpartition("/")[2].casefold()
    document = part_of_document(path)
    if document and (code is not RemoteCode.VENDORED or name.startswith(_DOCUMENTS)):
        return document
    if name in _WITHOUT_EFFECT:
        return Part.DOCUMENTS
    if is_code(path):
        return Part.CODE
    return Part.INCLUDED if is_included(path) else _part_that_is_loaded(path)


def _part_that_is_loaded(path: str) -> Part:
    name = path.rpartition("/")[2].casefold()
    stem, ending = name.partition(".")[0], ending_of(name)
    if ending == SAFE_WEIGHTS or name.endswith(WEIGHTS_INDEX):
        return Part.WEIGHTS
    if stem.removesuffix("_config") in _TOKENIZERS or ending in _TOKENIZER_ENDINGS or f"{TEMPLATES}/" in path:
        return Part.TOKENIZER
    return Part.SETTINGS if ending == ".json" else Part.FILES
