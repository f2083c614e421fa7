"""The documents of an image, by https://github.com/opencontainers/image-spec, and those of others."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelcache.image.descriptors import LAYER_TYPE, Descriptor, DocumentError, Platform
from modelcache.image.documents import (
    ARCHIVE_LIST_NAME,
    INDEX_NAME,
    LAYOUT,
    ImageDocuments,
    annotations_of,
    canonical_json,
    config_of,
    image_documents,
    index_with,
    read_index,
    read_manifest,
    references_of,
)
from tests.conftest import PROJECT
from tests.support.faults.fuzz import BUDGET, json_values
from tests.support.images import fixed_image

AMD, ARM = Platform.parse("linux/amd64"), Platform.parse("linux/arm64")
DIGEST = re.compile(r"sha256:[0-9a-f]{64}")
LAYERS = [Descriptor(LAYER_TYPE, f"sha256:{str(n) * 64}", 1024 + n, {"key": "value"}) for n in (1, 2, 3)]


def documents(*platforms: Platform, layers: list[Descriptor] = LAYERS) -> ImageDocuments:
    return image_documents(layers, [f"acme/{layer.size}" for layer in layers], platforms or (AMD, ARM))


def read(found: ImageDocuments, descriptor: Mapping[str, Any]) -> dict[str, Any]:
    """The document that a descriptor refers to: of its size, and with its digest."""
    content = found.blobs[descriptor["digest"].partition(":")[2]]
    assert hashlib.sha256(content).hexdigest() == descriptor["digest"].partition(":")[2]
    assert len(content) == descriptor["size"]
    document: dict[str, Any] = json.loads(content)
    return document


def test_the_image_is_an_index_of_a_manifest_a_platform() -> None:
    """Each field that the specification requires, with its type; and the layers, which are the same for all."""
    found = documents()
    assert found.image.media_type == "application/vnd.oci.image.index.v1+json"
    index = read(found, found.image.table())
    assert (index["schemaVersion"], index["mediaType"]) == (2, "application/vnd.oci.image.index.v1+json")
    assert [one["platform"] for one in index["manifests"]] == [
        {"architecture": "amd64", "os": "linux"},
        {"architecture": "arm64", "os": "linux"},
    ]
    for one in index["manifests"]:
        assert one["mediaType"] == "application/vnd.oci.image.manifest.v1+json"
        manifest = read(found, one)
        assert set(manifest) == {"schemaVersion", "mediaType", "config", "layers"}
        assert (manifest["schemaVersion"], manifest["mediaType"]) == (2, one["mediaType"])
        assert manifest["config"]["mediaType"] == "application/vnd.oci.image.config.v1+json"
        assert manifest["layers"] == [
            {
                "mediaType": "application/vnd.oci.image.layer.v1.tar",
                "digest": layer.digest,
                "size": layer.size,
                "annotations": {"key": "value"},
            }
            for layer in LAYERS
        ]
        config = read(found, manifest["config"])
        assert {key: config[key] for key in ("os", "architecture")} == one["platform"]
        assert config["rootfs"] == {"type": "layers", "diff_ids": [layer.digest for layer in LAYERS]}
        assert len(config["history"]) == len(LAYERS)
        assert not any(entry.get("empty_layer") for entry in config["history"])
        assert [entry["created_by"] for entry in config["history"]] == [
            f"cache-models export: acme/{layer.size}" for layer in LAYERS
        ]
        assert {entry["created"] for entry in config["history"]} == {config["created"]} == {"1980-01-01T00:00:00Z"}
    assert len(found.blobs) == 5


def test_a_layout_names_the_image_for_its_readers() -> None:
    """`oci-layout:DIR:latest` finds the tag, containerd the name."""
    (table,) = json.loads(index_with(documents().image))["manifests"]
    assert table["annotations"] == {
        "org.opencontainers.image.ref.name": "latest",
        "io.containerd.image.name": "docker.io/library/cache-models-models:latest",
    }
    assert json.loads(LAYOUT) == {"imageLayoutVersion": "1.0.0"}
    assert (INDEX_NAME, ARCHIVE_LIST_NAME) == ("index.json", "manifest.json")


def test_older_docker_stores_get_a_list() -> None:
    """Of one platform, the first, because they know no index."""
    found = documents(ARM, AMD)
    (entry,) = json.loads(found.archive_list)
    assert set(entry) == {"Config", "RepoTags", "Layers"}
    assert entry["RepoTags"] == ["cache-models-models:latest"]
    assert entry["Layers"] == [f"blobs/sha256/{layer.hex}" for layer in LAYERS]
    folder, _, name = entry["Config"].rpartition("/")
    assert folder == "blobs/sha256"
    assert json.loads(found.blobs[name])["architecture"] == "arm64"


def test_no_date_no_version_no_order_of_keys() -> None:
    """Sorted keys, no spaces, ASCII: one way to write a document."""
    for content in [*documents().blobs.values(), documents().archive_list, index_with(documents().image)]:
        text = json.dumps(json.loads(content), sort_keys=True, separators=(",", ":"))
        assert content == text.encode("ascii")
    assert documents() == documents()


@pytest.mark.parametrize(
    ("text", "table"),
    [
        ("linux/amd64", {"os": "linux", "architecture": "amd64"}),
        ("linux/arm/v7", {"os": "linux", "architecture": "arm", "variant": "v7"}),
        ("linux/riscv64", {"os": "linux", "architecture": "riscv64"}),
        ("linux/mips64le", {"os": "linux", "architecture": "mips64le"}),
    ],
)
def test_a_platform(text: str, table: dict[str, str]) -> None:
    assert Platform.parse(text).table() == table


@pytest.mark.parametrize(
    "text",
    ["", "linux", "amd64", "linux/", "windows/amd64", "linux/AMD64", "linux/arm/v7/x", "linux/arm "],
)
def test_no_platform(text: str) -> None:
    with pytest.raises(ValueError, match="is not a platform such as linux/amd64"):
        Platform.parse(text)


def test_a_platform_changes_its_own_documents_alone() -> None:
    """One more platform leaves those of the others, and all layers; only the index is another."""
    one, two = documents(AMD), documents(AMD, ARM)
    assert one.image.digest != two.image.digest
    assert set(one.blobs) - set(two.blobs) == {one.image.hex}
    assert len(two.blobs) - len(one.blobs) == 2
    assert one.archive_list == two.archive_list
    assert documents(ARM, AMD).image.digest != two.image.digest


# The lock, prefix and platforms of `fixed_image` have these digests, on every machine and in every Python.
FIXED = {
    "index": "sha256:e0a2185b9ce4af26a9aac8df479f924f27e02e826e8bf3dedb036e1044887bcf",
    "configs": [
        "sha256:3a4edd4ef20d56093bb043c1f71482916c4df285f52b16180c2c303d6ac1ee38",
        "sha256:cfe66f1fe7c81094f207f6fc7c1a47e1cf140b433d9140f4145b3f455ffaca2b",
    ],
    "layers": [
        "sha256:1ca02006662ba6a3b1ded66e9d9eef4ecc75926c8d106eb971351ff432912345",
        "sha256:b5e78159933d94b43306c92ba91265186923d948d603c3b3fe1bcd01737cf58e",
        "sha256:72f0c4e6174af5e75cfea55beea0b16bc2ed34895595d3c56097da5b4e48ff69",
        "sha256:1b6fd7b049d0bb4b4d10c1f293b928a67e7313cd9d67e4bedf8e16ab673963b6",
    ],
}


def test_equal_locks_give_equal_digests_everywhere() -> None:
    """Whatever changes them makes every image of every user new: do it on purpose, and say so."""
    assert fixed_image() == FIXED


def pythons() -> list[str]:
    """The Pythons of this machine that the tool runs under, of each version one; this one at least."""
    found = {sys.version_info[:2]: sys.executable}
    for minor in range(11, 30):
        name = f"python3.{minor}"
        path = shutil.which(name)
        installed = sorted(Path(path).parents[1].glob(f"versions/3.{minor}.*/bin/{name}")) if path else []  # of pyenv
        for one in [*map(str, installed), *([path] if path else [])]:
            if subprocess.run([one, "-V"], capture_output=True, check=False).returncode == 0:
                found.setdefault((3, minor), one)
                break
    return list(found.values())


def test_other_pythons_agree() -> None:
    """With another locale, zone and seed of hashes."""
    code = "import json; from tests.support.images import fixed_image; print(json.dumps(fixed_image()))"
    env = {"PYTHONPATH": str(PROJECT), "TZ": "Asia/Tokyo", "LC_ALL": "C", "PYTHONHASHSEED": "7"}
    for python in pythons():
        ran = subprocess.run([python, "-Bc", code], env=env, capture_output=True, text=True, check=False)
        assert ran.returncode == 0, ran.stderr
        assert json.loads(ran.stdout) == FIXED, python


def index(*tables: object, **rest: object) -> bytes:
    return json.dumps({"schemaVersion": 2, "manifests": tables, **rest}).encode()


def table(**changes: object) -> dict[str, object]:
    made = {"mediaType": LAYER_TYPE, "digest": f"sha256:{'a' * 64}", "size": 7, **changes}
    return {key: value for key, value in made.items() if value is not None}


def test_other_images_of_a_layout_stay() -> None:
    """As they are, also those that are not read; the one of our tag is replaced, and is the last."""
    foreign = table(
        annotations={"org.opencontainers.image.ref.name": "v1"}, platform={"os": "windows"}, artifactType="x"
    )
    nameless = table(digest=f"sha256:{'b' * 64}")
    unread = [table(digest=f"sha512:{'d' * 128}"), table(annotations=[]), table(size=None)]
    ours = table(digest=f"sha256:{'c' * 64}", annotations={"org.opencontainers.image.ref.name": "latest"})
    image = documents().image
    found = json.loads(index_with(image, index(ours, foreign, nameless, *unread, "none", annotations={"a": "b"})))
    assert found["manifests"] == [foreign, nameless, *unread, image.table()]
    assert found["annotations"] == {"a": "b"}
    assert index_with(image, index_with(image)) == index_with(image)
    assert index_with(image, index()) == index_with(image)


def test_what_engines_write_is_read() -> None:
    """Docker's media types, and attestations, which are no image."""
    docker = "application/vnd.docker.distribution.manifest"
    tables = [
        table(mediaType=f"{docker}.list.v2+json"),
        table(mediaType=f"{docker}.v2+json", annotations={}),
        table(
            mediaType="application/vnd.oci.image.manifest.v1+json",
            annotations={"vnd.docker.reference.type": "attestation-manifest"},
            platform={"os": "unknown", "architecture": "unknown"},
        ),
        table(mediaType="application/vnd.docker.image.rootfs.diff.tar", annotations=None),
        table(mediaType="application/vnd.docker.image.rootfs.diff.tar.gzip"),
        table(mediaType="application/vnd.oci.image.layer.v1.tar+zstd"),
    ]
    found = read_index(index(*tables))
    assert [one.is_index for one in found] == [True, *[False] * 5]
    assert [one.is_manifest for one in found] == [False, True, *[False] * 4]
    assert [one.is_plain_layer for one in found] == [False, False, False, True, False, False]
    assert {one.digest for one in found} == {f"sha256:{'a' * 64}"}


