"""The files of .github: workflows that linters find nothing in, and forms that ask for what is there.

No test can show that GitHub runs them; each workflow says so.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

from modelcache.cli.parser import COMMANDS
from tests.conftest import PROJECT

GITHUB = PROJECT / ".github"
WORKFLOWS = sorted((GITHUB / "workflows").iterdir())
FORMS = sorted(path for path in (GITHUB / "ISSUE_TEMPLATE").iterdir() if path.name != "config.yml")
SCHEMAS = {
    **dict.fromkeys(WORKFLOWS, "github-workflows"),
    **dict.fromkeys(FORMS, "github-issue-forms"),
    GITHUB / "ISSUE_TEMPLATE/config.yml": "github-issue-config",
    GITHUB / "dependabot.yml": "dependabot",
}


def content_of(path: Path) -> dict[str, Any]:
    """The file as YAML; `on` is read as true by YAML 1.1."""
    content = yaml.safe_load(path.read_text())
    assert isinstance(content, dict)
    return content


def jobs_of(path: Path) -> dict[str, dict[str, Any]]:
    """The jobs of a workflow."""
    jobs = content_of(path)["jobs"]
    assert isinstance(jobs, dict)
    return jobs


def run(*words: str | Path) -> subprocess.CompletedProcess[str]:
    """A linter, with what it says."""
    return subprocess.run([str(word) for word in words], cwd=PROJECT, capture_output=True, text=True, check=False)


def schema(path: Path, name: str) -> subprocess.CompletedProcess[str]:
    """Compare a file with the schema that the linter brings along."""
    return run(sys.executable, "-m", "check_jsonschema", "--builtin-schema", f"vendor.{name}", path)


def audit(folder: Path) -> subprocess.CompletedProcess[str]:
    """Look for what is unsafe, or not what GitHub runs; it asks no network."""
    zizmor = Path(sys.executable).with_name("zizmor")
    return run(zizmor, "--offline", "--pedantic", "--no-progress", "--color=never", folder)


def test_every_file_is_of_a_known_kind() -> None:
    """A new one has a schema, too, or is looked at by a person."""
    others = {GITHUB / "pull_request_template.md"}
    assert {path for path in GITHUB.rglob("*") if path.is_file()} == {*SCHEMAS, *others}
    assert [path.name for path in WORKFLOWS] == ["ci.yml", "release.yml"]


@pytest.mark.parametrize("path", SCHEMAS, ids=lambda path: path.name)
def test_a_file_has_the_keys_that_github_reads(path: Path) -> None:
    """By the schema of its kind, which refuses unknown keys."""
    ran = schema(path, SCHEMAS[path])
    assert ran.returncode == 0, ran.stdout


def test_the_audit_finds_nothing() -> None:
    """Unpinned actions, wide permissions, tokens that stay, and words of strangers in a shell are what it looks for."""
    ran = audit(GITHUB)
    assert ran.returncode == 0, ran.stdout


@pytest.mark.slow
@pytest.mark.parametrize(
    ("before", "after", "by_schema"),
    [
        ("timeout-minutes: 40", "timeout_minutes: 40", True),
        ("needs: fast", "needs: [[fast]]", True),
        ("actions/checkout@8e8c483db84b4bee98b60c0593521ed34d9990e8", "actions/checkout@v6", False),
        ("run: scripts/test fast", "run: echo ${{ github.head_ref }}", False),
        ("persist-credentials: false", "fetch-depth: 1", False),
        ("contents: read", "contents: write", False),
    ],
)
def test_the_linters_find_a_planted_fault(before: str, after: str, by_schema: bool, tmp_path: Path) -> None:
    """Otherwise the tests above would show little."""
    copy = shutil.copytree(GITHUB, tmp_path / ".github") / "workflows/ci.yml"
    text = copy.read_text()
    assert before in text
    copy.write_text(text.replace(before, after))
    ran = schema(copy, "github-workflows") if by_schema else audit(tmp_path / ".github")
    assert ran.returncode != 0, ran.stdout


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.name)
def test_a_workflow_has_no_more_than_it_needs(path: Path) -> None:
    """It reads the repository, ends in time, has no secret, and begins with what is known of it."""
    first = path.read_text().splitlines()[0]
    assert first.startswith("# Linted by tests/unit/test_github_files.py; it has not been run on GitHub yet.")
    assert content_of(path)["permissions"] == {"contents": "read"}
    assert "secrets." not in path.read_text()
    for name, job in jobs_of(path).items():
        assert job["timeout-minutes"] <= 240, name
        assert ("permissions" in job) == (name == "publish"), name
    assert content_of(path)["concurrency"]["group"].endswith("${{ github.ref }}")


def test_only_the_job_that_publishes_can_publish() -> None:
    """It has a token of its own, waits for the others, builds nothing and runs nothing of the repository."""
    jobs = jobs_of(GITHUB / "workflows/release.yml")
    assert jobs["publish"]["permissions"] == {"id-token": "write"}
    assert jobs["publish"]["environment"] == "pypi"
    assert set(jobs["publish"]["needs"]) == jobs.keys() - {"publish"}
    assert [step for step in jobs["publish"]["steps"] if "run" in step or "checkout" in step["uses"]] == []


def test_each_python_of_the_package_is_tried() -> None:
    """The matrix is that of the classifiers."""
    project = tomllib.loads((PROJECT / "pyproject.toml").read_text())["project"]
    versions = [line.rpartition(" ")[2] for line in project["classifiers"] if re.search(r":: 3\.\d+$", line)]
    assert jobs_of(GITHUB / "workflows/ci.yml")["fast"]["strategy"]["matrix"]["python"] == versions


def test_steps_run_scripts_that_are_there() -> None:
    """What they do can be run here; beside them a step installs Debian's packages, and no more."""
    ran: set[str] = set()
    for path in WORKFLOWS:
        for job in jobs_of(path).values():
            for step in job["steps"]:
                for line in step.get("run", "").splitlines():
                    words = [word for word in shlex.split(line) if "=" not in word]
                    ran.add(" ".join(words[2:] if words[:2] == ["sudo", "env"] else words))
    packages = {line for line in ran if line.startswith("sudo apt-get ")}
    assert len(packages) == 2
    assert ran - packages == {
        "scripts/test fast",
        ".ci/run",
        "python -m scripts.release check $GITHUB_REF_NAME",
        "python -m scripts.release build dist",
    }
    assert all(os.access(PROJECT / script, os.X_OK) for script in ("scripts/test", ".ci/run"))
    assert re.search(r"^    fast\) ", (PROJECT / "scripts/test").read_text(), re.MULTILINE)


