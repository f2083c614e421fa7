"""Which torch the image `serve` gets: the CPU build unless another one is named, and no pin moves for it.

The index of PyTorch is a stand-in with small wheels: who brings what is seen without a GPU and CUDA's gigabytes.
"""

from __future__ import annotations

import hashlib
import re
import threading
import zipfile
from base64 import urlsafe_b64encode
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import quote

import msgspec
import pytest

from tests.conftest import PROJECT
from tests.containers.engine import Docker, Ran, make_context

pytestmark = pytest.mark.slow

CPU, CUDA = "2.13.0+cpu", "2.13.0+cu130"
NEEDED = ("filelock", "typing-extensions>=4.10")
CUDA_NEEDS = ("nvidia-cublas==13.1.0.3; platform_system == 'Linux'", "triton==3.7.0; platform_system == 'Linux'")
TORCH = dict.fromkeys(
    (
        "torch/__init__.py", "torch/bin/ptxas", "torch/bin/torch_shm_manager", "torch/include/torch.h",
        "torch/lib/libc10.a", "torch/test/test_torch.py",
        # What scripts/slim imports.
        "huggingface_hub.py", "msgspec.py", "sentence_transformers/__init__.py",
        "sentence_transformers/sentence_transformer/modules.py", "starlette/applications.py", "tqdm.py", "urllib3.py",
        "uvicorn/main.py",
    ),
    b"",
)  # fmt: skip
LIBRARY = "torch/lib/libtorch.so"
LOCKED = ("filelock", "typing-extensions")
SHOWN = "\nFROM scratch AS shown\nCOPY --from=serve-packages /opt/venv/lib /\n"


