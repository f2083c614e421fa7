"""Packages that loaders need and that sentence-transformers does not require, and their names on PyPI.

A loader that lacks one may raise ImportError, or catch it, go on, and end with an error about something else: so does
a tokenizer that is a sentencepiece model alone, with "Unrecognized processing class". The type of an error says that
a package is missing; its message only says which. A package that is not in the table gets no pip line: that name may
belong to anybody on PyPI, and installing it runs their code.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterable
from importlib.metadata import PackageNotFoundError
from importlib.util import find_spec
from types import FrameType
from typing import Any

from modelcache.system.limits import chain_of

_NAMED_ALIKE = """
    accelerate av bitsandbytes blobfile compressed_tensors datasets decord einops emoji flash_attn ftfy fugashi
    ipadic jieba librosa nltk peft pythainlp qwen_vl_utils rjieba sacremoses sentencepiece soundfile sudachipy
    tiktoken timm torchaudio torchvision triton unidic unidic_lite xformers
"""
_NAMED_OTHERWISE = {
    "PIL": "Pillow",
    "bs4": "beautifulsoup4",
    "cv2": "opencv-python-headless",
    "google.protobuf": "protobuf",
}
PACKAGES = dict(sorted({**{name: name.replace("_", "-") for name in _NAMED_ALIKE.split()}, **_NAMED_OTHERWISE}.items()))
"""The name to import, and the name to install."""
_OPTIONAL = {"accelerate", "flash-attn", "triton", "xformers"}
"""Code that catches the ImportError of one of these works without it."""
_NEEDED_WITH = {"sentencepiece": "google.protobuf"}
"""Packages that are needed beside another one: transformers reads a sentencepiece model with both."""


def packages_asked_for(error: ImportError, absent: Callable[[str], bool] | None = None) -> list[str]:
    """Return, by pip's names, the packages of the table that this error is about and that are not installed here."""
    absent = absent or _is_absent
    named = error.name or ""
    asked = [
        module
        for module, pip in PACKAGES.items()
        if f"{named}.".startswith(f"{module}.") or any(_mentions(str(error), word) for word in (module, pip))
    ]
    asked = [module for module in asked if absent(module)]
    asked += [other for module in asked if (other := _NEEDED_WITH.get(module)) and absent(other)]
    return [PACKAGES[module] for module in dict.fromkeys(asked)]


def missing_packages(error: BaseException, try_again: Callable[[], object]) -> list[str]:
    """Return, by pip's names, the packages whose absence caused this error.

    Where the error does not say it, the job is tried again, to see the ImportErrors that were caught on the way. The
    first of them counts: the later ones are of fallbacks.
    """
    for one in chain_of(error):
        if isinstance(one, ImportError) and (found := packages_asked_for(one)):
            return found
    if isinstance(error, MemoryError) or not isinstance(error, Exception):
        return []
    caught = (packages_asked_for(one) for one in _import_errors_in(try_again))
    return next((found for found in caught if set(found) - _OPTIONAL), [])


def _import_errors_in(job: Callable[[], object]) -> list[ImportError]:
    """Return the ImportErrors that a job raises, also those that it catches."""
    found: list[ImportError] = []

    def trace(frame: FrameType, event: str, argument: Any) -> Any:  # noqa: ANN401
        frame.f_trace_lines = False
        raised = argument[1] if event == "exception" else None
        # transformers asks for the versions of packages that it can do without.
        if isinstance(raised, ImportError) and not isinstance(raised, PackageNotFoundError):
            found.append(ImportError(str(raised), name=raised.name))  # without its frames
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        job()
    except Exception:  # noqa: BLE001, S110  # the caller has had this error before
        pass
    finally:
        sys.settrace(before)
    return found


def _mentions(text: str, word: str) -> bool:
    return re.search(rf"(?<![\w.-]){re.escape(word)}(?!\.?\w|-)", text, re.IGNORECASE) is not None


def _is_absent(module: str) -> bool:
    try:
        return find_spec(module) is None
    except (ImportError, ValueError):  # its parent package is absent, too
        return True


def pip_install(packages: Iterable[str]) -> str:
    """Return the command that installs packages of the table."""
    return f"pip install {' '.join(packages)}"
