"""Which file a model's code wanted, as `check` says it: by the errors that Python and the libraries end with."""

from __future__ import annotations

from dataclasses import replace

import pytest

from modelcache.check.missing_files import missing_files
from modelcache.check.probes import Observation
from modelcache.check.verdict import judge
from modelcache.core.types import LockedModel, RemoteCode
from tests.support.published_model import pinned

CONTENT = {"config.json": b"{}", "model.safetensors": b"", "own_module.py": b""}
MODEL = replace(pinned(CONTENT), remote_code=RemoteCode.VENDORED)
HOME = "/models/cached_embedding_models/tinyorg__embedding"
COPIED = "/tmp/x/cache-models-code-1/transformers_modules/tinyorg__embedding/f800452e660a93fe"
HUB = "http://127.0.0.1:9/tinyorg/embedding/resolve"


def told(error: str, *attempts: str, model: LockedModel = MODEL) -> str:
    return " | ".join(missing_files(model, Observation(error=error, attempts=attempts)))


@pytest.mark.parametrize(
    ("error", "says"),
    [
        (
            f"FileNotFoundError: [Errno 2] No such file or directory: '{HOME}/tasks/a b.json' (m.py:3)",
            "its code wants tasks/a b.json, which is not shipped: run `cache-models lock --upgrade tinyorg/embedding`",
        ),
        (
            f"FileNotFoundError: No such file or directory: {HOME}/tasks/retrieval.safetensors (torch.py:359)",
            "its code wants tasks/retrieval.safetensors, which is not shipped",
        ),
        (
            f"OSError: {HOME} does not appear to have a file named tasks/x.json. Checkout 'https://huggingface.co/"
            f"{HOME}/tree/None' for available files. (hub.py:452)",
            "its code wants tasks/x.json, which is not shipped",
        ),
        (
            f"FileNotFoundError: [Errno 2] No such file or directory: '{COPIED}/scale.json' (tiny_layers.py:2)",
            "its code opens scale.json beside itself, where transformers copies only code",
        ),
        (
            "ModuleNotFoundError: No module named 'transformers_modules.tinyorg__embedding.f800452e660a93fe.tiny_scale'"
            " (__init__.py:126)",
            "its code imports tiny_scale from beside itself in a way that shows only when it runs",
        ),
        ("ModuleNotFoundError: No module named 'own_module' (misc.py:10)", "own_module.py is there"),
        # These are other faults.
        ("ModuleNotFoundError: No module named 'einops' (m.py:1)", ""),
        (f"PermissionError: [Errno 13] Permission denied: '{HOME}/tasks/x.json' (m.py:3)", ""),
        (f"OSError: [Errno 30] Read-only file system: '{HOME}/tasks/x.json' (m.py:3)", ""),
        (f"FileNotFoundError: [Errno 2] No such file or directory: '{HOME}/config.json' (m.py:3)", ""),
        ("FileNotFoundError: [Errno 2] No such file or directory: '/usr/share/dict/words' (m.py:3)", ""),
        (f"ValueError: {HOME}/tasks/x.json is wrong (m.py:3)", ""),
    ],
)
def test_the_file_that_code_wants_is_named(error: str, says: str) -> None:
    """Only where a file is not there; and only of a model that has code."""
    found = told(error)
    assert found.startswith(says)
    assert bool(found) is bool(says)
    assert told(error, model=pinned(CONTENT)) == ""
    assert len(judge(MODEL, Observation(error=error), {}).faults) == 1 + bool(says)


def test_a_request_for_a_file_of_its_own_is_told() -> None:
    """Whatever error that ended in."""
    missing = told("RuntimeError: no (m.py:1)", f"{HUB}/main/tasks/a%20b.json", f"{HUB}/main/tasks/a%20b.json?x=1")
    assert "asks the Hub for files that are not shipped: tasks/a b.json; run `cache-models lock --upgrade" in missing
    assert " | " not in missing
    many = told("X", *(f"{HUB}/main/{number}.json" for number in range(99)))
    assert "shipped: 0.json, 1.json, 2.json, 3.json, 4.json and 94 more; run" in many
    assert "in the model's directory: config.json; its owner has to open them there" in told(
        "X", f"{HUB}/main/config.json"
    )
    assert told("X", "http://127.0.0.1:9/api/models/tinyorg/embedding/revision/main").startswith(
        "its code asks the Hub about its own repository"
    )
    assert told("X", "http://127.0.0.1:9/api/models/tinyorg/embedding-2/revision/main") == ""
    assert told("X", "http://127.0.0.1:9/other/model/resolve/main/x.json", "hub:443") == ""


def test_a_request_is_told_whatever_becomes_of_it() -> None:
    """The code may have gone on without the file."""
    seen = Observation(attempts=[f"{HUB}/main/tasks/x.json"], dimension=0)
    assert any("that are not shipped: tasks/x.json" in fault for fault in judge(MODEL, seen, {}).faults)


def test_a_stranger_writes_no_lines() -> None:
    assert "\x1b" not in told(f"FileNotFoundError: No such file or directory: {HOME}/tasks/\x1b[1m.json (a.py:1)")
