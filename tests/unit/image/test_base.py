"""Models on top of another image: what stays as it is, what is added, and which images are refused."""

from __future__ import annotations

import copy
import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelcache.image.base import (
    MOST_LAYERS_IN_ALL,
    BaseImage,
    check_layer_count,
    documents_on,
    platforms_of,
    read_base,
)
from modelcache.image.descriptors import LAYER_TYPE, SET_DIGEST, Descriptor, DocumentError, Platform
from modelcache.image.documents import ImageDocuments
from tests.support.faults.fuzz import BUDGET, json_values, mutated

Document = dict[str, Any]

OCI, DOCKER = "application/vnd.oci.image", "application/vnd.docker"
MANIFEST_TYPE, DOCKER_MANIFEST_TYPE = f"{OCI}.manifest.v1+json", f"{DOCKER}.distribution.manifest.v2+json"
AMD = Platform("linux", "amd64")
ARM = Platform("linux", "arm64", "v8", "6.1", ("feature",))
NAME, DIGEST = "docker.io/library/python:3.12-slim", f"sha256:{'d' * 64}"


def digest(number: int) -> str:
    return f"sha256:{number:064x}"


def layer(number: int, kind: str = f"{OCI}.layer.v1.tar+gzip", **more: object) -> Document:
    return {"mediaType": kind, "digest": digest(number), "size": 1000 + number, **more}


def manifest(*layers: Document, config: str = f"{OCI}.config.v1+json", **more: object) -> Document:
    return {
        "schemaVersion": 2,
        "mediaType": MANIFEST_TYPE,
        "config": {"mediaType": config, "digest": digest(99), "size": 7},
        "layers": list(layers),
        **more,
    }


CONFIG: Document = {
    "architecture": "amd64",
    "os": "linux",
    "created": "2025-05-05T05:05:05.123456789Z",
    "author": "Größe",
    "moby.buildkit.buildinfo.v1": {"unknown": [1, 2.5, None, True, {"a": "b"}]},
    "config": {
        "User": "app",
        "Env": [
            "PATH=/usr/bin",
            "HF_HUB_CACHE=/cache",
            "LANG=C.UTF-8",
            "HF_HUB_OFFLINE=0",
            "HF_HUB_CACHE_X=1",
            "EMPTY",
        ],
        "Entrypoint": ["python"],
        "Cmd": ["app.py"],
        "Labels": {"a": "b"},
        "WorkingDir": "/app",
        "ExposedPorts": {"80/tcp": {}},
        "ArgsEscaped": True,
    },
    "rootfs": {"type": "layers", "diff_ids": [digest(11), digest(12)]},
    "history": [
        {"created": "2025-05-05T05:05:05Z", "created_by": "ADD rootfs"},
        {"created": "2025-05-05T05:05:05Z", "created_by": "ENV a=b", "empty_layer": True},
        {"created": "2025-05-05T05:05:05Z", "created_by": "RUN pip install", "comment": "buildkit.dockerfile.v0"},
    ],
}
LAYERS = (layer(1), layer(2, f"{OCI}.layer.v1.tar+zstd", annotations={"kept": "yes"}))
OURS = [Descriptor(LAYER_TYPE, digest(n), n, {SET_DIGEST: "e" * 64}) for n in (21, 22)]


def read(
    document: Document | None = None,
    config: object = CONFIG,
    *,
    platform: Platform | None = AMD,
    kind: str = MANIFEST_TYPE,
) -> BaseImage:
    content = json.dumps(document or manifest(*LAYERS)).encode()
    return read_base(Descriptor.of(kind, content, platform), content, json.dumps(config).encode())


def put_on(*bases: BaseImage, prefix: str = "models") -> ImageDocuments:
    return documents_on(bases, OURS, ["acme/a", "acme/b"], prefix=prefix, name=NAME, digest=DIGEST)