@pytest.mark.parametrize(
    ("table", "platform"),
    [
        ({"os": "linux", "architecture": "arm64", "variant": "v8"}, Platform("linux", "arm64", "v8")),
        (
            {"os": "linux", "architecture": "amd64", "os.version": "6.1", "os.features": ["a", "b"]},
            Platform("linux", "amd64", os_version="6.1", os_features=("a", "b")),
        ),
    ],
)
def test_a_platform_that_is_read_is_written_again(table: dict[str, object], platform: Platform) -> None:
    (found,) = read_index(
        index({"mediaType": LAYER_TYPE, "digest": f"sha256:{'a' * 64}", "size": 7, "platform": table})
    )
    assert found.platform == platform
    assert found.table()["platform"] == table


def test_of_a_platform_only_what_is_of_its_type_is_read() -> None:
    wrong = {"os": "linux", "architecture": "arm", "variant": 7, "os.version": ["6"], "os.features": [1, "a"]}
    (found, other) = read_index(index(table(platform=wrong), table(platform={**wrong, "os.features": "a"})))
    assert found.platform == Platform("linux", "arm", os_features=("a",))
    assert other.platform == Platform("linux", "arm")


def test_an_artifact_in_an_index_is_no_image() -> None:
    """Such as an index of a lazy puller beside the images; a manifest may also name the type of an image's config."""
    kind = "application/vnd.oci.image.manifest.v1+json"
    tables = [
        table(mediaType=kind, artifactType="application/vnd.amazon.soci.index.v2+json"),
        table(mediaType=kind, artifactType="application/vnd.oci.image.config.v1+json"),
        table(mediaType=kind, artifactType=5),
    ]
    found = read_index(index(*tables))
    assert [one.is_manifest for one in found] == [False, True, True]
    assert [one.table() for one in found[:2]] == tables[:2]


