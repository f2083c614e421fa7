"""Which package is missing, whatever the error says: by the type of an error, and names of our own table."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable
from contextlib import suppress
from importlib.metadata import packages_distributions
from typing import NoReturn

import pytest

from modelcache.check.pip_packages import PACKAGES, missing_packages, packages_asked_for, pip_install

# As the libraries say it (transformers' import_utils.py and dynamic_module_utils.py, sentence-transformers).
ERRORS: dict[str, tuple[ImportError, list[str]]] = {
    "Python": (ModuleNotFoundError("No module named 'einops'", name="einops"), ["einops"]),
    "a module of it": (ModuleNotFoundError("No module named 'PIL.Image'", name="PIL.Image"), ["Pillow"]),
    "transformers": (
        ImportError("\nSentencePieceExtractor requires the SentencePiece library but it was not found"),
        ["sentencepiece", "protobuf"],
    ),
    "transformers, two": (
        ImportError("CLIPImageProcessor requires the PIL library\nand requires the Torchvision library"),
        ["Pillow", "torchvision"],
    ),
    "transformers, of code": (
        ImportError("requires the following packages that were not found in your environment: einops, flash_attn."),
        ["einops", "flash-attn"],
    ),
    "protobuf": (ImportError("X requires the protobuf library but it was not found"), ["protobuf"]),
    "a hint": (ImportError("`tiktoken` is required. Install it with `pip install tiktoken`."), ["tiktoken"]),
    "another package": (ModuleNotFoundError("No module named 'einops_of_nobody'", name="einops_of_nobody"), []),
    "a file of that name": (ImportError("cannot read sentencepiece.bpe.model-of-mine and my-einops"), []),
}


@pytest.mark.parametrize("case", ERRORS)
def test_a_missing_package_is_known_by_its_error(case: str) -> None:
    """By the name that pip has for it; no name that is not ours."""
    error, names = ERRORS[case]
    assert packages_asked_for(error, absent=lambda _: True) == names
    assert packages_asked_for(error, absent=lambda _: False) == []


def test_the_name_for_pip_is_that_of_the_distribution() -> None:
    """As the packages say it that are installed here; `google` is shared by several."""
    for module, owners in packages_distributions().items():
        if module in PACKAGES:
            assert PACKAGES[module].casefold() in map(str.casefold, owners), module
    assert PACKAGES["google.protobuf"] in packages_distributions().get("google", ["protobuf"])


def test_a_pip_line_has_the_packages_in_their_order() -> None:
    assert pip_install(["Pillow", "einops"]) == "pip install Pillow einops"


def _swallows() -> NoReturn:
    """Do as a tokenizer does: ask for one package, then for another, and complain of something else."""
    for module in ("sentencepiece_of_tests", "tiktoken_of_tests"):
        try:
            raise ImportError(f"requires the {module.removesuffix('_of_tests')} library")
        except ImportError:
            pass
    raise ValueError("unrecognized processing class")


def _caught(job: Callable[[], object]) -> BaseException:
    with pytest.raises((ImportError, RuntimeError, ValueError)) as caught:
        job()
    return caught.value


def test_an_error_that_was_swallowed_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first one: what follows was tried in its place. Tracing ends as it began."""
    for module in ("sentencepiece", "google.protobuf", "tiktoken"):
        monkeypatch.setitem(sys.modules, module, None)  # as if it were not installed
    before = sys.gettrace()
    assert missing_packages(_caught(_swallows), _swallows) == ["sentencepiece", "protobuf"]
    assert sys.gettrace() is before


def test_an_error_behind_another_one_is_found_without_trying_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nor is memory that is not there used up a second time."""
    monkeypatch.setitem(sys.modules, "einops", None)

    def hides() -> NoReturn:
        try:
            importlib.import_module("einops")
        except ImportError as error:
            raise RuntimeError("something went wrong") from error
        raise AssertionError("it is installed")

    def never() -> None:
        raise AssertionError("it was tried again")

    assert missing_packages(_caught(hides), never) == ["einops"]
    assert missing_packages(MemoryError(), never) == []


def test_code_does_without_what_only_makes_it_faster(monkeypatch: pytest.MonkeyPatch) -> None:
    """Unless that is the error itself."""
    monkeypatch.setitem(sys.modules, "flash_attn", None)

    def fails() -> NoReturn:
        with suppress(ImportError):
            importlib.import_module("flash_attn")
        raise ValueError("something else")

    assert missing_packages(_caught(fails), fails) == []
    error = _caught(lambda: importlib.import_module("flash_attn"))
    assert missing_packages(error, fails) == ["flash-attn"]


def test_what_misses_no_package_is_told_as_it_is() -> None:
    """Neither by what is installed, nor by asking for a version, as transformers does of what it can do without."""

    def fails() -> NoReturn:
        from importlib.metadata import PackageNotFoundError

        try:
            raise PackageNotFoundError("peft")
        except PackageNotFoundError:
            pass
        raise ValueError("pytest is required")

    assert missing_packages(_caught(fails), fails) == []
