"""podman in the place of a cluster: plays what kustomize has rendered, with what it does not know taken away."""

from __future__ import annotations

import copy
import http.client
import json
import re
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from tests.containers.engine import Ran
from tests.containers.manifests import Object, containers, one, pods

STARTED = 120.0  # seconds; importing torch takes six of a quiet machine's


@dataclass(frozen=True)
class Podman:
    """One podman; `suffix` is at the end of every name that it is given."""

    program: str
    suffix: str

    def __call__(self, *words: str | Path, check: bool = True) -> Ran:
        """Run one command; a failure that is not expected shows what was said."""
        ran = subprocess.run([self.program, *words], capture_output=True, text=True, check=False)
        assert not (check and ran.returncode), f"podman {words} ended with {ran.returncode}:\n{ran.stdout}{ran.stderr}"
        return ran

    @contextmanager
    def playing(self, objects: Sequence[Object], folder: Path) -> Iterator[Ran]:
        """Play the objects, and take the pods away at the end; what is on a claim stays."""
        file = folder / "played.yaml"
        file.write_text(yaml.safe_dump_all(objects))
        try:
            yield self("kube", "play", file, check=False)
        finally:
            # Not waiting for an end in good order, which is tested where the images are.
            named = {"Deployment": "{}-pod", "Pod": "{}"}
            started = [
                named[thing["kind"]].format(thing["metadata"]["name"]) for thing in objects if thing["kind"] in named
            ]
            self("pod", "rm", "--force", "--ignore", "--time=0", *started)
            self("kube", "down", file)
            for thing in objects:
                if thing["kind"] == "Secret":  # one that is mounted stays in a volume of its name
                    self("volume", "rm", "--force", thing["metadata"]["name"])

    def state(self, container: str) -> Object:
        """Return a container's state: Status, ExitCode, and more."""
        found: Object = json.loads(self("inspect", container).stdout)[0]["State"]
        return found

    def logs(self, container: str) -> str:
        """Return what a container has said."""
        ran = self("logs", container)
        return ran.stdout + ran.stderr


class Api:
    """The API of a played Deployment, asked from outside its pod."""

    def __init__(self, podman: Podman, objects: Sequence[Object]) -> None:
        deployment = one(objects, "Deployment")
        pod = f"{deployment['metadata']['name']}-pod"
        self._podman = podman
        self._container: Object = pods(objects)["Deployment"]["containers"][0]
        self.name = f"{pod}-{self._container['name']}"
        infra = json.loads(podman("pod", "inspect", pod).stdout)
        infra = infra[0] if isinstance(infra, list) else infra
        address = "{{range .NetworkSettings.Networks}}{{.IPAddress}}{{end}}"
        self._host = podman("inspect", "--format", address, infra["InfraContainerID"]).stdout.strip()

    def ask(self, path: str, body: object = None, *, port: str | int = "http") -> tuple[int, Any]:
        """Send one request; return the status and the answer."""
        ports = {entry["name"]: entry["containerPort"] for entry in self._container["ports"]}
        connection = http.client.HTTPConnection(self._host, ports.get(port, port), timeout=STARTED)
        try:
            content = json.dumps(body).encode() if body is not None else None
            connection.request("POST" if body is not None else "GET", path, content)
            response = connection.getresponse()
            return response.status, json.loads(response.read())
        finally:
            connection.close()

    def run(self, *words: str) -> str:
        """Run a program in the container; return what it prints."""
        return self._podman("exec", self.name, *words).stdout

    def wait_until_ready(self) -> None:
        """Probe as the kubelet would: alive soon, then ready, as the manifest asks."""
        until = time.monotonic() + STARTED
        for probe in ("startupProbe", "livenessProbe", "readinessProbe"):
            get = self._container[probe]["httpGet"]
            while not self._answers(get["path"], get["port"]):
                state = self._podman.state(self.name)
                assert state["Status"] == "running", self._podman.logs(self.name)
                assert time.monotonic() < until, self._podman.logs(self.name)
                time.sleep(0.1)

    def _answers(self, path: str, port: str | int) -> bool:
        try:
            return self.ask(path, port=port)[0] == 200
        except OSError:
            return False


def for_podman(objects: Sequence[Object], termination_log: Path | None = None) -> list[Object]:
    """Return the same objects without what only a cluster has, and nothing else changed.

    * Service and budget: podman has none.
    * Probes and hooks: podman would run curl inside the image. `Api` asks instead, what the manifest says.
    * An emptyDir is kept under the volume's own name, which all pods of the machine share: each gets a name.
    * Init containers stay when they have ended, for their logs.
    * `$(NAME)` in a variable's value is the kubelet's to replace, also where a ConfigMap of `envFrom` sets NAME.

    What `termination_log` names is mounted where the kubelet mounts such a file.
    """
    kept = copy.deepcopy([thing for thing in objects if thing["kind"] not in ("Service", "PodDisruptionBudget")])
    settings = {thing["metadata"]["name"]: thing["data"] for thing in kept if thing["kind"] == "ConfigMap"}
    for thing in kept:
        if thing["kind"] == "Deployment":
            thing["spec"]["replicas"] = 1
            thing["metadata"]["annotations"] = {"io.podman.annotations.init.container.type": "always"}
            _adapt(thing["spec"]["template"]["spec"], thing["metadata"]["name"], termination_log)
            for container in containers(thing["spec"]["template"]["spec"]):
                _expand(container, settings)
    return kept


def filling_pods(objects: Sequence[Object], names: Sequence[str]) -> list[Object]:
    """Return the Deployment's pods, under each of these names, as far as their init container, and what they need.

    podman starts one pod of a Deployment; these are several that start at once, and end.
    """
    kept = copy.deepcopy([thing for thing in objects if thing["kind"] in ("ConfigMap", "PersistentVolumeClaim")])
    for name in names:
        pod = copy.deepcopy(pods(objects)["Deployment"])
        pod |= {"containers": pod.pop("initContainers"), "restartPolicy": "Never"}
        _adapt(pod, name)
        kept.append({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name}, "spec": pod})
    return kept


def _expand(container: Object, settings: Mapping[str, Mapping[str, str]]) -> None:
    known: dict[str, str] = {}
    for source in container.get("envFrom", ()):
        known |= settings[source["configMapRef"]["name"]]
    for entry in container.get("env", ()):
        if "value" in entry:
            entry["value"] = re.sub(r"\$\((\w+)\)", lambda found: known[found[1]], entry["value"])


def _adapt(pod: Object, name: str, termination_log: Path | None = None) -> None:
    for container in containers(pod):
        for field in ("startupProbe", "livenessProbe", "readinessProbe", "lifecycle"):
            container.pop(field, None)
        for mount in container["volumeMounts"]:
            mount["name"] += f"-{name}"
        if termination_log:
            container["volumeMounts"].append({"name": "log", "mountPath": "/dev/termination-log"})
    for volume in pod["volumes"]:
        volume["name"] += f"-{name}"
    if termination_log:
        pod["volumes"].append({"name": "log", "hostPath": {"path": str(termination_log), "type": "File"}})