def test_the_config_of_a_manifest() -> None:
    for kind in ("application/vnd.oci.image.config.v1+json", "application/vnd.docker.container.image.v1+json"):
        manifest = {"schemaVersion": 2, "config": table(mediaType=kind, size=1), "layers": [table(size=2)]}
        assert config_of(json.dumps(manifest).encode()).size == 1
    for wrong, words in [
        (table(mediaType="application/vnd.cncf.helm.config.v1+json"), "is no image of a container: its config is of"),
        (None, "has an entry without mediaType"),
    ]:
        with pytest.raises(DocumentError, match=words):
            config_of(json.dumps({"schemaVersion": 2, "config": wrong, "layers": []}).encode())


def test_the_annotations_of_a_document_are_texts() -> None:
    assert annotations_of(index(annotations={"a": "b", "c": 1})) == {"a": "b"}
    assert annotations_of(index()) == annotations_of(index(annotations=["a"])) == {}


def test_numbers_that_json_cannot_write_are_refused() -> None:
    for text in (b"NaN", b"-Infinity", b"1e999"):
        with pytest.raises(DocumentError, match="is not JSON"):
            read_index(b'{"schemaVersion":2,"manifests":[],"x":' + text + b"}")


def test_a_document_that_is_nested_too_deep_is_not_written() -> None:
    deep: list[object] = []
    for _ in range(200_000):
        deep = [deep]
    with pytest.raises(DocumentError, match="is nested too deep"):
        canonical_json(deep)


