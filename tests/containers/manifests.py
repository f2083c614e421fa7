"""What kustomize makes of deploy/kubernetes, and the rules that its pods keep."""

from __future__ import annotations

import functools
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import yaml

from tests.conftest import PROJECT
from tests.containers.engine import unavailable

Object = dict[str, Any]

FOLDER = PROJECT / "deploy" / "kubernetes"
OVERLAYS = ("emptydir", "shared-volume", "image-volume", "seeded-claim", "registry")
# What an API server does not let anybody change, as its validation has it.
_FIXED: dict[str, Callable[[Object], object]] = {
    "ConfigMap": lambda thing: thing["data"],  # changed under its name, it would start no pod
    "Deployment": lambda thing: thing["spec"].get("selector"),
    "Job": lambda thing: thing["spec"].get("template"),
    "PersistentVolumeClaim": lambda thing: {**thing["spec"], "resources": None},  # a claim may grow
    "PodDisruptionBudget": lambda thing: None,
    "Service": lambda thing: None,
}
_VOLUMES = {"configMap", "csi", "downwardAPI", "emptyDir", "ephemeral", "persistentVolumeClaim", "projected", "secret"}
_VOLUMES |= {"image"}  # allowed since 1.33 (kubernetes/kubernetes#130394)
_OF_POD = {
    *("runAsNonRoot", "runAsUser", "runAsGroup", "fsGroup", "fsGroupChangePolicy", "supplementalGroups"),
    "seccompProfile",
}
_OF_CONTAINER = {
    *("runAsNonRoot", "runAsUser", "runAsGroup", "seccompProfile", "allowPrivilegeEscalation", "capabilities"),
    "readOnlyRootFilesystem",
}


@functools.cache
def kubectl() -> str:
    """Where kubectl is; its `kustomize` renders, and no cluster is asked."""
    found = shutil.which("kubectl")
    if not found:
        unavailable("there is no kubectl here")
    return str(found)


def render(folder: Path) -> list[Object]:
    """Return the objects of an overlay."""
    ran = subprocess.run([kubectl(), "kustomize", folder], capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    return list(yaml.safe_load_all(ran.stdout))


def own_overlay(folder: Path, shipped: Path, overlay: str, components: Sequence[str] = (), **more: Any) -> Path:
    """Write a kustomization of a user's own over a shipped one; return its folder."""
    up = os.path.relpath(shipped, folder)
    own = {"resources": [f"{up}/{overlay}"], "components": [f"{up}/components/{name}" for name in components], **more}
    (folder / "kustomization.yaml").write_text(yaml.safe_dump(own))
    return folder


def one(objects: Sequence[Object], kind: str) -> Object:
    """Return the only object of a kind."""
    (found,) = (thing for thing in objects if thing["kind"] == kind)
    return found


def pods(objects: Sequence[Object]) -> dict[str, Object]:
    """Return the specification of each kind of pod, by what makes it."""
    return {
        thing["kind"]: thing["spec"]["template"]["spec"] for thing in objects if "template" in thing.get("spec", ())
    }


def refusals(before: Sequence[Object], after: Sequence[Object]) -> Iterator[str]:
    """Tell which objects `kubectl apply` cannot bring from one state to another, since they keep their names."""
    old = {(thing["kind"], thing["metadata"]["name"]): thing for thing in before}
    for thing in after:
        kind, name = thing["kind"], thing["metadata"]["name"]
        fixed = _FIXED[kind]
        if (kind, name) in old and fixed(old[kind, name]) != fixed(thing):
            yield f"{kind} {name}"


def containers(pod: Object) -> list[Object]:
    """Return all containers of a pod, in the order in which they start."""
    return [*pod.get("initContainers", []), *pod["containers"]]


def breaches(pod: Object) -> Iterator[str]:
    """Tell what Kubernetes' restricted profile, and a house rule or two beside it, would refuse in a pod.

    Settings of security that are not known here are told too, so that none has to be remembered.
    """
    rules: Object = pod.get("securityContext", {})
    for name in ("hostNetwork", "hostPID", "hostIPC"):
        if pod.get(name):
            yield name
    for name in ("automountServiceAccountToken", "enableServiceLinks"):
        if pod.get(name) is not False:
            yield name
    yield from (f"pod: {name}" for name in rules.keys() - _OF_POD)
    if "fsGroup" in rules and rules.get("fsGroupChangePolicy") != "OnRootMismatch":
        yield "pod: fsGroup changes each file at each start"
    for volume in pod["volumes"]:
        if kind := volume.keys() - {"name"} - _VOLUMES:
            yield f"volume {volume['name']}: {kind.pop()}"
        if not volume.get("emptyDir", {"sizeLimit": 1}).get("sizeLimit"):
            yield f"volume {volume['name']}: no sizeLimit"
    for container in containers(pod):
        yield from (f"{container['name']}: {what}" for what in _breaches_of(container, rules))


def _breaches_of(container: Object, of_pod: Object) -> Iterator[str]:
    own: Object = container.get("securityContext", {})
    rules = of_pod | own
    yield from own.keys() - _OF_CONTAINER
    if rules.get("runAsNonRoot") is not True or not rules.get("runAsUser") or not rules.get("runAsGroup"):
        yield "may run as root"
    if rules.get("seccompProfile", {}).get("type") != "RuntimeDefault":
        yield "seccompProfile"
    if own.get("allowPrivilegeEscalation") is not False:
        yield "allowPrivilegeEscalation"
    if own.get("capabilities") != {"drop": ["ALL"]}:
        yield "capabilities"
    if own.get("readOnlyRootFilesystem") is not True:
        yield "readOnlyRootFilesystem"
    if any("hostPort" in port for port in container.get("ports", [])):
        yield "hostPort"
    if (
        not {"cpu", "memory"} <= container["resources"]["requests"].keys()
        or "memory" not in container["resources"]["limits"]
    ):
        yield "resources"
