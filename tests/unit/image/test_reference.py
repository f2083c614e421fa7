"""The names of images, read as https://github.com/distribution/reference reads them."""

from __future__ import annotations

import re
import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelcache.image.reference import Reference
from tests.support.faults.fuzz import BUDGET

DIGEST = f"sha256:{'0a' * 32}"
PART = "a" * 63


@pytest.mark.parametrize(
    ("text", "full"),
    [
        ("redis", "docker.io/library/redis:latest"),
        ("redis:7", "docker.io/library/redis:7"),
        ("docker.io/redis", "docker.io/library/redis:latest"),
        ("docker.io/library/redis", "docker.io/library/redis:latest"),
        ("index.docker.io/redis", "docker.io/library/redis:latest"),
        ("Docker.IO/redis", "docker.io/library/redis:latest"),
        ("team/models", "docker.io/team/models:latest"),
        ("docker:27", "docker.io/library/docker:27"),
        ("localhost", "docker.io/library/localhost:latest"),
        ("localhost:5000", "docker.io/library/localhost:5000"),
        ("localhost/models", "localhost/models:latest"),
        ("localhost:5000/models:v1", "localhost:5000/models:v1"),
        ("registry:5000/a/b/c:v1.0-rc_1", "registry:5000/a/b/c:v1.0-rc_1"),
        ("ghcr.io/models", "ghcr.io/models:latest"),
        ("GHCR.io/team/models", "ghcr.io/team/models:latest"),
        ("LOCALHOST/models", "localhost/models:latest"),
        ("HOST:443/models", "host:443/models:latest"),
        ("127.0.0.1:5000/models", "127.0.0.1:5000/models:latest"),
        ("[::1]:5000/models", "[::1]:5000/models:latest"),
        ("[2001:DB8::1]/models:v1", "[2001:db8::1]/models:v1"),
        ("a.b/c__d/e--f/g.h_i", "a.b/c__d/e--f/g.h_i:latest"),
        (f"redis@{DIGEST}", f"docker.io/library/redis@{DIGEST}"),
        (f"ghcr.io/team/models:v1@{DIGEST}", f"ghcr.io/team/models:v1@{DIGEST}"),
        ("docker://ghcr.io/team/models:v1", "ghcr.io/team/models:v1"),
        (f"docker://redis@{DIGEST}", f"docker.io/library/redis@{DIGEST}"),
        (f"x:{'t' * 128}", f"docker.io/library/x:{'t' * 128}"),
        (f"a.b/{'r' * 255}", f"a.b/{'r' * 255}:latest"),
        (f"{PART}.{PART}.{PART}.{'a' * 61}:65535/x", f"{PART}.{PART}.{PART}.{'a' * 61}:65535/x:latest"),
    ],
)
def test_a_name_is_completed_as_docker_does_it(text: str, full: str) -> None:
    found = Reference.parse(text)
    assert str(found) == full
    assert Reference.parse(full) == found


def test_its_parts() -> None:
    found = Reference.parse(f"localhost:5000/team/models:v1@{DIGEST}")
    assert found == Reference("localhost:5000", "team/models", "v1", DIGEST)
    assert Reference.parse("redis") == Reference("docker.io", "library/redis", "latest", "")
    assert Reference.parse(f"redis@{DIGEST}") == Reference("docker.io", "library/redis", "", DIGEST)