def test_the_references_of_a_document() -> None:
    """Of a manifest its config and layers, of an index its manifests; what it refers to besides is ignored."""
    manifest = json.dumps(
        {
            "schemaVersion": 2,
            "config": table(size=1),
            "layers": [table(size=2), table(size=3)],
            "subject": table(size=4),
        }
    ).encode()
    assert [one.size for one in references_of(manifest)] == [1, 2, 3]
    assert [one.size for one in read_manifest(manifest)] == [2, 3]
    assert [one.size for one in references_of(index(table(size=5)))] == [5]
    assert references_of(b'{"schemaVersion":2}') == []


MALFORMED: dict[str, tuple[bytes, str]] = {
    "nothing": (b"", "is not JSON"),
    "half of it": (index(table())[:-3], "is not JSON"),
    "no UTF-8": (b'{"a":"\xff"}', "is not JSON"),
    "too deep": (b"[" * 100_000, "is not JSON"),
    "a number without end": (b'{"schemaVersion":' + b"9" * 10_000 + b"}", "is not JSON"),
    "a list": (b"[]", "is not of schema version 2"),
    "schema 1": (b'{"schemaVersion":1,"manifests":[],"layers":[]}', "is not of schema version 2"),
    "no version": (b'{"manifests":[],"layers":[]}', "is not of schema version 2"),
}
WRONG_LISTS: dict[str, object] = {"none": None, "a number": 5, "a text": "abc", "an object": {"a": 1}, "true": True}
WRONG_TABLES: dict[str, tuple[object, str]] = {
    "a text": ("abc", "without mediaType, digest and size"),
    "null": (None, "without mediaType, digest and size"),
    "no type": (table(mediaType=None), "without mediaType, digest and size"),
    "no digest": (table(digest=None), "without mediaType, digest and size"),
    "no size": (table(size=None), "without mediaType, digest and size"),
    "a size in words": (table(size="7"), "without mediaType, digest and size"),
    "half a byte": (table(size=0.5), "without mediaType, digest and size"),
    "a size below 0": (table(size=-1), "with a size that is no number of bytes"),
    "a size of true": (table(size=True), "with a size that is no number of bytes"),
    "a huge size": (table(size=1 << 51), "with a size that is no number of bytes"),
    "SHA-512": (table(digest=f"sha512:{'a' * 128}"), "which is no SHA-256"),
    "a short digest": (table(digest="sha256:abc"), "which is no SHA-256"),
    "capitals": (table(digest=f"sha256:{'A' * 64}"), "which is no SHA-256"),
    "a path": (table(digest=f"sha256:../../../../{'a' * 64}"), "which is no SHA-256"),
    "a line more": (table(digest=f"sha256:{'a' * 64}\n"), "which is no SHA-256"),
    "annotations in a list": (table(annotations=["a"]), "with annotations that are not strings"),
    "an annotation of a number": (table(annotations={"a": 1}), "with annotations that are not strings"),
}
READERS: dict[str, tuple[Callable[[bytes], object], str]] = {
    "index": (read_index, "manifests"),
    "index with": (lambda content: index_with(documents().image, content), "manifests"),
    "manifest": (read_manifest, "layers"),
    "references of an index": (references_of, "manifests"),
    "references of a manifest": (references_of, "layers"),
}


