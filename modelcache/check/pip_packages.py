"""The pip commands for the libraries that load models, and for packages that some models need beside them.

torch is named with the index of its CPU builds, since the one on PyPI brings 5.9 GB of CUDA; so are the packages that
would pull it.

A loader that lacks one may raise ImportError, or catch it, go on, and end with an error about something else: so does
a tokenizer that is a sentencepiece model alone, with "Unrecognized processing class". The type of an error says that
a package is missing; its message only says which. A package that is not in the table gets no pip line: that name may
belong to anybody on PyPI, and installing it runs their code.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterable
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from types import FrameType
from typing import Any

from modelcache.core.errors import UsageError
from modelcache.system.limits import chain_of

_CPU_INDEX = "--index-url https://download.pytorch.org/whl/cpu"
_CPU_TORCH = f"pip install torch {_CPU_INDEX}"
_LIBRARIES = "pip install 'sentence-transformers>=6.2,<7'"
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
_OF_TORCH = {"torchaudio": "torchaudio", "torchvision": "torchvision", "timm": "torchvision"}
"""Packages of which each torch needs its own build, or that need such a one."""
_PULL_TORCH = {*_OF_TORCH, "accelerate", "bitsandbytes", "compressed-tensors", "flash-attn", "peft", "xformers"}
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


def pip_install(packages: Iterable[str], torch: str | None = None) -> str:
    """Return the command that installs packages of the table beside this version of torch, else the installed one.

    It pulls no other build of torch than the one that is there, and the CPU build where there is none.
    """
    packages, torch = list(packages), torch_version() if torch is None else torch
    alike = [] if torch or not _PULL_TORCH.intersection(packages) else ["torch"]
    if not torch or torch.endswith("+cpu"):
        alike += dict.fromkeys(_OF_TORCH[name] for name in packages if name in _OF_TORCH)
    others = [name for name in packages if name not in alike]
    commands = [f"pip install {' '.join(alike)} {_CPU_INDEX}"] if alike else []
    return " && ".join([*commands, *([f"pip install {' '.join(others)}"] if others else [])])


def missing_library(
    name: str | None, doing: str, *, torch: bool | None = None, install: str = _LIBRARIES
) -> UsageError:
    """Return the error for a library that is not installed: `doing` names what needs it, `install` is the command.

    `torch` says whether torch is installed where the library is not; it is looked for in this process otherwise.
    """
    torch = bool(torch_version()) if torch is None else torch
    commands = [] if torch else [f"`{_CPU_TORCH}` (the CPU build; for a GPU leave out --index-url)"]
    commands += [] if name == "torch" and install == _LIBRARIES else [f"`{install}`"]
    return UsageError(
        f"{doing} needs {name}, which is not installed here",
        hint=f"Run it where the models are used, or install the libraries: {', then '.join(commands)}.",
    )


def torch_version() -> str:
    """Return the version of the installed torch, with its build; empty where there is none."""
    try:
        return version("torch")
    except PackageNotFoundError:
        return ""
