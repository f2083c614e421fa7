"""The part of a model that a file belongs to, by its name."""

from __future__ import annotations

import pytest

from modelcache.core.changes import Part
from modelcache.core.types import RemoteCode
from modelcache.resolver.parts import part_of, part_of_document

LOADED = {
    Part.WEIGHTS: """
        model.safetensors model-00001-of-00002.safetensors model.safetensors.index.json 2_Dense/model.safetensors
    """,
    Part.TOKENIZER: """
        tokenizer.json tokenizer_config.json vocab.txt vocab.json merges.txt special_tokens_map.json added_tokens.json
        sentencepiece.bpe.model spiece.model tokenizer.model chat_template.jinja chat_template.json qwen.tiktoken
        additional_chat_templates/rag.jinja query_0_SparseStaticEmbedding/tokenizer.json Vocab.TXT
    """,
    Part.SETTINGS: """
        config.json modules.json sentence_bert_config.json 1_Pooling/config.json config_sentence_transformers.json
        preprocessor_config.json router_config.json idf.json
    """,
    Part.CODE: "modeling_x.py lib/fast.so __init__.py custom_st.PY",
    Part.DOCUMENTS: """
        README.md readme.txt README docs/usage.rst CHANGELOG AUTHORS.txt CITATION generation_config.json
        data_config.json
    """,
    Part.LICENCE: "LICENSE LICENSE.txt licence.md NOTICE COPYING third/LICENSE-APACHE.md copyright.txt",
    Part.FILES: "words.txt bag_of_words.bin onnx/model.onnx table.parquet noending",
}


@pytest.mark.parametrize(("part", "path"), [(part, path) for part, paths in LOADED.items() for path in paths.split()])
def test_the_part_of_a_file_that_is_loaded(part: Part, path: str) -> None:
    """By its name alone; a file of an unknown name may be read."""
    assert part_of(path, lambda path: False) is part


@pytest.mark.parametrize(("part", "path"), [(part, path) for part, paths in LOADED.items() for path in paths.split()])
def test_what_is_included_is_for_other_programs_unless_it_is_text_or_code(part: Part, path: str) -> None:
    """Code is never harmless, and a licence is one wherever it lies."""
    stays = part in (Part.CODE, Part.DOCUMENTS, Part.LICENCE)
    assert part_of(path, lambda path: True) is (part if stays else Part.INCLUDED)
    is_text = path not in ("generation_config.json", "data_config.json")
    assert part_of_document(path) is (part if stays and part is not Part.CODE and is_text else None)


@pytest.mark.parametrize(("path", "part"), [("prompt.md", Part.FILES), ("tasks/law.rst", Part.FILES),
    ("README.md", Part.DOCUMENTS), ("LICENSE.md", Part.LICENCE)])  # fmt: skip
def test_code_may_read_a_text_that_is_not_named_for_people(path: str, part: Part) -> None:
    """A prompt in Markdown moves vectors."""
    assert part_of(path, lambda path: False, RemoteCode.VENDORED) is part
