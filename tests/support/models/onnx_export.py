"""Write the ONNX files that many repositories carry beside their weights.

A program that an interpreter with onnx and onnxscript runs, and that of the tests has neither:

    python -m tests.support.models.onnx_export FOLDER...

adds to each repository `onnx/model.onnx`, and `onnx/model_large.onnx` whose weights are in a file of their own,
`onnx/model_large.onnx_data`, as those of large models are.
"""

from __future__ import annotations

import sys
from pathlib import Path

import onnx  # type: ignore[import-not-found]  # the environment of the tests has no such package
import torch
import transformers

INPUTS = ("input_ids", "attention_mask", "token_type_ids")


class Forward(torch.nn.Module):  # type: ignore[misc]  # torch is not looked at
    """A transformers model whose inputs are in the order of ``INPUTS``, and whose first output is its only one."""

    def __init__(self, model: torch.nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, *inputs: torch.Tensor) -> torch.Tensor:
        """Give the hidden states of an embedding model, or the scores of a reranker before any activation."""
        return self.model(**dict(zip(INPUTS, inputs, strict=True)))[0]


def export(folder: Path) -> None:
    """Add the ONNX files to one repository."""
    (architecture,) = transformers.AutoConfig.from_pretrained(folder).architectures
    model = getattr(transformers, architecture).from_pretrained(folder, attn_implementation="eager")
    # One tensor passed three times would be taken for one input.
    example = tuple(torch.ones(2, 8, dtype=torch.int64) for _ in INPUTS)
    free = {0: torch.export.Dim.DYNAMIC, 1: torch.export.Dim.DYNAMIC}
    program = torch.onnx.export(
        Forward(model).eval(),
        example,
        input_names=INPUTS,
        output_names=["output"],
        dynamic_shapes=((free,) * len(INPUTS),),
        dynamo=True,
        verbose=False,
    )
    (folder / "onnx").mkdir(exist_ok=True)
    onnx.save_model(program.model_proto, folder / "onnx" / "model.onnx")
    large = folder / "onnx" / "model_large.onnx"
    onnx.save_model(program.model_proto, large, save_as_external_data=True, location="model_large.onnx_data")


if __name__ == "__main__":
    for name in sys.argv[1:]:
        export(Path(name))
