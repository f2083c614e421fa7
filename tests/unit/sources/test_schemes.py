"""The value of --from: a root, a layout, an archive, a name in them, or none of these."""

from __future__ import annotations

from pathlib import Path

import pytest

from modelcache.cli.progress import QuietReporter
from modelcache.image.reference import Reference
from modelcache.sources.registry_api import RegistryRepository
from modelcache.sources.schemes import Scheme, SourceAddress, open_source, parse_source

ROOT, LAYOUT, ARCHIVE = Scheme


def refuse_to_connect(image: Reference) -> RegistryRepository:
    """Fail: no registry is needed."""
    raise AssertionError(image)


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A current directory in which some names with colons exist."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", "/the/home")
    for name in ("plain", "with:colon", "oci:image", "a", "a:b"):
        (tmp_path / name).mkdir()
    (tmp_path / "models.tar:1").touch()
    return tmp_path


@pytest.mark.parametrize(
    ("text", "scheme", "path", "ref"),
    [
        ("plain", ROOT, "plain", ""),
        ("nowhere", ROOT, "nowhere", ""),
        ("with:colon", ROOT, "with:colon", ""),
        ("./docker:x", ROOT, "docker:x", ""),
        ("oci:image", ROOT, "oci:image", ""),
        ("/abs/solute:x", ROOT, "/abs/solute:x", ""),
        ("~/models", ROOT, "/the/home/models", ""),
        ("oci:plain", LAYOUT, "plain", ""),
        ("oci:plain:", LAYOUT, "plain", ""),
        ("oci:nowhere", LAYOUT, "nowhere", ""),
        ("oci:nowhere:latest", LAYOUT, "nowhere", "latest"),
        ("oci:plain/../plain:v1", LAYOUT, "plain", "v1"),
        ("oci:~/image:v1", LAYOUT, "/the/home/image", "v1"),
        ("oci:with:colon", LAYOUT, "with:colon", ""),
        ("oci:with:colon:v1", LAYOUT, "with:colon", "v1"),
        ("oci:a:b", LAYOUT, "a:b", ""),
        ("oci:a:c", LAYOUT, "a", "c"),
        ("oci:a:docker.io/library/x:latest", LAYOUT, "a", "docker.io/library/x:latest"),
        ("oci-archive:models.tar", ARCHIVE, "models.tar", ""),
        ("oci-archive:/abs/models.tar:v1", ARCHIVE, "/abs/models.tar", "v1"),
        ("oci-archive:models.tar:1", ARCHIVE, "models.tar:1", ""),
    ],
)
def test_a_source_that_is_named(here: Path, text: str, scheme: Scheme, path: str, ref: str) -> None:
    """As skopeo names them; a path with colons is meant where it exists."""
    address = parse_source(text)
    assert address == SourceAddress(scheme, here / path, ref)
    assert parse_source(str(address)) == address


@pytest.mark.parametrize(
    ("text", "registry", "repository", "wanted"),
    [
        ("docker://host.example/models:1", "host.example", "models", "1"),
        ("docker://localhost:5000/a/b", "localhost:5000", "a/b", "latest"),
        (f"docker://host.example/models@sha256:{'a' * 64}", "host.example", "models", f"sha256:{'a' * 64}"),
    ],
)
def test_an_image_in_a_registry(here: Path, text: str, registry: str, repository: str, wanted: str) -> None:
    """Its registry, its repository, and the tag or the digest."""
    image = parse_source(text)
    assert isinstance(image, Reference)
    assert (image.registry, image.repository, image.wanted) == (registry, repository, wanted)


@pytest.mark.parametrize("text", ["docker:host/models", "docker:/host/models", "docker:"])
def test_a_registry_follows_two_slashes(here: Path, text: str) -> None:
    """As skopeo writes it."""
    with pytest.raises(ValueError, match=r"docker: is followed by //, as in docker://"):
        parse_source(text)


@pytest.mark.parametrize("text", ["docker-archive:x.tar", "dir:x", "http://host/x", "oci-arc:x", "docker-daemon:x:1"])
def test_another_scheme_is_refused_with_those_that_are_read(here: Path, text: str) -> None:
    """The text stands in the message, with its scheme."""
    with pytest.raises(ValueError, match=r"oci:DIR.*oci-archive:FILE.*docker://REGISTRY") as error:
        parse_source(text)
    assert f"{text} is no path that exists, and {text.partition(':')[0]}: is no scheme" in str(error.value)


def test_a_password_is_not_in_the_message(here: Path) -> None:
    """An address of a registry may be pasted with one."""
    with pytest.raises(ValueError, match="no user and no password") as error:
        parse_source("docker://me:secret@host/models")
    assert "secret" not in str(error.value)
    with pytest.raises(ValueError, match="http: is no scheme") as error:
        parse_source("http://me:secret@host/models")
    assert "secret" not in str(error.value)


@pytest.mark.parametrize("text", ["oci:", "oci-archive:"])
def test_a_scheme_without_a_path_is_refused(here: Path, text: str) -> None:
    """The current directory is not meant."""
    with pytest.raises(ValueError, match="names no path"):
        parse_source(text)


@pytest.mark.parametrize(
    "text", ["nowhere", "oci:nowhere", "oci-archive:nowhere.tar:v1", "oci:\0", "docker://host.example/models:v1"]
)
def test_a_source_is_not_opened_before_it_is_needed(here: Path, text: str) -> None:
    """Whatever is there, or is not; and no registry is asked."""
    with open_source(parse_source(text), refuse_to_connect, QuietReporter()) as source:
        assert source.name == f"{'docker://' * text.startswith('docker:')}{parse_source(text)}"
