"""What tests share: a stand-in Hub, a directory to work in, and two ways to run the tool.

No test reaches anything but loopback, and none sees the user's home: the environment is made here.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

_HOME = tempfile.mkdtemp(prefix="cache-models-tests-")
for _name in list(os.environ):
    ours = ("HF_", "CACHE_MODELS_", "TRANSFORMERS_", "SSL_CERT_", "REQUESTS_CA_", "CURL_CA_")
    if _name.startswith(ours) or _name.lower().endswith("_proxy"):
        del os.environ[_name]
os.environ |= {"HOME": _HOME, "HF_HOME": f"{_HOME}/hf", "NO_PROXY": "*"}
# Where a test sends a signal, the tool must not ignore it because the tests run under nohup, or behind a shell's `&`.
signal.signal(signal.SIGINT, signal.default_int_handler)
signal.signal(signal.SIGHUP, signal.SIG_DFL)
# huggingface_hub reads its settings when it is imported, so nothing that imports it may stand above.

import pytest  # noqa: E402

from cache_models import main  # noqa: E402
from modelcache.core import redact  # noqa: E402
from modelcache.core.kinds import Kind  # noqa: E402
from modelcache.transfer.retry import RetryPolicy  # noqa: E402
from tests.support import tiny  # noqa: E402
from tests.support.hub import StandInHub  # noqa: E402
from tests.support.policy_defaults import REAL as REAL_PAUSES  # noqa: E402
from tests.support.policy_defaults import shorten_pauses  # noqa: E402
from tests.support.registry import StandInRegistry  # noqa: E402

PROJECT = Path(__file__).parents[1]
EMBEDDING = "tinyorg/embedding"
# Seconds; no measure of speed on a shared machine, only that nothing waits out a pause or a silence of minutes.
SOON = 15.0
RERANKER = "tinyorg/reranker"
# Files whose tests share something that takes minutes to make, so one worker runs them all. The mark `xdist_group` says
# the same to pytest-xdist 3.8, but it writes the group into `item._nodeid`, which pytest 9.2 no longer reads.
TOGETHER = {
    "tests/commands/test_by_id.py",
    "tests/commands/test_check.py",
    "tests/commands/test_check_shapes.py",
    "tests/commands/test_check_upgrade.py",
    "tests/commands/test_hostile_models.py",
    "tests/commands/test_index_id.py",
    "tests/commands/test_multi_vector.py",
    "tests/commands/test_package.py",
    "tests/commands/test_sparse.py",
    "tests/unit/scripts/test_serve.py",
}

shorten_pauses()


def pytest_xdist_auto_num_workers() -> int:
    """Start half as many workers more as there are processors: a third of its time, a test waits."""
    processors = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return processors + (processors + 1) // 2


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Begin with what is slow where workers share the tests, so that the last of them end together."""
    if hasattr(config, "workerinput"):
        items.sort(key=lambda item: item.get_closest_marker("slow") is None)