def blob(found: ImageDocuments, table: Mapping[str, Any]) -> Document:
    """The document that a descriptor refers to, of its size and digest."""
    content = found.blobs[table["digest"].removeprefix("sha256:")]
    assert hashlib.sha256(content).hexdigest() == table["digest"].removeprefix("sha256:")
    assert len(content) == table["size"]
    document: Document = json.loads(content)
    return document


def manifests(found: ImageDocuments) -> list[Document]:
    return [blob(found, table) for table in blob(found, found.image.table())["manifests"]]


def config_on(config: Document) -> Document:
    (made,) = manifests(found := put_on(read(config=config)))
    return blob(found, made["config"])


def changed(*path: str, to: object) -> Document:
    """The config with another value at a path; without the key for `...`."""
    made = copy.deepcopy(CONFIG)
    place = made
    for key in path[:-1]:
        place = place[key]
    if to is ...:
        del place[path[-1]]
    else:
        place[path[-1]] = to
    return made


def test_the_layers_of_the_base_are_untouched_and_ours_lie_above_them() -> None:
    (made,) = manifests(put_on(read()))
    assert made["layers"] == [*LAYERS, *(one.table() for one in OURS)]
    assert set(made) == {"schemaVersion", "mediaType", "config", "layers", "annotations"}
    assert (made["schemaVersion"], made["mediaType"]) == (2, MANIFEST_TYPE)
    assert made["config"]["mediaType"] == f"{OCI}.config.v1+json"


def test_the_manifest_names_the_base() -> None:
    (made,) = manifests(put_on(read()))
    assert made["annotations"] == {
        "org.opencontainers.image.base.name": NAME,
        "org.opencontainers.image.base.digest": DIGEST,
    }


def test_docker_types_become_those_of_oci_for_the_same_bytes() -> None:
    kinds = {"": "", ".gzip": "+gzip", ".zstd": "+zstd"}
    layers = [layer(n, f"{DOCKER}.image.rootfs.diff.tar{kind}") for n, kind in enumerate(kinds)]
    config = changed("rootfs", "diff_ids", to=[digest(n) for n in range(3)])
    document = manifest(*layers, config=f"{DOCKER}.container.image.v1+json", mediaType=DOCKER_MANIFEST_TYPE)
    (made,) = manifests(found := put_on(read(document, config, kind=DOCKER_MANIFEST_TYPE)))
    assert made["layers"][:3] == [layer(n, f"{OCI}.layer.v1.tar{kind}") for n, kind in enumerate(kinds.values())]
    assert DOCKER not in b"".join(found.blobs.values()).decode()
    assert [one.digest for one in read(document, config).layers] == [digest(0), digest(1), digest(2)]


def test_the_config_keeps_everything_and_gets_what_models_need() -> None:
    expected = copy.deepcopy(CONFIG)
    expected["rootfs"]["diff_ids"] += [digest(21), digest(22)]
    expected["history"] += [
        {"created": "1980-01-01T00:00:00Z", "created_by": f"cache-models push: acme/{name}"} for name in "ab"
    ]
    expected["config"]["Env"] = [
        "PATH=/usr/bin",
        "LANG=C.UTF-8",
        "HF_HUB_CACHE_X=1",
        "EMPTY",
        "CACHE_MODELS_ROOT=/models",
        "HF_HUB_CACHE=/models/hub",
        "HF_HUB_OFFLINE=1",
    ]
    assert config_on(CONFIG) == expected


def test_the_environment_names_the_prefix() -> None:
    (made,) = manifests(found := put_on(read(), prefix="srv/models"))
    env = blob(found, made["config"])["config"]["Env"]
    assert env[-3:] == ["CACHE_MODELS_ROOT=/srv/models", "HF_HUB_CACHE=/srv/models/hub", "HF_HUB_OFFLINE=1"]


@pytest.mark.parametrize(
    "config",
    [
        changed("config", to=...),
        changed("config", to=None),
        changed("config", to={}),
        changed("config", "Env", to=None),
    ],
)
def test_a_base_without_an_environment_gets_one(config: Document) -> None:
    assert len(config_on(config)["config"]["Env"]) == 3


