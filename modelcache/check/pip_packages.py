"""Packages that loaders ask for and that sentence-transformers does not bring, and what pip calls them.

A loader that misses one may raise ImportError, or swallow it, go another way, and end with an error about something
else: a tokenizer that is a sentencepiece model alone ends so with "Unrecognized processing class". The type of an
error says that a package is missing; its words say only which. A package that is not in the table gets no pip line:
anybody may have registered that name, and installing it runs their code.
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

PACKAGES = {
    "PIL": "Pillow",
    "accelerate": "accelerate",
    "av": "av",
    "bitsandbytes": "bitsandbytes",
    "blobfile": "blobfile",
    "bs4": "beautifulsoup4",
    "compressed_tensors": "compressed-tensors",
    "cv2": "opencv-python-headless",
    "datasets": "datasets",
    "decord": "decord",
    "einops": "einops",
    "emoji": "emoji",
    "flash_attn": "flash-attn",
    "ftfy": "ftfy",
    "fugashi": "fugashi",
    "google.protobuf": "protobuf",
    "ipadic": "ipadic",
    "jieba": "jieba",
    "librosa": "librosa",
    "nltk": "nltk",
    "peft": "peft",
    "pythainlp": "pythainlp",
    "qwen_vl_utils": "qwen-vl-utils",
    "rjieba": "rjieba",
    "sacremoses": "sacremoses",
    "sentencepiece": "sentencepiece",
    "soundfile": "soundfile",
    "sudachipy": "sudachipy",
    "tiktoken": "tiktoken",
    "timm": "timm",
    "torchaudio": "torchaudio",
    "torchvision": "torchvision",
    "triton": "triton",
    "unidic": "unidic",
    "unidic_lite": "unidic-lite",
    "xformers": "xformers",
}
"""What Python imports, and the name that pip installs it by."""
_FASTER = {"accelerate", "flash-attn", "triton", "xformers"}
"""Code that swallows the absence of one of these works without it."""
_WITH = {"sentencepiece": "google.protobuf"}
"""Packages that are missed as soon as another one is there: transformers reads a sentencepiece model with both."""


def packages_asked_for(error: ImportError, absent: Callable[[str], bool] | None = None) -> list[str]:
    """Return, by pip's names, the packages of the table that this error is about and that are not installed here."""
    absent = absent or _is_absent
    named = error.name or ""
    asked = [
        module
        for module, pip in PACKAGES.items()
        if _is_in(named, module) or any(_says(str(error), word) for word in (module, pip))
    ]
    asked = [module for module in asked if absent(module)]
    asked += [_WITH[module] for module in asked if module in _WITH and absent(_WITH[module])]
    return [PACKAGES[module] for module in dict.fromkeys(asked)]


def missing_packages(error: BaseException, try_again: Callable[[], object]) -> list[str]:
    """Return, by pip's names, the packages without which something ended with this error.

    Where the error does not say it, it is tried again, to see the errors that were swallowed on the way; of these the
    first counts, since what follows are other ways that were tried in its place.
    """
    for one in chain_of(error):
        if isinstance(one, ImportError) and (found := packages_asked_for(one)):
            return found
    if isinstance(error, MemoryError) or not isinstance(error, Exception):
        return []
    swallowed = (packages_asked_for(one) for one in _import_errors_in(try_again))
    return next((found for found in swallowed if set(found) - _FASTER), [])


def _import_errors_in(job: Callable[[], object]) -> list[ImportError]:
    """Return the ImportErrors that are raised while a job is done, also those that are caught."""
    found: list[ImportError] = []

    def trace(frame: FrameType, event: str, argument: Any) -> Any:  # noqa: ANN401
        frame.f_trace_lines = False
        # transformers asks for the versions of packages that it can do without.
        if event == "exception" and isinstance(raised := argument[1], ImportError):
            versions = isinstance(raised, PackageNotFoundError)
            found.extend([] if versions else [ImportError(str(raised), name=raised.name)])  # without its frames
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


def _is_in(name: str, module: str) -> bool:
    return name == module or name.startswith(f"{module}.")


def _says(text: str, word: str) -> bool:
    return re.search(rf"(?<![\w.-]){re.escape(word)}(?!\.?\w|-)", text, re.IGNORECASE) is not None


def _is_absent(module: str) -> bool:
    try:
        return find_spec(module) is None
    except (ImportError, ValueError):  # its parent package is absent, too
        return True


def installing(packages: Iterable[str]) -> str:
    """Return the command that installs packages of the table."""
    return f"pip install {' '.join(packages)}"
