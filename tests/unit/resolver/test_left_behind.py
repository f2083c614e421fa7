"""Files that an engine wants: which are noted when they are left behind, and the line that ships them."""

from __future__ import annotations

import pytest

from modelcache.resolver.left_behind import left_behind

MODEL = ("config.json", "model.safetensors")


@pytest.mark.parametrize(
    ("beside", "shipped", "lines"),
    [
        ([], [], []),
        (["pytorch_model.bin", "tf_model.h5", "model.xml"], [], []),
        (
            ["sparse_linear.pt", "colbert_linear.pt"],
            [],
            ['include = ["colbert_linear.pt", "sparse_linear.pt"] and allow_pickle = true'],
        ),
        (["sparse_linear.pt", "colbert_linear.pt"], ["sparse_linear.pt", "colbert_linear.pt"], []),
        (["sparse_linear.pt", "colbert_linear.pt"], ["sparse_linear.pt"], ['["colbert_linear.pt"] and allow']),
        (["1_Dense/colbert_linear.pt"], [], []),
        (["onnx/model_O3.onnx", "onnx/model.onnx", "onnx/model_int8.onnx"], [], ['include = ["onnx/model.onnx"]']),
        (["model.onnx", "model.onnx_data"], [], ['include = ["model.onnx", "model.onnx_data"]']),
        (["onnx/model.onnx", "onnx/model.onnx.data"], [], ['include = ["onnx/model.onnx", "onnx/model.onnx.data"]']),
        (["onnx/model.onnx", "onnx/model_O3.onnx"], ["onnx/model_O3.onnx"], []),
        (["openvino/openvino_model.xml", "model.onnx"], [], ['include = ["model.onnx"]']),
        (
            ["openvino/openvino_model.xml", "openvino/openvino_model.bin", "openvino/openvino_model_qint8.xml"],
            [],
            ['include = ["openvino/openvino_model.xml", "openvino/openvino_model.bin"]'],
        ),
    ],
)  # fmt: skip
def test_a_note_has_the_line_that_ships_them(beside: list[str], shipped: list[str], lines: list[str]) -> None:
    """One for heads and one for engines; none where any file for an engine is shipped."""
    notes = list(left_behind({*MODEL, *beside}, {*MODEL, *shipped}))
    assert len(notes) == len(lines)
    assert all(line in note and "left behind" in note for line, note in zip(lines, notes, strict=True))
