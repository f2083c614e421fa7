"""The image that `cache-models export` writes, taken by podman and skopeo: one digest wherever it is."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import PROJECT
from tests.containers.exported import LOADED, Clone, Layout
from tests.containers.pods import Podman
from tests.containers.skopeo import copy, inspect, skopeo

pytestmark = pytest.mark.slow

WELL = "3 models in /baked{}: every byte as pinned."
VERIFY = ("verify", "--root")


@pytest.fixture(scope="module")
def repository(registry: str) -> str:
    """Where the images are pushed to."""
    return f"{registry}/cache-models-test/elsewhere"


@pytest.fixture(scope="module")
def init(exported: Clone, podman: Podman, repository: str) -> str:
    """The tool in an image of podman's, with this manifest and lock."""
    image = f"{repository}:init"
    exported.docker.build(exported.folder, "--target", "init", "--tag", image)
    exported.docker("push", "--quiet", image)
    podman("pull", "--quiet", "--tls-verify=false", image)
    return image


@pytest.fixture(params=["archive", "layout", "registry"])
def image(request: pytest.FixtureRequest, exported: Clone, podman: Podman, repository: str) -> Iterator[str]:
    """The image in podman, from each of the places that it can come from."""
    name = f"{repository}:models"
    if request.param == "archive":
        said = podman("load", "--input", exported.folder / "models.tar").stdout
        name = f"docker.io/library/{LOADED}"
        assert said == f"Loaded image: {name}\n"
    elif request.param == "layout":
        name = podman("pull", "--quiet", f"oci:{exported.layout.folder}:latest").stdout.strip()
    else:
        copy(f"oci:{exported.layout.folder}:latest", f"docker://{name}")
        podman("pull", "--quiet", "--tls-verify=false", name)
    yield name
    podman("rmi", "--force", name)


def test_podman_has_the_same_image(exported: Clone, podman: Podman, image: str) -> None:
    """The digest that `export` has printed, and every layer as it is."""
    (found,) = json.loads(podman("image", "inspect", image).stdout)
    # podman knows the digest of all platforms, and that of its own.
    assert exported.layout.digest in {found["Digest"], *(name.partition("@")[2] for name in found["RepoDigests"])}
    assert found["RootFS"]["Layers"] == exported.layout.layers


def test_a_container_of_podman_mounts_it(podman: Podman, image: str, init: str) -> None:
    """Every byte as pinned."""
    mount = f"type=image,source={image},target=/baked,subpath=/models"
    ran = podman("run", "--rm", "--network", "none", "--read-only", "--mount", mount, init, *VERIFY, "/baked")
    assert WELL.format("") in ran.stderr


def test_a_pod_mounts_it(podman: Podman, image: str, init: str, tmp_path: Path) -> None:
    """As an image volume, which is how the overlay `image-volume` gets it."""
    container = {
        "name": "verify",
        "image": init,
        "args": [*VERIFY, "/baked/models"],
        "volumeMounts": [{"name": "models", "mountPath": "/baked", "readOnly": True}],
    }
    name = f"exported-{podman.suffix}"
    pod: dict[str, Any] = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name}}
    pod["spec"] = {
        "containers": [container],
        "volumes": [{"name": "models", "image": {"reference": image, "pullPolicy": "Never"}}],
        "restartPolicy": "Never",
    }
    with podman.playing([pod], tmp_path) as played:
        assert played.returncode == 0, played.stderr
        assert podman("wait", f"{name}-verify").stdout == "0\n"
        assert WELL.format("/models") in podman.logs(f"{name}-verify")


def test_skopeo_copies_it_from_place_to_place(exported: Clone, repository: str, tmp_path: Path) -> None:
    """A layout, an archive, a registry, a directory, and a layout again: one digest, and the same blobs."""
    first, last = exported.layout, Layout(tmp_path / "again.oci")
    places = [
        f"oci:{first.folder}:latest",
        f"oci-archive:{tmp_path}/copied.tar:latest",
        f"docker://{repository}:copied",
        f"dir:{tmp_path}/directory",
        f"oci:{last.folder}:latest",
    ]
    for source, target in pairwise(places):
        copy(source, target)
        assert inspect(target)["Layers"] == first.layers
    assert last.digest == first.digest
    assert {blob.name for blob in last.blobs()} == {blob.name for blob in first.blobs()}


def test_skopeo_reads_what_was_written(exported: Clone) -> None:
    """The layout and the archive are the same image, for two platforms."""
    for place in (f"oci:{exported.layout.folder}:latest", f"oci-archive:{exported.folder}/models.tar"):
        found = inspect(place)
        assert (found["Digest"], found["Layers"]) == (exported.layout.digest, exported.layout.layers)
        for architecture in ("amd64", "arm64"):
            assert inspect(place, "--override-arch", architecture)["Architecture"] == architecture


def test_the_ways_to_plain_layers_that_the_page_names(
    exported: Clone, podman: Podman, repository: str, tmp_path: Path
) -> None:
    """docs/image.md: skopeo compresses unless it is told not to. `sync` refuses that, and reads each way out."""
    page = (PROJECT / "docs/image.md").read_text().partition("### Layers that are compressed")[2].partition("\n## ")[0]
    from_registry, from_podman, decompress, pack = re.findall("`((?:skopeo copy|podman save) [^`]+)`", page)
    archive, compressed = tmp_path / "models.tar", f"oci-archive:{tmp_path}/compressed.tar"
    registry, image = f"docker://{repository}:plain", f"{repository}:compressed"

    def words(command: str) -> list[str]:
        places = {"models.tar": str(archive), "dir:plain": f"dir:{tmp_path}/plain", "SOURCE": compressed}
        places |= {"docker://…": registry, "IMAGE": image}
        for name, place in places.items():
            command = command.replace(name, place)
        return command.split()[1:]

    def synced(source: str, number: int) -> str:
        ran = exported("sync", "--locked", "--root", str(tmp_path / str(number)), "--from", source, check=False)
        return f"{ran.exit_code} {ran.err}"

    copy(f"oci:{exported.layout.folder}:latest", registry)
    skopeo("copy", "--src-tls-verify=false", registry, f"{compressed}:latest")
    refused = synced(compressed, 0)
    assert refused.startswith("2 ")
    assert "skopeo copy --all --preserve-digests" in refused

    skopeo(*words(from_registry), "--src-tls-verify=false")
    assert synced(f"oci-archive:{archive}", 1).startswith("0 ")
    archive.unlink()
    for command in (decompress, pack):
        skopeo(*words(command))
    assert synced(f"oci-archive:{archive}", 2).startswith("0 ")
    archive.unlink()
    pulled = podman("pull", "--quiet", compressed).stdout.strip()
    podman("tag", pulled, image)
    try:
        podman(*words(from_podman))
    finally:
        podman("rmi", "--force", pulled)
    assert synced(f"oci-archive:{archive}", 3).startswith("0 ")