def test_a_base_without_a_date_gets_none() -> None:
    assert "created" not in config_on(changed("created", to=...))


@pytest.mark.parametrize(
    "history",
    [
        ...,
        None,
        CONFIG["history"][:2],
        [*CONFIG["history"], {"created_by": "one more"}],
        "text",
        [*CONFIG["history"][:2], "text"],
    ],
)
def test_a_history_that_does_not_match_the_layers_stays_as_it_is(history: object) -> None:
    config = changed("history", to=history)
    made = config_on(config)
    assert made.get("history", ...) == config.get("history", ...)
    assert len(made["rootfs"]["diff_ids"]) == 4


def test_a_base_without_layers_is_taken() -> None:
    config = {"os": "linux", "architecture": "amd64", "rootfs": {"type": "layers", "diff_ids": []}}
    (made,) = manifests(found := put_on(read(manifest(), config)))
    assert made["layers"] == [one.table() for one in OURS]
    assert len(blob(found, made["config"])["history"]) == 2


def test_an_index_has_the_platforms_of_the_base() -> None:
    """As the base's index names them, in its order; and what one platform has is its own."""
    arm = changed("config", "User", to="arm")
    found = put_on(read(platform=ARM, config=arm), read())
    index = blob(found, found.image.table())
    assert (found.image.media_type, index["mediaType"]) == (f"{OCI}.index.v1+json", f"{OCI}.index.v1+json")
    assert [one["platform"] for one in index["manifests"]] == [
        {
            "os": "linux",
            "architecture": "arm64",
            "variant": "v8",
            "os.version": "6.1",
            "os.features": ["feature"],
        },
        {"os": "linux", "architecture": "amd64"},
    ]
    users = [blob(found, one["config"])["config"]["User"] for one in manifests(found)]
    assert users == ["arm", "app"]
    assert len(found.blobs) == 5


def test_a_single_manifest_has_the_platform_of_its_config() -> None:
    config = {**CONFIG, "architecture": "arm", "variant": "v7"}
    found = put_on(read(config=config, platform=None))
    (one,) = blob(found, found.image.table())["manifests"]
    assert one["platform"] == {"os": "linux", "architecture": "arm", "variant": "v7"}


def test_equal_bases_and_layers_give_equal_bytes() -> None:
    """Also if the base's documents have their keys in another order; and one way to write a document."""
    turned = {key: CONFIG[key] for key in reversed(CONFIG)}
    assert put_on(read()) == put_on(read(config=turned))
    assert put_on(read()).image.digest != put_on(read(config=changed("author", to="x"))).image.digest
    for content in put_on(read()).blobs.values():
        assert content == json.dumps(json.loads(content), sort_keys=True, separators=(",", ":")).encode("ascii")


def test_it_goes_to_a_registry_alone() -> None:
    """So it has no list for older Docker stores, and its index no name of an engine."""
    assert put_on(read()).archive_list == b""
    assert put_on(read()).image.annotations == {}


def test_reading_changes_nothing_of_the_base() -> None:
    base = read()
    put_on(base)
    assert base.config == CONFIG


