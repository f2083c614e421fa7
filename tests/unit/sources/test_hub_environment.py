"""Where a token may come from; the library is not loaded where it has nowhere to look. And where none may go."""

from __future__ import annotations

import ast
import inspect
import os
import re
import site
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
from huggingface_hub.utils import _auth

from modelcache.check.launcher import _environment
from modelcache.cli.progress import QuietReporter
from modelcache.core.errors import UsageError
from modelcache.sources.hub_environment import connect
from modelcache.transfer.retry import RetryPolicy
from tests.conftest import PROJECT

CONNECT = """
import sys
from modelcache.sources.hub_environment import connect
from modelcache.transfer.retry import RetryPolicy
from modelcache.cli.progress import QuietReporter
hub = connect(RetryPolicy(), QuietReporter(), 8)
print(hub._token, "httpx2" in sys.modules or "httpx" in sys.modules)
"""


def connected(home: Path, **env: str) -> str:
    """Connect in a process of its own; return the token and whether the library's client was loaded."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith("HF_")}
    clean.pop("HUGGING_FACE_HUB_TOKEN", None)
    command = [sys.executable, "-c", CONNECT]
    env = {**clean, "HF_HOME": str(home), **env}
    return subprocess.run(command, cwd=PROJECT, env=env, capture_output=True, text=True, check=True).stdout.strip()


def test_nobody_is_logged_in(tmp_path: Path) -> None:
    """The library's client, a third of all imports of a first start, stays where it is."""
    assert connected(tmp_path) == "None False"
    assert connected(tmp_path / "not-there") == "None False"
    assert connected(tmp_path, HF_TOKEN="") == "None False"


@pytest.mark.parametrize("name", ["HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"])
def test_a_token_in_the_environment(tmp_path: Path, name: str) -> None:
    """As the library reads it."""
    assert connected(tmp_path, **{name: " hf_one\n"}) == "hf_one True"


def test_a_token_in_a_file(tmp_path: Path) -> None:
    """As `hf auth login` leaves it, also behind a link, and where HF_TOKEN_PATH says."""
    (tmp_path / "secret").write_text("hf_two\n")
    (tmp_path / "token").symlink_to("secret")
    assert connected(tmp_path) == "hf_two True"
    assert connected(tmp_path / "elsewhere", HF_TOKEN_PATH=str(tmp_path / "secret")) == "hf_two True"


def test_a_file_without_a_token_means_no_token(tmp_path: Path) -> None:
    """A build secret that is not given is no file, or an empty one."""
    for name, text in (("empty", ""), ("blank", " \n")):
        (tmp_path / name).write_text(text)
        assert connected(tmp_path, HF_TOKEN_PATH=str(tmp_path / name)).startswith("None ")
    assert connected(tmp_path, HF_TOKEN_PATH=str(tmp_path / "not-there")) == "None False"
    assert connected(tmp_path, HF_TOKEN_PATH=str(tmp_path / "no-folder" / "hf_token")) == "None False"


MARK = "\ufeff"
DISGUISED = {
    '"hf_one"': "in quotes",
    "'hf_one'": "in quotes",
    '"hf_one': "in quotes",
    ' "hf_one" ': "in quotes",
    f"{MARK}hf_one": "begins with a byte order mark",
    f"{MARK}hf_one\r\n": "begins with a byte order mark",
}


@pytest.mark.parametrize("where", ["HF_TOKEN", "a file"])
@pytest.mark.parametrize("text", DISGUISED)
def test_a_token_with_something_around_it_is_told_and_not_shown(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, text: str, where: str
) -> None:
    """As `docker --env-file` keeps quotes, and as some editors begin a file; exit 2."""
    monkeypatch.delenv("HF_TOKEN", raising=False)
    (tmp_path / "token").write_bytes(text.encode())
    if where == "HF_TOKEN":
        monkeypatch.setenv(where, text)
    monkeypatch.setattr("huggingface_hub.constants.HF_TOKEN_PATH", str(tmp_path / "token"))
    with pytest.raises(UsageError, match=DISGUISED[text]) as told:
        connect(RetryPolicy(), QuietReporter(), 8)
    assert "hf_one" not in told.value.message + told.value.hint
    assert re.search("quotes|HF_TOKEN", told.value.hint)


