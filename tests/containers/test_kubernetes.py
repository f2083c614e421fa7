"""deploy/kubernetes as kustomize renders it: valid, restricted, nothing secret, nothing without a version."""

from __future__ import annotations

import copy
import re
from pathlib import Path

import kubernetes_validate
import pytest
import yaml

from tests.containers.manifests import (
    FOLDER,
    OVERLAYS,
    Object,
    breaches,
    containers,
    one,
    own_overlay,
    pods,
    refusals,
    render,
)

NEWEST = kubernetes_validate.latest_version()
# As docs/kubernetes.md says. Image volumes are older than 1.33, but the restricted profile did not allow them.
OLDEST = {**dict.fromkeys(OVERLAYS, "1.29"), "image-volume": "1.33"}


@pytest.fixture(scope="module", params=OVERLAYS)
def objects(request: pytest.FixtureRequest) -> list[Object]:
    """One of the overlays, rendered."""
    return render(FOLDER / request.param)


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_every_object_is_valid(overlay: str) -> None:
    """No field is unknown to the oldest Kubernetes that the docs name, nor to the newest; none is of a wrong type."""
    objects = render(FOLDER / overlay)
    for thing in objects:
        kubernetes_validate.validate(thing, OLDEST[overlay], strict=True)
        kubernetes_validate.validate(thing, NEWEST, strict=True)
    broken = copy.deepcopy(one(objects, "Deployment"))
    broken["spec"]["template"]["spec"]["initContainer"] = []
    with pytest.raises(kubernetes_validate.ValidationError, match="initContainer"):
        kubernetes_validate.validate(broken, NEWEST, strict=True)


def test_every_pod_keeps_the_restricted_rules(objects: list[Object]) -> None:
    """A namespace with pod-security.kubernetes.io/enforce=restricted takes all of them."""
    assert [(name, told) for name, pod in pods(objects).items() for told in breaches(pod)] == []


@pytest.mark.parametrize(
    ("where", "what", "told"),
    [
        ("pod", {"hostNetwork": True}, "hostNetwork"),
        ("pod", {"enableServiceLinks": True}, "enableServiceLinks"),
        ("pod", {"automountServiceAccountToken": None}, "automountServiceAccountToken"),
        ("pod", {"volumes": [{"name": "disk", "hostPath": {"path": "/"}}]}, "volume disk: hostPath"),
        ("pod", {"volumes": [{"name": "tmp", "emptyDir": {}}]}, "volume tmp: no sizeLimit"),
        ("pod", {"securityContext": {}}, "models: may run as root"),
        ("pod", {"securityContext": {"sysctls": []}}, "pod: sysctls"),
        ("pod", {"securityContext": {"fsGroup": 10001}}, "pod: fsGroup changes each file at each start"),
        ("container", {"securityContext": {}}, "models: capabilities"),
        ("container", {"securityContext": {"allowPrivilegeEscalation": True}}, "models: allowPrivilegeEscalation"),
        ("container", {"securityContext": {"privileged": True}}, "models: privileged"),
        ("container", {"securityContext": {"readOnlyRootFilesystem": False}}, "models: readOnlyRootFilesystem"),
        ("container", {"securityContext": {"runAsNonRoot": False}}, "models: may run as root"),
        ("container", {"securityContext": {"runAsUser": 0}}, "models: may run as root"),
        ("container", {"securityContext": {"seccompProfile": {"type": "Unconfined"}}}, "models: seccompProfile"),
        ("container", {"ports": [{"containerPort": 1, "hostPort": 1}]}, "models: hostPort"),
        ("container", {"resources": {"requests": {"cpu": 1, "memory": 1}, "limits": {}}}, "models: resources"),
    ],
)
def test_a_pod_that_breaks_a_rule_is_told(where: str, what: Object, told: str) -> None:
    """The rules above can be broken, by any container."""
    pod = copy.deepcopy(pods(render(FOLDER / "emptydir"))["Deployment"])
    (pod if where == "pod" else pod["initContainers"][0]).update(what)
    assert told in list(breaches(pod))


def test_images_are_named_in_one_place_and_with_a_version(objects: list[Object]) -> None:
    """No image is the newest of its name, and whoever has a registry writes it once."""
    named = yaml.safe_load((FOLDER / "components/images/kustomization.yaml").read_text())["images"]
    known = {f"{image['newName']}:{image['newTag']}" for image in named}
    for pod in pods(objects).values():
        used = {container["image"] for container in containers(pod)}
        used |= {volume["image"]["reference"] for volume in pod["volumes"] if "image" in volume}
        assert used <= known
    elsewhere = {str(path.relative_to(FOLDER)) for path in FOLDER.rglob("*.yaml") if "registry." in path.read_text()}
    # The second one reads an image, and runs none: kustomize replaces the names of images in pods only.
    assert elsewhere == {"components/images/kustomization.yaml", "registry/kustomization.yaml"}