FOREIGN = f"{DOCKER}.image.rootfs.foreign.diff.tar.gzip"
WINDOWS = "is for windows, and models are put on images for Linux"
REFUSED: dict[str, tuple[Callable[[], object], str]] = {
    "no diff_ids": (lambda: read(config=changed("rootfs", to={})), "has a config without a list of rootfs.diff_ids"),
    "no rootfs": (lambda: read(config=changed("rootfs", to=...)), "has a config without a list of rootfs.diff_ids"),
    "diff_ids of numbers": (lambda: read(config=changed("rootfs", "diff_ids", to=[1, 2])), "that are no SHA-256"),
    "one diff_id": (
        lambda: read(config=changed("rootfs", "diff_ids", to=[digest(1)])),
        "has 2 layers, and a config with rootfs.diff_ids of 1",
    ),
    "no layers": (lambda: read({**manifest(), "layers": None}), "has no list of layers"),
    "a foreign layer": (lambda: read(manifest(layer(1, FOREIGN), layer(2))), "lets no other registry hold"),
    "a layer not to distribute": (
        lambda: read(manifest(layer(1), layer(2, f"{OCI}.layer.nondistributable.v1.tar"))),
        "lets no other registry hold",
    ),
    "an encrypted layer": (
        lambda: read(manifest(layer(1), layer(2, f"{OCI}.layer.v1.tar+gzip+encrypted"))),
        "which is no layer of a file system",
    ),
    "a Helm chart": (
        lambda: read(manifest(*LAYERS, config="application/vnd.cncf.helm.config.v1+json")),
        "is no image of a container: its config is of type 'application/vnd.cncf.helm",
    ),
    "an artifact": (
        lambda: read(manifest(*LAYERS, config="application/vnd.oci.empty.v1+json")),
        "is no image of a container",
    ),
    "Windows": (lambda: read(config=changed("os", to="windows")), WINDOWS),
    "Windows in the index": (lambda: read(platform=Platform("windows", "amd64")), WINDOWS),
    "Windows alone": (lambda: read(config=changed("os", to="windows"), platform=None), WINDOWS),
    "an os of a number": (lambda: read(config=changed("os", to=1)), "is for 1, and"),
    "no platform": (
        lambda: read(config=changed("architecture", to=...), platform=None),
        "has a config without os and architecture",
    ),
    "schema 1": (lambda: read({**manifest(*LAYERS), "schemaVersion": 1}), "is not of schema version 2"),
    "schema 1, signed": (
        lambda: read(kind=f"{DOCKER}.distribution.manifest.v1+prettyjws"),
        "is of schema version 1",
    ),
    "schema 1, plain": (lambda: read(kind=f"{DOCKER}.distribution.manifest.v1+json"), "is of schema version 1"),
    "a config of a list": (lambda: read(config=[]), "is no JSON object"),
    "a config that is too deep": (
        lambda: read_base(Descriptor.of(MANIFEST_TYPE, b""), json.dumps(manifest()).encode(), b'{"a":' + b"[" * 10**5),
        "is not JSON",
    ),
    "settings in a list": (lambda: read(config=changed("config", to=[1])), "whose `config` is not an object"),
    "Env of a text": (lambda: read(config=changed("config", "Env", to="A=b")), "whose `Env` is not a list of strings"),
    "Env of numbers": (lambda: read(config=changed("config", "Env", to=[1])), "whose `Env` is not a list of strings"),
}


@pytest.mark.parametrize(("make", "words"), REFUSED.values(), ids=REFUSED)
def test_other_bases_are_refused(make: Callable[[], object], words: str) -> None:
    with pytest.raises(DocumentError) as caught:
        make()
    assert words in str(caught.value)


def test_models_are_not_stacked_on_models() -> None:
    """An image that --base made is told by its layers; the image that it was made of is named."""
    found = put_on(read())
    (made,) = manifests(found)
    config = blob(found, made["config"])
    with pytest.raises(DocumentError, match="has models of cache-models in it already") as caught:
        read(made, config)
    assert str(caught.value).endswith(f"name the image without them, which is {NAME}")
    with pytest.raises(DocumentError, match=r"name the image without them$"):
        read({**made, "annotations": {}}, {**config, "history": []})


def test_models_are_told_by_the_history_where_an_engine_lost_the_annotations() -> None:
    found = put_on(read())
    (made,) = manifests(found)
    config = blob(found, made["config"])
    for one in made["layers"]:
        one.pop("annotations", None)
    with pytest.raises(DocumentError, match="has models of cache-models in it already"):
        read(made, config)
    assert read(made, {**config, "history": []}).config["history"] == []


