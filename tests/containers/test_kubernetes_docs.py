"""docs/kubernetes.md: every command is run or read, every overlay of the reader's own is rendered."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

from tests.conftest import PROJECT
from tests.containers.manifests import FOLDER, OVERLAYS, Object, containers, kubectl, pods, refusals, render

TEXT = (PROJECT / "docs" / "kubernetes.md").read_text()
BLOCKS = re.findall(r"^```(\w+)\n(.*?)^```$", TEXT, re.MULTILINE | re.DOTALL)
CONSOLE = "".join(text for language, text in BLOCKS if language == "console")
COMMANDS = re.findall(r"^\$ (.*)$", CONSOLE, re.MULTILINE)
COMMANDS += re.findall(r"`(kubectl [a-z]+ [^`]*[/=][^`]*)`", TEXT)
OWN_API, STAGING, PRODUCTION = (text for language, text in BLOCKS if language == "yaml")
KUBECTL = [command for command in COMMANDS if command.startswith("kubectl")]
NO_CLUSTER = """
apiVersion: v1
kind: Config
clusters: [{name: none, cluster: {server: "http://127.0.0.1:1"}}]
contexts: [{name: none, context: {cluster: none}}]
current-context: none
"""


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A checkout with the reader's own overlays, and a configuration of kubectl that leads to no cluster."""
    shutil.copytree(FOLDER, tmp_path / "deploy" / "kubernetes")
    for name, text in (("staging", STAGING), ("production", PRODUCTION)):
        assert text.startswith(f"# {name}/kustomization.yaml")
        (tmp_path / name).mkdir()
        (tmp_path / name / "kustomization.yaml").write_text(text)
    assert OWN_API.startswith("# my-app.yaml")  # test_own_application plays it
    (tmp_path / "my-app.yaml").write_text(OWN_API)
    for name in ("models.toml", "models.lock"):
        (tmp_path / name).write_text("")
        (tmp_path / "staging" / name).write_text("")
    (tmp_path / "kubeconfig").write_text(NO_CLUSTER)
    return tmp_path


@pytest.fixture(scope="module")
def shipped() -> list[Object]:
    """The objects of every overlay."""
    return [thing for overlay in OVERLAYS for thing in render(FOLDER / overlay)]


def test_every_block_is_known_to_a_test() -> None:
    """No block is shown that nothing below runs or reads."""
    assert {language for language, _ in BLOCKS} == {"console", "yaml"}
    others = [command.partition(" ")[0] for command in COMMANDS if command not in KUBECTL]
    assert sorted(others) == sorted([*["docker"] * 6, *["cache-models"] * 2, "root=$(sha256sum", "sed"])


@pytest.mark.parametrize("command", KUBECTL)
def test_kubectl_takes_every_command(command: str, checkout: Path, shipped: list[Object]) -> None:
    """Flags and folders are right: it gets as far as to look for the cluster. What is named is there."""
    environment = {"KUBECONFIG": "kubeconfig", "HOME": str(checkout), "PATH": str(Path(kubectl()).parent)}
    environment["PASSWORD"] = "for nothing"
    ran = subprocess.run(
        command, shell=True, cwd=checkout, env=environment, capture_output=True, text=True, check=False
    )
    assert ran.returncode == 1, ran.stderr
    assert re.search("connection refused|connection to the server 127.0.0.1:1 was refused", ran.stderr), ran.stderr

    names = {f"{thing['kind'].lower()}/{thing['metadata']['name']}" for thing in shipped}
    assert set(re.findall(r"\b(?:deployment|service)/\S+\b", command)) <= names
    for key, value in re.findall(r" -l (\S+?)=(\S+)", command):
        templates = [thing["spec"]["template"] for thing in shipped if thing["kind"] == "Deployment"]
        assert any(template["metadata"]["labels"].get(key) == value for template in templates)


def test_every_overlay_is_in_the_table_and_applied() -> None:
    """What is shipped is described, and shown once."""
    assert set(re.findall(r"^\| `([\w-]+)` \|", TEXT, re.MULTILINE)) == set(OVERLAYS)
    assert {command for command in KUBECTL if "deploy/kubernetes/" in command} == {
        f"kubectl apply -k deploy/kubernetes/{overlay}" for overlay in OVERLAYS
    }


def test_the_images_that_are_built_are_the_images_that_are_named() -> None:
    """Each command builds a target, and tags it as the manifests ask for it."""
    builds = [command for command in COMMANDS if command.startswith("docker build ")]
    dockerfile = (PROJECT / "Dockerfile").read_text()
    for target in re.findall(r"--target (\S+)", "\n".join(builds)):
        assert re.search(rf"^FROM .* AS {target}$", dockerfile, re.MULTILINE)
    for argument in re.findall(r"--build-arg (\w+)=", "\n".join(builds)):
        assert re.search(rf"^ARG {argument}=", dockerfile, re.MULTILINE)
    made = dict(re.findall(r"--push --target (\S+) --tag (\S+:1) ", "\n".join(builds)))
    named = yaml.safe_load((FOLDER / "components/images/kustomization.yaml").read_text())["images"]
    assert made == {image["name"]: f"{image['newName']}:{image['newTag']}" for image in named}
    (rolled,) = (build for build in builds if "$root" in build)
    assert f"--target init --tag {made['init'].removesuffix(':1')}:$root " in rolled


def test_an_overlay_of_the_readers_own_changes_what_it_says(checkout: Path) -> None:
    """staging: another Hub, and a manifest that is mounted."""
    objects = render(checkout / "staging")
    settings = {key: value for thing in objects if thing["kind"] == "ConfigMap" for key, value in thing["data"].items()}
    assert settings["HF_ENDPOINT"] == "https://hub.example.com"
    assert settings["CACHE_MODELS_MANIFEST"] == "/manifest/models.toml"
    assert {"models.toml", "models.lock"} <= settings.keys()


def test_a_new_lock_gets_a_new_root(checkout: Path) -> None:
    """production: the commands put one name in two places; all containers go to the new root, and it can be applied."""
    before = _rolled(checkout)
    assert before[0] == "3f9a1c5be2d7"
    (checkout / "models.lock").write_text("# another lock\n")
    commands = [command for command in COMMANDS if command.startswith(("root=", "sed "))]
    subprocess.run(["sh", "-ec", "\n".join(commands)], cwd=checkout, check=True)
    after = _rolled(checkout)
    assert list(refusals(before[2], after[2])) == []
    assert re.fullmatch("[0-9a-f]{12}", after[0])
    assert after[0] != before[0]
    assert after[1] != before[1], "the pods would not roll"


def _rolled(checkout: Path) -> tuple[str, str, list[Object]]:
    """Return the root's name, the name of the ConfigMap that all pods read it from, and all objects."""
    objects: list[Object] = render(checkout / "production")
    (settings,) = (thing for thing in objects if "CACHE_MODELS_ROOT" in thing.get("data", {}))
    root = settings["data"]["CACHE_MODELS_ROOT"].removeprefix("/shared/")
    for pod in pods(objects).values():
        for container in containers(pod):
            assert {"configMapRef": {"name": settings["metadata"]["name"]}} in container["envFrom"]
            assert "init" not in container["image"] or container["image"].endswith(f":{root}")
    return root, settings["metadata"]["name"], objects
