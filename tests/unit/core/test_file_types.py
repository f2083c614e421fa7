"""The type of a file by the ending of its name."""

from __future__ import annotations

import pytest

from modelcache.core.file_types import is_for_other_programs


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("onnx/model_O3.onnx", True),
        ("onnx/model.onnx_data", True),
        ("onnx/MODEL.ONNX", True),
        ("openvino/openvino_model.xml", True),
        ("openvino/openvino_model_qint8_quantized.xml", True),
        ("openvino/openvino_model.bin", True),
        ("colbert_linear.pt", True),
        ("model.gguf", True),
        ("pytorch_model.bin", True),
        ("model.safetensors", False),
        ("2_Dense/model.safetensors", False),
        ("config.json", False),
        ("vocab.txt", False),
        ("sentencepiece.bpe.model", False),
        ("README.md", False),
        ("openvino/config.json", False),
        ("openvino/notes.xml", False),
        ("vocabulary.xml", False),
        ("onnx", False),
        (".onnx", False),
        ("model.onnx/config.json", False),
        ("modeling.py", False),
    ],
)
def test_weights_of_another_format_are_for_other_programs(path: str, expected: bool) -> None:
    """Whatever else a pattern names, such as a tokenizer, a loader may open."""
    assert is_for_other_programs(path) is expected