def test_more_layers_than_engines_take_are_refused() -> None:
    def base(count: int) -> BaseImage:
        config = changed("rootfs", "diff_ids", to=[digest(n) for n in range(count)])
        return read(manifest(*map(layer, range(count))), config)

    least, most = base(2), base(MOST_LAYERS_IN_ALL - len(OURS))
    assert [len(one["layers"]) for one in manifests(put_on(least, most))] == [4, MOST_LAYERS_IN_ALL]
    with pytest.raises(DocumentError, match="has 119 layers, and the models have 2: engines take no more than 120"):
        put_on(least, base(MOST_LAYERS_IN_ALL - len(OURS) + 1))
    with pytest.raises(DocumentError, match="has 118 layers, and the models have 3"):
        check_layer_count([most, least], 3)


IMAGE = Descriptor(MANIFEST_TYPE, digest(1), 1, platform=AMD)


def test_the_platforms_of_an_index_are_its_images_for_linux() -> None:
    """In its order; without attestations, artifacts, other systems, and with one that names no platform."""
    arm = Descriptor(DOCKER_MANIFEST_TYPE, digest(2), 1, platform=ARM)
    nameless = Descriptor(MANIFEST_TYPE, digest(3), 1)
    others = [
        replace(IMAGE, annotations={"vnd.docker.reference.type": "attestation-manifest"}),
        replace(IMAGE, artifact_type="application/vnd.example"),
        replace(IMAGE, platform=Platform("windows", "amd64")),
        replace(IMAGE, platform=Platform("unknown", "unknown")),
        replace(IMAGE, media_type="application/vnd.in-toto+json"),
    ]
    assert platforms_of([arm, *others, IMAGE, nameless]) == (arm, IMAGE, nameless)


def test_an_index_without_an_image_for_linux_is_refused() -> None:
    with pytest.raises(DocumentError, match=r"holds no image for Linux$"):
        platforms_of([])
    with pytest.raises(DocumentError, match=r"holds no image for Linux, but for windows/amd64$"):
        platforms_of([replace(IMAGE, platform=Platform("windows", "amd64"))])
    with pytest.raises(DocumentError, match="is for more than 100 platforms"):
        platforms_of([IMAGE] * 101)
    with pytest.raises(DocumentError, match="is an index that holds another index"):
        platforms_of([IMAGE, replace(IMAGE, media_type=f"{OCI}.index.v1+json")])
    with pytest.raises(DocumentError, match="is of schema version 1"):
        platforms_of([replace(IMAGE, media_type=f"{DOCKER}.distribution.manifest.v1+prettyjws")])


PIECES = [b"null", b"{}", b"[]", b"1e999", b'"x"', b"\\ud800", b"linux", b"diff_ids"]


def read_or_refuse(document: bytes, config: bytes) -> None:
    """Read a base and put models on it, with DocumentError at most."""
    for platform in (None, AMD):
        try:
            found = put_on(read_base(Descriptor.of(MANIFEST_TYPE, document, platform), document, config))
        except DocumentError:
            continue
        assert len(manifests(found)) == 1


@BUDGET
@given(
    mutated(json.dumps(manifest(*LAYERS)).encode(), PIECES),
    mutated(json.dumps(CONFIG).encode(), PIECES),
)
def test_any_bytes_are_read_or_refused(document: bytes, config: bytes) -> None:
    read_or_refuse(json.dumps(manifest(*LAYERS)).encode(), config)
    read_or_refuse(document, json.dumps(CONFIG).encode())


@BUDGET
@given(st.sampled_from(sorted(CONFIG)), json_values("Env", "diff_ids", "linux", "created_by", "empty_layer"))
def test_any_config_is_read_or_refused(key: str, value: object) -> None:
    read_or_refuse(json.dumps(manifest(*LAYERS)).encode(), json.dumps({**CONFIG, key: value}).encode())