def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Give a file of `TOGETHER` to one worker, and any other test to whichever worker is free."""
    from xdist.scheduler import LoadScopeScheduling

    def unit(nodeid: str) -> str:
        file = nodeid.partition("::")[0]
        return file if file in TOGETHER else nodeid

    assert all((PROJECT / file).is_file() for file in TOGETHER)
    scheduling = LoadScopeScheduling(config, log)
    scheduling._split_scope = unit
    return scheduling


@dataclass(frozen=True)
class Ran:
    """How a run of the tool ended."""

    exit_code: int
    out: str
    err: str


class Tool:
    """The tool, run in `folder` as a user would."""

    def __init__(self, folder: Path, capture: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
        self.folder = folder
        self._capture = capture
        monkeypatch.chdir(folder)

    def __call__(self, *words: str) -> Ran:
        """Run it in this process; a retry that is not asked for would only make tests slow."""
        self._capture.readouterr()
        asks_no_hub = not {"verify", "check", "status", "path", "prune", "export", "report", "completion"}.isdisjoint(
            words
        )
        extra = [] if asks_no_hub or any(word.startswith("--retries") for word in words) else ["--retries=1"]
        code = main([*words, *extra])
        said = self._capture.readouterr()
        return Ran(code, said.out, said.err)

    def process(self, *words: str, env: Mapping[str, str] | None = None) -> subprocess.Popen[str]:
        """Start it as a process of its own."""
        return subprocess.Popen(
            [sys.executable, str(PROJECT / "cache_models.py"), *words],
            cwd=self.folder,
            env={**os.environ, **(env or {})},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def run(self, *words: str, env: Mapping[str, str] | None = None) -> Ran:
        """Run it as a process of its own, to its end."""
        process = self.process(*words, env=env)
        out, err = process.communicate(timeout=120)
        return Ran(process.returncode, out, err)

    def want(self, *embeddings: str, rerankers: tuple[str, ...] = (), extra: str = "") -> None:
        """Write models.toml."""
        tables = [f'[[embedding]]\nid = "{model}"\n' for model in embeddings]
        tables += [f'[[reranker]]\nid = "{model}"\n' for model in rerankers]
        (self.folder / "models.toml").write_text("\n".join(tables) + extra)

    def use_root(self) -> None:
        """Make the folder a root in use: there `lock` keeps for `sync` what it fetched."""
        for kind in Kind:
            (self.folder / f"cached_{kind}_models").mkdir()

    def home(self, model_id: str, kind: str = "embedding") -> Path:
        """Where a model is published."""
        return self.folder / f"cached_{kind}_models" / model_id.replace("/", "__")


@pytest.fixture(autouse=True)
def fast_without_torch(request: pytest.FixtureRequest) -> Iterator[None]:
    """Fail a test that imports torch without the mark `slow`: `scripts/test fast` has no time for it."""
    before = "torch" in sys.modules
    yield
    assert before or "torch" not in sys.modules or request.node.get_closest_marker("slow"), "mark it as slow"


@pytest.fixture(autouse=True)
def forget_secrets() -> Iterator[None]:
    """Mask no word in a later test because it was a password in this one."""
    before = set(redact._forms)
    yield
    redact._forms.clear()
    redact._forms.update(before)


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[StandInHub]:
    """A stand-in Hub with nothing in it, as HF_ENDPOINT."""
    with StandInHub() as standin:
        monkeypatch.setenv("HF_ENDPOINT", standin.url)
        yield standin


@pytest.fixture
def registry(tmp_path: Path) -> Iterator[StandInRegistry]:
    """A stand-in registry with nothing in it, and without a login."""
    with StandInRegistry(tmp_path / "registry") as standin:
        yield standin


@pytest.fixture
def real_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    """Between tries, the pauses that users have; everywhere else they are short."""
    monkeypatch.setattr(RetryPolicy.__init__, "__defaults__", REAL_PAUSES)


@pytest.fixture
def tool(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Tool:
    """The tool in an empty directory."""
    folder = tmp_path / "work"
    folder.mkdir()
    return Tool(folder, capsys, monkeypatch)


@pytest.fixture
def pair(hub: StandInHub, tool: Tool, tmp_path: Path) -> Tool:
    """The tool, wanting one small embedding model and one small reranker that the Hub has."""
    hub.add(EMBEDDING, files_below(tiny.tiny_embedding(tmp_path / "embedding")), licence="mit")
    hub.add(RERANKER, files_below(tiny.tiny_reranker(tmp_path / "reranker")), licence="apache-2.0")
    tool.want(EMBEDDING, rerankers=(RERANKER,))
    return tool


@pytest.fixture
def snapshot(pair: Tool, hub: StandInHub, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """The embedding model in the standard Hugging Face cache."""
    from huggingface_hub import constants, snapshot_download

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hfcache"))
    return Path(snapshot_download(EMBEDDING, cache_dir=tmp_path / "hfcache", endpoint=hub.url))


@pytest.fixture
def small_volume(tmp_path: Path) -> Iterator[Path]:
    """A file system of 64 KiB of its own."""
    volume = tmp_path / "volume"
    volume.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", volume], check=False).returncode:
        unavailable("mounting a file system is not permitted here")
    yield volume
    subprocess.run(["umount", volume], check=True)


@contextmanager
def unreadable(path: Path) -> Iterator[None]:
    """Let a file, for a while, be one whose reading is an input/output error, by mounting such a one over it."""
    if subprocess.run(["mount", "--bind", f"/proc/{os.getpid()}/mem", path], check=False).returncode:
        unavailable("mounting over a file is not permitted here")
    try:
        yield
    finally:
        subprocess.run(["umount", path], check=True)


@pytest.fixture
def pickled(tmp_path: Path) -> Path:
    """Where a test puts the weights that are to be converted."""
    return tmp_path / "pytorch_model.bin"


@pytest.fixture
def converted(tmp_path: Path) -> Path:
    """Where they are converted to."""
    return tmp_path / "model.safetensors"


def unavailable(reason: str) -> NoReturn:
    """Skip a test that this machine cannot run; where CI is, that is a failure."""
    if os.environ.get("CI") == "true":
        pytest.fail(reason)
    pytest.skip(reason)


def files_below(folder: Path) -> dict[str, bytes]:
    """Every file of a directory, by its POSIX path."""
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