@pytest.mark.parametrize(("reader", "key"), READERS.values(), ids=READERS)
def test_malformed_documents_are_refused(reader: Callable[[bytes], object], key: str) -> None:
    for name, (content, words) in MALFORMED.items():
        with pytest.raises(DocumentError, match=words):
            pytest.fail(f"{name}: {reader(content)!r}")
    for name, value in WRONG_LISTS.items():
        with pytest.raises(DocumentError, match=f"has no list of {key}"):
            pytest.fail(f"{name}: {reader(json.dumps({'schemaVersion': 2, key: value}).encode())!r}")
    for name, (entry, words) in WRONG_TABLES.items() if reader is not READERS["index with"][0] else ():
        with pytest.raises(DocumentError, match=words):
            pytest.fail(f"{name}: {reader(json.dumps({'schemaVersion': 2, key: [table(), entry]}).encode())!r}")


def test_a_wrong_config_is_refused() -> None:
    for name, (entry, words) in WRONG_TABLES.items():
        with pytest.raises(DocumentError, match=words):
            pytest.fail(f"{name}: {references_of(json.dumps({'schemaVersion': 2, 'config': entry}).encode())!r}")
        with pytest.raises(DocumentError, match=words):
            pytest.fail(f"{name}: {config_of(json.dumps({'schemaVersion': 2, 'config': entry}).encode())!r}")


WORDS = ("schemaVersion", "manifests", "layers", "config", "mediaType", "digest", "size", "annotations", LAYER_TYPE)


@BUDGET
@given(json_values(*WORDS), st.sampled_from(["manifests", "layers", "config"]), json_values(*WORDS))
def test_any_json_is_read_or_refused(value: object, key: str, other: object) -> None:
    """With nothing else than DocumentError."""
    documents_of_it = [value, {"schemaVersion": 2, key: value}, {"schemaVersion": 2, key: [value, table(size=other)]}]
    for content in (json.dumps(one).encode() for one in documents_of_it):
        for reader, _ in READERS.values():
            try:
                reader(content)
            except DocumentError:
                continue