@pytest.mark.parametrize("path", FORMS, ids=lambda path: path.name)
def test_a_form_can_be_filled_in(path: Path) -> None:
    """Ids and labels are unique, and every field says what belongs into it."""
    fields = [field for field in content_of(path)["body"] if field["type"] != "markdown"]
    assert {field["type"] for field in fields} <= {"textarea", "input", "dropdown"}
    for key in ([field["id"] for field in fields], [field["attributes"]["label"] for field in fields]):
        assert len(set(key)) == len(key)
    assert all(field["attributes"].get("description") or field["type"] == "dropdown" for field in fields)


def test_the_form_of_a_bug_asks_for_what_helps() -> None:
    """And warns of secrets before the first field."""
    first, *fields = content_of(GITHUB / "ISSUE_TEMPLATE/bug.yml")["body"]
    assert "Paste no token, no password" in first["attributes"]["value"]
    labels = [field["attributes"]["label"] for field in fields]
    wanted = ["The command and its output", "cache-models --version", "cache-models status --json", "models.toml"]
    assert set(wanted) <= set(labels)
    places = next(field["attributes"]["options"] for field in fields if field["id"] == "place")
    assert {"docker build", "docker compose", "Kubernetes", "a shell"} <= set(places)


def test_commands_of_the_forms_are_there() -> None:
    """A command that is renamed takes its name in a form with it."""
    text = "\n".join(path.read_text() for path in FORMS)
    named = re.findall(r"cache(?:-models|_models\.py) ([a-z-]+)(?: (--[a-z]+))?", text)
    assert {word for word, _ in named} == {"--version", "status"}
    assert "status" in COMMANDS
    for words in (["--version"], ["status", "--json", "--help"]):
        ran = run(sys.executable, PROJECT / "cache_models.py", *words)
        assert ran.returncode == 0, ran.stderr
    assert "--json" in ran.stdout