@pytest.mark.parametrize("endpoint", ['"https://hub.example"', "'https://hub.example'", "https://hub.example\n", " x"])
def test_an_endpoint_with_something_around_it_is_told(monkeypatch: pytest.MonkeyPatch, endpoint: str) -> None:
    """The variable and what is around it, before any library reads it."""
    monkeypatch.setenv("HF_ENDPOINT", endpoint)
    with pytest.raises(UsageError, match=r"HF_ENDPOINT (is in quotes|has spaces or a line break around it)"):
        connect(RetryPolicy(), QuietReporter(), 8)


def test_the_library_looks_nowhere_else() -> None:
    """A version that takes tokens from yet another place has to be known to modelcache.sources.hub_environment."""

    def called(function: object) -> set[str]:
        tree = ast.parse(textwrap.dedent(inspect.getsource(function)))  # type: ignore[arg-type]
        return {
            node.func.id for node in ast.walk(tree) if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)
        }

    assert called(_auth.get_token) == {
        "_get_token_from_oidc",
        "_get_token_from_environment",
        "_get_token_from_file_refreshed",
        "_get_token_from_google_colab",
    }
    assert "HF_OIDC_RESOURCE" in inspect.getsource(_auth._get_token_from_oidc)
    assert called(_auth._get_token_from_file_refreshed) == {"_get_token_from_file", "_refresh_oauth_token_if_needed"}


def test_the_process_that_loads_models_gets_no_secret(monkeypatch: pytest.MonkeyPatch) -> None:
    """An allow-list of variables, since a list of secrets is never complete."""
    for name in ("HF_TOKEN", "AWS_SECRET_ACCESS_KEY", "A_PASSWORD"):
        monkeypatch.setenv(name, "s3cret")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    found = _environment("/scratch")
    assert "s3cret" not in found.values()
    assert (found["OMP_NUM_THREADS"], found["HOME"], found["HF_HUB_OFFLINE"]) == ("1", "/scratch", "1")


def test_places_of_modules_do_not_move_with_the_process(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """It starts in the scratch directory: an empty place would be where a model writes, a relative one nowhere."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", ":/usr/x::lib:")
    monkeypatch.setattr(site, "ENABLE_USER_SITE", True)
    monkeypatch.setattr(site, "getuserbase", lambda: "/home/me/.local")
    found = _environment("/scratch")
    assert found["PYTHONPATH"] == f"/usr/x:{tmp_path}/lib"
    assert found["PYTHONUSERBASE"] == "/home/me/.local"


SOURCES: dict[str, tuple[dict[str, str], str]] = {
    "HF_TOKEN": ({"HF_TOKEN": " hf_one\n"}, "HF_TOKEN"),
    "the old name": ({"HUGGING_FACE_HUB_TOKEN": "hf_one"}, "HUGGING_FACE_HUB_TOKEN"),
    "HF_TOKEN before the old name": ({"HF_TOKEN": "hf_one", "HUGGING_FACE_HUB_TOKEN": "hf_two"}, "HF_TOKEN"),
    "a login": ({}, "{home}/token (`hf auth login`)"),
    "a login behind a blank variable": ({"HF_TOKEN": " "}, "{home}/token (`hf auth login`)"),
    "a file": ({"HF_TOKEN_PATH": "{home}/secret"}, "{home}/secret (HF_TOKEN_PATH)"),
}


@pytest.mark.parametrize("case", SOURCES)
def test_the_source_of_a_refused_token_is_named(tmp_path: Path, case: str) -> None:
    """The variable or the file; of several the one that counts."""
    (tmp_path / "token").write_text("hf_three\n")
    (tmp_path / "secret").write_text("hf_four\n")
    env, source = SOURCES[case]
    program = f"{CONNECT}print(hub._token_source)"
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "HUGGING_"))}
    env = {name: value.format(home=tmp_path) for name, value in env.items()}
    ran = subprocess.run(
        [sys.executable, "-c", program],
        cwd=PROJECT,
        env={**clean, "HF_HOME": str(tmp_path), **env},
        capture_output=True,
        text=True,
        check=True,
    )
    assert ran.stdout.splitlines()[-1] == source.format(home=tmp_path)