def test_nothing_secret_is_written_and_only_what_fetches_sees_the_token(objects: list[Object]) -> None:
    """The token is in a Secret that may be absent. The API, and what only looks or copies, cannot read it."""
    assert not [thing for thing in objects if thing["kind"] == "Secret"]
    assert not [name for thing in objects for name in thing.get("data", ()) if re.search("TOKEN|KEY|PASS", name)]
    for pod in pods(objects).values():
        for container in containers(pod):
            given = {entry["name"]: entry.get("valueFrom", {}) for entry in container.get("env", ())}
            secrets = {name: source["secretKeyRef"] for name, source in given.items() if "secretKeyRef" in source}
            sees = {"HF_TOKEN": {"name": "cache-models-token", "key": "HF_TOKEN", "optional": True}}
            told = [source["configMapRef"]["name"] for source in container["envFrom"]]
            assert secrets == (sees if any("-hub-" in name for name in told) else {})


def test_only_what_asks_the_registry_sees_its_login() -> None:
    """The login is in a Secret that may be absent, and where docker and podman look for one."""
    pod = pods(render(FOLDER / "registry"))["Deployment"]
    (login,) = (volume for volume in pod["volumes"] if "secret" in volume)
    items = [{"key": ".dockerconfigjson", "path": "config.json"}]
    assert login["secret"] == {"secretName": "cache-models-login", "optional": True, "items": items}
    mount = {"name": login["name"], "mountPath": "/login", "readOnly": True}
    assert [mount in container["volumeMounts"] for container in containers(pod)] == [True, False]
    assert {"name": "DOCKER_CONFIG", "value": "/login"} in pod["initContainers"][0]["env"]


def test_the_models_of_the_registry_are_those_that_are_pushed() -> None:
    """`registry` reads the image that `image-volume` mounts: the models are pushed once."""
    settings = [thing["data"] for thing in render(FOLDER / "registry") if thing["kind"] == "ConfigMap"]
    (source,) = (data["CACHE_MODELS_FROM"] for data in settings if "CACHE_MODELS_FROM" in data)
    volumes = pods(render(FOLDER / "image-volume"))["Deployment"]["volumes"]
    assert source in {f"docker://{volume['image']['reference']}" for volume in volumes if "image" in volume}


def test_the_api_reads_and_does_not_write(objects: list[Object]) -> None:
    """Models are mounted read-only where they are served, at the root that it is told."""
    api = one(objects, "Deployment")["spec"]["template"]["spec"]["containers"][0]
    (models,) = (mount for mount in api["volumeMounts"] if mount["name"] == "models")
    assert models["readOnly"] is True
    assert {mount["mountPath"] for mount in api["volumeMounts"]} == {"/shared", "/tmp"}
    root = one([thing for thing in objects if "CACHE_MODELS_ROOT" in thing.get("data", {})], "ConfigMap")
    assert root["data"]["CACHE_MODELS_ROOT"].startswith("/shared")
    assert {"configMapRef": {"name": root["metadata"]["name"]}} in api["envFrom"]


def test_an_image_of_the_readers_own_loads_by_id_in_the_place_of_the_api(objects: list[Object]) -> None:
    """The Hub view of whichever root it is, and no request to the Hub."""
    api = one(objects, "Deployment")["spec"]["template"]["spec"]["containers"][0]
    given = {entry["name"]: entry["value"] for entry in api["env"] if "value" in entry}
    assert given == {"HF_HUB_CACHE": "$(CACHE_MODELS_ROOT)/hub", "HF_HUB_OFFLINE": "1"}


def test_the_service_finds_the_api_and_nothing_else(objects: list[Object]) -> None:
    """Labels: what the Service, the Deployment and the budget select is the API's pods."""
    deployment = one(objects, "Deployment")
    labels = deployment["spec"]["template"]["metadata"]["labels"]
    assert labels == {"app.kubernetes.io/name": "cache-models", "app.kubernetes.io/component": "api"}
    assert deployment["spec"]["selector"]["matchLabels"] == labels
    assert one(objects, "Service")["spec"]["selector"] == labels
    assert one(objects, "PodDisruptionBudget")["spec"]["selector"]["matchLabels"] == labels
    for thing in objects:
        assert thing["metadata"]["labels"]["app.kubernetes.io/name"] == "cache-models"


def test_the_volume_is_filled_alike_in_both_overlays() -> None:
    """The container that fetches is written once."""
    emptydir, shared = (pods(render(FOLDER / overlay))["Deployment"] for overlay in ("emptydir", "shared-volume"))
    for container in (*emptydir["initContainers"], *shared["initContainers"]):
        container["envFrom"] = len(container["envFrom"])  # their names differ, since the roots do
    assert emptydir["initContainers"] == shared["initContainers"]


def merged(name: str, *literals: str) -> Object:
    """What changes a ConfigMap in an overlay of the user's own."""
    return {"configMapGenerator": [{"name": name, "behavior": "merge", "literals": list(literals)}]}


def patched(path: str, value: object) -> Object:
    """What changes the init container in an overlay of the user's own."""
    where = f"/spec/template/spec/initContainers/0/{path}"
    patch = yaml.safe_dump([{"op": "replace", "path": where, "value": value}])
    return {"patches": [{"target": {"kind": "Deployment"}, "patch": patch}]}