def test_a_digest_is_asked_for_before_a_tag() -> None:
    assert Reference.parse("redis:7").wanted == "7"
    assert Reference.parse(f"redis:7@{DIGEST}").wanted == DIGEST
    assert Reference.parse("redis:7").at(DIGEST) == Reference("docker.io", "library/redis", "", DIGEST)
    assert str(Reference.parse("redis:7").at(DIGEST)) == f"docker.io/library/redis@{DIGEST}"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "'' is no image: write REGISTRY/REPOSITORY:TAG"),
        ("docker://", "'docker://' is no image: write REGISTRY/REPOSITORY:TAG"),
        ("https://ghcr.io/a/b", "is an address, not the name of an image: write 'ghcr.io/a/b'"),
        ("HTTP://localhost:5000/a", "is an address, not the name of an image: write 'localhost:5000/a'"),
        ("docker://docker://a", "is an address, not the name of an image: write 'a'"),
        ("oci:models", "is not in a registry: write REGISTRY/REPOSITORY:TAG"),
        ("oci-archive:models.tar", "is not in a registry"),
        ("docker-daemon:redis:7", "is not in a registry"),
        ("ghcr.io/", "because it ends with a slash: write 'ghcr.io'"),
        ("team/models/", "because it ends with a slash: write 'team/models'"),
        ("0a" * 32, "is the id of an image in an engine"),
        ("Redis", "because a repository is in lower case: write 'redis'"),
        ("Redis:Redis", "because a repository is in lower case: write 'redis:Redis'"),
        ("ghcr.io/Team/models", "because a repository is in lower case: write 'ghcr.io/team/models'"),
        ("docker://ghcr.io/Team/models:V1", "because a repository is in lower case: write 'ghcr.io/team/models:V1'"),
        ("Redis.io/Redis", "because a repository is in lower case: write 'Redis.io/redis'"),
        ("team/Models", "because a repository is in lower case: write 'team/models'"),
        ("docker.io/library/Redis:7", "because a repository is in lower case: write 'docker.io/library/redis:7'"),
        ("BAAI/bge-m3", "because its owner has capitals: write it in lower case, or 'baai:443'"),
        ("ghcr.io//models", "each part of the repository '/models'"),
        ("/models", "each part of the repository '/models'"),
        ("../models", "'..' is not the host of a registry"),
        ("./models", "'.' is not the host of a registry"),
        ("ghcr.io/../models", "each part of the repository '../models'"),
        ("ghcr.io/a..b", "each part of the repository 'a..b'"),
        ("ghcr.io/a___b", "each part of the repository 'a___b'"),
        ("ghcr.io/-a", "each part of the repository '-a'"),
        ("ghcr.io/größe", "each part of the repository 'größe'"),
        ("ghcr.io/a b", "each part of the repository 'a b'"),
        ("ghcr.io/a\n", r"each part of the repository 'a\n'"),
        ("ghcr.io/:v1", "each part of the repository ''"),
        (f"a.b/{'r' * 256}", "has more than 255 characters"),
        ("redis:", "its tag '' is not 1 to 128 of the characters"),
        ("redis:-1", "its tag '-1' is not 1 to 128 of the characters"),
        ("redis:v1:v2", "its tag 'v1:v2' is not 1 to 128 of the characters"),
        ("redis:größe", "its tag 'größe' is not 1 to 128 of the characters"),
        ("redis:v1\n", r"its tag 'v1\n' is not 1 to 128 of the characters"),
        (f"x:{'t' * 129}", "is not 1 to 128 of the characters"),
        ("-a.b/c", "'-a.b' is not the host of a registry"),
        ("a..b/c", "'a..b' is not the host of a registry"),
        ("a_b.c/d", "'a_b.c' is not the host of a registry"),
        ("host:port/a", "'host:port' is not the host of a registry"),
        ("host:/a", "'host:' is not the host of a registry"),
        ("größe.de/a", "'größe.de' is not the host of a registry"),
        ("[::1/a", "'[::1' is not the host of a registry"),
        ("[:::]/a", "'[:::]' is not the host of a registry"),
        ("[::1%25lo]/a", "'[::1%25lo]' is not the host of a registry"),
        ("::1/a", "'::1' is not the host of a registry"),
        (f"{'a' * 64}.b/c", "is not the host of a registry"),
        (f"{PART}.{PART}.{PART}.{'a' * 62}/x", "is not the host of a registry"),
        ("host:0/a", "its port is not from 1 to 65535"),
        ("host:65536/a", "its port is not from 1 to 65535"),
        ("host:100000/a", "is not the host of a registry"),
        ("redis@", "the digest after the @ is not `sha256:`"),
        ("redis@latest", "the digest after the @ is not `sha256:`"),
        ("redis@sha256:abc", "the digest after the @ is not `sha256:`"),
        (f"redis@{DIGEST}\n", "the digest after the @ is not `sha256:`"),
        (f"redis@{DIGEST.upper()}", "the digest after the @ is not `sha256:`"),
        (f"redis@sha512:{'a' * 128}", "the digest after the @ is not `sha256:`"),
        (f"@{DIGEST}", "is no image: write REGISTRY/REPOSITORY:TAG"),
    ],
)
def test_another_text_is_refused_with_what_to_write(text: str, words: str) -> None:
    with pytest.raises(ValueError, match=re.escape(words)):
        pytest.fail(f"read as {Reference.parse(text)}")


@pytest.mark.parametrize(
    "text",
    [
        "user:s3cret@ghcr.io/team/models:v1",
        "https://user:s3cret@ghcr.io/team/models",
        "docker://user:s3cret@localhost:5000/models",
        f"user:s3cret@ghcr.io/team/models@{DIGEST}",
        "user:pass/s3cret@ghcr.io/models",
        "user:p@s3cret@ghcr.io",
        f"user:p@s3cret@{DIGEST}",
        "user:s3cret@ghcr.io",
    ],
)
def test_a_password_in_the_name_is_refused_and_not_shown(text: str) -> None:
    with pytest.raises(ValueError, match=r"user|digest") as caught:
        pytest.fail(f"read as {Reference.parse(text)}")
    assert "s3cret" not in str(caught.value)
    assert "s3cret" not in repr(caught.value.__context__)


def test_a_password_is_refused_with_the_way_to_log_in() -> None:
    with pytest.raises(ValueError, match="log in with `docker login REGISTRY`"):
        Reference.parse("user:s3cret@ghcr.io/team/models:v1")


@BUDGET
@given(st.text(alphabet=string.ascii_letters + string.digits + "ßé٣/:@.[]_-% \n") | st.text())
def test_any_text_is_read_or_refused(text: str) -> None:
    """With ValueError alone; and the full name of what was read means the same."""
    try:
        found = Reference.parse(text)
    except ValueError:
        return
    assert Reference.parse(str(found)) == found