def make_wheel(folder: Path, name: str, version: str, files: Mapping[str, bytes], needs: Sequence[str] = ()) -> Path:
    """Write a wheel; return its path."""
    info = f"{name}-{version}.dist-info"
    requires = "".join(f"Requires-Dist: {one}\n" for one in needs)
    contents = {
        **files,
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n{requires}".encode(),
        f"{info}/WHEEL": b"Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    record = ""
    for path, content in contents.items():
        digest = urlsafe_b64encode(hashlib.sha256(content).digest()).rstrip(b"=").decode()
        record += f"{path},sha256={digest},{len(content)}\n"
    wheel = folder / f"{name}-{version}-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        for path, content in {**contents, f"{info}/RECORD": f"{record}{info}/RECORD,,\n".encode()}.items():
            archive.writestr(path, content)
    return wheel


class Index:
    """An index as PEP 503 describes it."""

    def __init__(self, folder: Path, host: str) -> None:
        self.folder = folder
        self.host = host
        self._server = ThreadingHTTPServer((host, 0), partial(_Quiet, directory=str(folder)))
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        self.url = f"http://{host}:{self._server.server_port}"

    def offer(self, name: str, version: str, files: Mapping[str, bytes], needs: Sequence[str] = ()) -> None:
        """Put a wheel on its project's page."""
        project = self.folder / name.replace("_", "-")
        project.mkdir(exist_ok=True)
        make_wheel(project, name, version, files, needs)
        links = [f'<a href="{quote(wheel.name)}">{wheel.name}</a>' for wheel in project.glob("*.whl")]
        (project / "index.html").write_text("".join(links))

    def close(self) -> None:
        """Stop."""
        self._server.shutdown()
        self._server.server_close()


class _Quiet(SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: object) -> None:  # noqa: A002  # the name that the base class has
        pass


@pytest.fixture(scope="module")
def index(bridge: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Index]:
    """Torch as a CPU build, as a CUDA build, and as on PyPI; what CUDA needs, and newer versions of what is locked."""
    index = Index(tmp_path_factory.mktemp("index"), bridge)
    library = Path(msgspec._core.__file__).read_bytes()
    cuda = {**TORCH, LIBRARY: b"no library, so that whoever strips it fails"}
    index.offer("torch", CPU, {**TORCH, LIBRARY: library}, NEEDED)
    index.offer("torch", CUDA, cuda, (*NEEDED, *CUDA_NEEDS))
    index.offer("torch", "2.13.0", cuda, (*NEEDED, *CUDA_NEEDS))
    index.offer("torch", "2.14.0+cu130", cuda, ("filelock>=99", *CUDA_NEEDS))
    index.offer("nvidia_cublas", "13.1.0.3", {"nvidia/cu13/include/cublas.h": b"", "nvidia/cu13/lib/libcublas.a": b""})
    index.offer("triton", "3.7.0", {"triton/__init__.py": b"", "triton/backends/nvidia/include/cuda.h": b""})
    index.offer("filelock", "99.0", {"filelock.py": b""})
    yield index
    index.close()


class Packages:
    """The stage `serve-packages`, built from a short lock."""

    def __init__(self, docker: Docker, index: Index, folder: Path) -> None:
        self._docker = docker
        self._index = index
        self._folder = folder
        self._context = make_context(folder / "context", [])
        dockerfile = self._context / "Dockerfile"
        before, argument, after = dockerfile.read_text().partition("ARG TORCH_INDEX_URL=")
        # pip takes nothing over plain http from other hosts than those that it is told.
        dockerfile.write_text(f"{before}ENV PIP_TRUSTED_HOST={index.host}\n{argument}{after}{SHOWN}")
        lock = (self._context / "requirements-serve.lock").read_text()
        pins = re.findall(rf"^(?:{'|'.join(LOCKED)})==.*\n(?: .*\n)*", lock, re.MULTILINE)
        (self._context / "requirements-serve.lock").write_text("".join(pins))
        self.pinned = {pin.split()[0].replace("==", "-").replace("typing-e", "typing_e") for pin in pins}
        self.installed: set[str] = set()

    def build(self, **arguments: str) -> Ran:
        """Build with these arguments; note what is installed."""
        arguments = {"TORCH_INDEX_URL": self._index.url, **arguments}
        target = self._folder / "shown"
        words = [word for name, value in arguments.items() for word in ("--build-arg", f"{name}={value}")]
        words += ["--progress=plain", "--target", "shown", "--output", f"type=local,dest={target}"]
        ran = self._docker("build", *words, str(self._context), check=False)
        if not ran.returncode:
            self.site = next(target.glob("python3*/site-packages"))
            self.installed = {info.name.removesuffix(".dist-info") for info in self.site.glob("*.dist-info")}
        return ran

    def has(self, path: str) -> bool:
        """Whether a file is installed."""
        return (self.site / path).exists()


@pytest.fixture
def packages(docker: Docker, index: Index, tmp_path: Path) -> Packages:
    """The stage, not built yet."""
    return Packages(docker, index, tmp_path)


def test_the_default_build_is_the_cpu_build(packages: Packages) -> None:
    """Although the index has CUDA builds of that version: torch alone comes from it, and everything else is pinned."""
    assert packages.build().returncode == 0
    assert packages.installed == {f"torch-{CPU}", *packages.pinned}
    assert not packages.has("torch/include")
    assert not packages.has("torch/bin/ptxas")


def test_the_page_names_a_build_of_the_same_version() -> None:
    """Both are arguments of the Dockerfile, and the build for a GPU differs from the default in the build alone."""
    dockerfile, page = ((PROJECT / name).read_text() for name in ("Dockerfile", "docs/own-image.md"))
    default = dict(re.findall(r"^ARG (TORCH_\w+)=(\S+)$", dockerfile, re.MULTILINE))
    shown = dict(re.findall(r"--build-arg (TORCH_\w+)=(\S+\w)", page))
    assert shown.keys() == default.keys()
    assert (default["TORCH_VERSION"], shown["TORCH_VERSION"]) == (CPU, CUDA)
    for arguments in (default, shown):
        assert arguments["TORCH_INDEX_URL"].endswith(f"/{arguments['TORCH_VERSION'].partition('+')[2]}")


@pytest.mark.parametrize("version", ["2.13.0", ""])
def test_a_version_of_torch_that_names_no_build_is_refused(packages: Packages, version: str) -> None:
    """On PyPI such a version is a CUDA build."""
    ran = packages.build(TORCH_VERSION=version)
    assert ran.returncode
    assert f"TORCH_VERSION={version} names no build" in ran.stderr


def test_a_cuda_build_brings_what_it_needs_and_moves_no_pin(packages: Packages) -> None:
    """Its own packages come from the same index, and the index has newer versions of what is pinned in vain."""
    assert packages.build(TORCH_VERSION=CUDA).returncode == 0
    assert packages.installed == {f"torch-{CUDA}", *packages.pinned, "nvidia_cublas-13.1.0.3", "triton-3.7.0"}
    for kept in (LIBRARY, "torch/bin/ptxas", "nvidia/cu13/include/cublas.h", "nvidia/cu13/lib/libcublas.a"):
        assert packages.has(kept)
    assert packages.has("triton/backends/nvidia/include/cuda.h")
    assert not packages.has("torch/include")


def test_a_cuda_build_that_refuses_a_pin_makes_no_image(packages: Packages) -> None:
    """It needs a newer version of a package than the lock has: the build fails, and names both."""
    ran = packages.build(TORCH_VERSION="2.14.0+cu130")
    assert ran.returncode
    assert "torch 2.14.0+cu130 depends on filelock>=99" in ran.stderr