def tagged(**more: str) -> Object:
    """What changes the images in an overlay of the user's own."""
    registry = "registry.example.com/cache-models"
    return {"images": [{"name": name, **more} for name in (f"{registry}-init", f"{registry}-serve", registry)]}


CHANGES = {
    "source": merged("cache-models-registry", "CACHE_MODELS_FROM=docker://registry.example.com/house-models:2"),
    "endpoint": merged("cache-models-hub", "HF_ENDPOINT=https://hub.example.com"),
    "HTTPS_PROXY": merged("cache-models-hub", "HTTPS_PROXY=http://proxy.example.com:3128"),
    "HTTP_PROXY": merged("cache-models-hub", "HTTP_PROXY=http://proxy.example.com:3128"),
    "ALL_PROXY": merged("cache-models-hub", "ALL_PROXY=http://proxy.example.com:3128"),
    "NO_PROXY": merged("cache-models-hub", "NO_PROXY=.svc"),
    "tag": tagged(newTag="2"),
    "digest": tagged(digest="sha256:" + 64 * "0"),
    "root": merged("cache-models", "CACHE_MODELS_ROOT=/shared/2"),
    "arguments": patched("args", ["sync", "--locked", "--jobs=1"]),
    "resources": patched("resources/limits/memory", "512Mi"),
}


@pytest.mark.parametrize(
    ("overlay", "change"),
    [
        *((overlay, change) for overlay in ("emptydir", "shared-volume") for change in CHANGES if change != "source"),
        *(("seeded-claim", change) for change in ("tag", "digest", "root", "arguments", "resources")),
        *(("registry", change) for change in ("source", "tag", "digest", "arguments", "resources")),
    ],
)
def test_whatever_changes_can_be_applied_and_runs(overlay: str, change: str, tmp_path: Path) -> None:
    """`kubectl apply -k` after a change: nothing is refused, and new pods fill the volume in the new way."""
    before, after = render(FOLDER / overlay), render(own_overlay(tmp_path, FOLDER, overlay, **CHANGES[change]))
    assert list(refusals(before, after)) == []
    old, new = (one(objects, "Deployment")["spec"]["template"] for objects in (before, after))
    assert old != new, "no pod would start"


def test_a_changed_manifest_can_be_applied_and_runs(tmp_path: Path) -> None:
    """components/manifest, before and after a new lock."""
    generated: list[Object] = [{"name": "cache-models-manifest", "files": ["models.toml", "models.lock"]}]
    states = []
    for text in ("", "# another\n"):
        for name in ("models.toml", "models.lock"):
            (tmp_path / name).write_text(text)
        states.append(
            render(own_overlay(tmp_path, FOLDER, "shared-volume", ["manifest"], configMapGenerator=generated))
        )
    assert list(refusals(*states)) == []
    assert one(states[0], "Deployment") != one(states[1], "Deployment")


@pytest.mark.parametrize(
    ("kind", "field"), [("Job", "template"), ("PersistentVolumeClaim", "accessModes"), ("Deployment", "selector")]
)
def test_a_change_that_is_refused_is_told(kind: str, field: str) -> None:
    """The rule above can be broken: by a Job, too, whose name does not follow its content."""
    before: Object = {"kind": kind, "metadata": {"name": "a"}, "spec": {field: "old"}}
    assert list(refusals([before], [{**before, "spec": {field: "new"}}])) == [f"{kind} a"]
    settings: Object = {"kind": "ConfigMap", "metadata": {"name": "a"}, "data": {"HF_ENDPOINT": "old"}}
    assert list(refusals([settings], [{**settings, "data": {}}])) == ["ConfigMap a"]


@pytest.mark.parametrize("overlay", ["emptydir", "shared-volume", "seeded-claim", "registry"])
def test_a_config_map_takes_the_place_of_the_manifest_in_the_image(overlay: str, tmp_path: Path) -> None:
    """components/manifest: the init container reads the mounted one, and the pods are new."""
    (tmp_path / "models.toml").write_text("")
    (tmp_path / "models.lock").write_text("")
    generated: list[Object] = [{"name": "cache-models-manifest", "files": ["models.toml", "models.lock"]}]
    objects = render(own_overlay(tmp_path, FOLDER, overlay, ["manifest"], configMapGenerator=generated))
    for pod in pods(objects).values():
        assert list(breaches(pod)) == []
        (volume,) = (volume for volume in pod["volumes"] if volume["name"] == "manifest")
        assert re.fullmatch(r"cache-models-manifest-\w{10}", volume["configMap"]["name"])
        for container in pod["initContainers"]:
            assert {"name": "manifest", "mountPath": "/manifest", "readOnly": True} in container["volumeMounts"]
    settings = [thing["data"].get("CACHE_MODELS_MANIFEST") for thing in objects if thing["kind"] == "ConfigMap"]
    assert "/manifest/models.toml" in settings
