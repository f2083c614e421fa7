"""Logins for registries, as docker, podman and Kubernetes write them, and as programs on PATH answer."""

from __future__ import annotations

import json
import os
import shlex
import socket
import stat
import time
from base64 import b64encode
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from modelcache.core.errors import SettingError
from modelcache.core.redact import redact
from modelcache.sources import credential_program
from modelcache.sources.registry_login import Login, login_for
from tests.conftest import SOON

HOST = "registry.example:5000"
REPOSITORY = "team/models"
PASSWORD = "pa55:wörd/with-all"
HUB_KEY = "https://index.docker.io/v1/"
NAMES = ("REGISTRY_AUTH_FILE", "DOCKER_CONFIG", "XDG_RUNTIME_DIR", "XDG_CONFIG_HOME")


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home with nothing in it, and an environment that names no file."""
    for name in NAMES:
        monkeypatch.delenv(name, raising=False)
    folder = tmp_path / "home"
    folder.mkdir()
    monkeypatch.setenv("HOME", str(folder))
    return folder


@pytest.fixture
def chosen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The file that REGISTRY_AUTH_FILE names; a test writes it."""
    path = tmp_path / "chosen.json"
    monkeypatch.setenv("REGISTRY_AUTH_FILE", str(path))
    return path


@pytest.fixture
def program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str, str], Path]:
    """Put a docker-credential program, of lines of a shell, on PATH; it keeps what it is asked in a file."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")

    def write(name: str, lines: str) -> Path:
        path, asked = folder / f"docker-credential-{name}", tmp_path / f"asked-{name}"
        path.write_text(f'#!/bin/sh\n{{ printf "%s " "$*"; cat; echo; }} >>{asked}\n{lines}\n')
        path.chmod(0o755)
        return asked

    return write


def basic(user: str, password: str) -> str:
    """What docker writes as `auth`."""
    return b64encode(f"{user}:{password}".encode()).decode()


def write(path: Path, content: object) -> Path:
    """Write a file with logins."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))
    return path


def auths(**users: str) -> Mapping[str, object]:
    """A file with one login a key."""
    return {"auths": {key: {"auth": basic(user, PASSWORD)} for key, user in users.items()}}


def answer(user: str, secret: str) -> str:
    """The line of a shell that answers with a login."""
    return "printf '%s\\n' " + shlex.quote(json.dumps({"ServerURL": HOST, "Username": user, "Secret": secret}))


def user_for(registry: str = HOST, repository: str = REPOSITORY) -> str | None:
    """The user of the login that is found."""
    login = login_for(registry, repository)
    return login.user if login else None


def refusal() -> str:
    """Return message and hint of the error; a hint is there."""
    with pytest.raises(SettingError) as told:
        login_for(HOST, REPOSITORY)
    assert told.value.hint
    assert told.value.exit_code == 2
    return f"{told.value.message} | {told.value.hint}"


# Where it looks


@pytest.mark.parametrize("missing", ["empty", "not-there", "/dev/null"])
def test_without_a_file_there_is_no_login(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, missing: str) -> None:
    (tmp_path / "empty").mkdir()
    for name in ("HOME", *NAMES[1:]):
        monkeypatch.setenv(name, str(tmp_path / missing))
    assert login_for(HOST, REPOSITORY) is None


def test_a_user_without_a_home_has_no_login(monkeypatch: pytest.MonkeyPatch) -> None:
    """As uid 10001 in a container that names no such user."""
    monkeypatch.delenv("HOME")
    monkeypatch.setattr("pwd.getpwuid", {}.__getitem__)
    assert os.path.expanduser("~") == "~"
    assert login_for(HOST, REPOSITORY) is None


def test_the_first_file_with_the_registry_wins(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, home: Path) -> None:
    """Each file that is taken away lets the next one count."""
    for name in NAMES[1:]:
        monkeypatch.setenv(name, str(tmp_path / name))
    places = [
        tmp_path / "DOCKER_CONFIG/config.json",
        tmp_path / "XDG_RUNTIME_DIR/containers/auth.json",
        tmp_path / "XDG_CONFIG_HOME/containers/auth.json",
        home / ".docker/config.json",
    ]
    for place in places:
        write(place, auths(**{HOST: place.parts[len(tmp_path.parts)]}))
    found = []
    for place in places:
        if place == places[-1]:  # docker reads one of the two
            assert login_for(HOST, REPOSITORY) is None
            monkeypatch.delenv("DOCKER_CONFIG")
        login = login_for(HOST, REPOSITORY)
        assert login
        assert login.source == str(place)
        found.append(login.user)
        write(place, auths(**{"other.example": "other"}))
    assert found == ["DOCKER_CONFIG", "XDG_RUNTIME_DIR", "XDG_CONFIG_HOME", "home"]
    assert login_for(HOST, REPOSITORY) is None


def test_podman_keeps_its_file_below_the_home(home: Path) -> None:
    write(home / ".docker/config.json", auths(**{HOST: "docker"}))
    write(home / ".config/containers/auth.json", auths(**{HOST: "podman"}))
    assert user_for() == "podman"


def test_registry_auth_file_is_the_only_file(chosen: Path, home: Path) -> None:
    write(home / ".docker/config.json", auths(**{HOST: "me"}))
    write(chosen, {})
    assert login_for(HOST, REPOSITORY) is None
    write(chosen, auths(**{HOST: "you"}))
    assert user_for() == "you"


def test_a_missing_registry_auth_file_is_told(chosen: Path, home: Path) -> None:
    write(home / ".docker/config.json", auths(**{HOST: "me"}))
    assert f"REGISTRY_AUTH_FILE names {chosen}, and no file is there" in refusal()


@pytest.mark.parametrize("name", NAMES)
def test_an_empty_variable_counts_as_unset(monkeypatch: pytest.MonkeyPatch, home: Path, name: str) -> None:
    monkeypatch.setenv(name, "")
    write(home / ".docker/config.json", auths(**{HOST: "me"}))
    assert user_for() == "me"


def test_a_mounted_secret_of_kubernetes_is_a_link(home: Path, tmp_path: Path) -> None:
    """`.dockerconfigjson` has the keys `username` and `password`, and may have no `auth`."""
    entry = {"username": "me", "password": PASSWORD, "email": "me@example.org"}
    write(tmp_path / "..2026/.dockerconfigjson", {"auths": {HOST: entry}})
    (tmp_path / "..data").symlink_to("..2026")
    (home / ".docker").mkdir()
    (home / ".docker/config.json").symlink_to(tmp_path / "..data/.dockerconfigjson")
    assert login_for(HOST, REPOSITORY) == Login("me", PASSWORD, source=str(home / ".docker/config.json"))


@pytest.mark.parametrize("content", ["", "\n", "{}", '{"auths": null}', f'{{"auths": {{"{HOST}": null}}}}'])
def test_an_empty_file_has_no_login(chosen: Path, content: str) -> None:
    """As of a build secret that is not given."""
    chosen.write_text(content)
    assert login_for(HOST, REPOSITORY) is None


def test_the_null_device_has_no_login(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REGISTRY_AUTH_FILE", "/dev/null")
    assert login_for(HOST, REPOSITORY) is None


# Entries


@pytest.mark.parametrize(
    "key",
    [HOST, f"https://{HOST}", f"http://{HOST}", f"https://{HOST}/", f"https://{HOST}/v1/", f"https://{HOST}/v2/",
     f"{HOST}/v1/", f"{HOST}/", HOST.upper(), f"{HOST}/team", f"{HOST}/team/", f"{HOST}/{REPOSITORY}"],
)  # fmt: skip
def test_a_key_names_the_registry_in_every_spelling(chosen: Path, key: str) -> None:
    write(chosen, auths(**{key: "me"}))
    assert login_for(HOST, REPOSITORY) == Login("me", PASSWORD, source=str(chosen))


@pytest.mark.parametrize(
    "key",
    ["registry.example", "registry.example:5001", "a.registry.example:5000", "registry.example:50001", "", "/", "https://",
     f"{HOST}/tea", f"{HOST}/team/model", f"{HOST}/{REPOSITORY}/small", f"{HOST}/TEAM", f"me@{HOST}"],
)  # fmt: skip
def test_a_key_of_something_else_gives_no_login(chosen: Path, key: str) -> None:
    write(chosen, auths(**{key: "me"}))
    assert login_for(HOST, REPOSITORY) is None


def test_the_longest_path_wins(chosen: Path) -> None:
    write(
        chosen,
        auths(**{f"https://{HOST}/v1/": "v1", f"{HOST}/team": "team", HOST: "all", f"{HOST}/{REPOSITORY}": "one"}),
    )
    assert user_for() == "one"
    assert user_for(repository="team/other") == "team"
    assert user_for(repository="teams/other") == "all"


@pytest.mark.parametrize("registry", ["docker.io", "index.docker.io", "registry-1.docker.io"])
@pytest.mark.parametrize("key", [HUB_KEY, "docker.io", "index.docker.io", "registry-1.docker.io", "docker.io/me"])
def test_docker_hub_has_many_names(chosen: Path, key: str, registry: str) -> None:
    write(chosen, auths(**{HOST: "other", key: "me"}))
    assert user_for(registry, "me/models") == "me"


@pytest.mark.parametrize("entry", [{}, {"auth": ""}, {"username": "", "password": ""}, {"registrytoken": "x"}])
def test_an_entry_without_a_login_is_passed_over(chosen: Path, entry: object) -> None:
    write(chosen, {"auths": {f"{HOST}/team": entry, HOST: {"auth": basic("me", PASSWORD)}}})
    assert user_for() == "me"
    write(chosen, {"auths": {f"{HOST}/team": entry}})
    assert login_for(HOST, REPOSITORY) is None


def test_an_identity_token_stands_beside_the_name(chosen: Path) -> None:
    """As `docker login` writes it for a registry with a token server of its own."""
    write(chosen, {"auths": {HOST: {"auth": basic("0000", ""), "identitytoken": "t0ken-t0ken"}}})
    assert login_for(HOST, REPOSITORY) == Login("0000", "", "t0ken-t0ken", str(chosen))
    write(chosen, {"auths": {HOST: {"identitytoken": "t0ken-t0ken"}}})
    assert login_for(HOST, REPOSITORY) == Login("", "", "t0ken-t0ken", str(chosen))


def test_base64_is_read_as_people_write_it(chosen: Path) -> None:
    """Without its padding, and in lines, as `base64` breaks them; docker leaves zeros at the end."""
    whole = basic("me", "x" * 61)
    assert whole.endswith("=")
    for auth in (whole.rstrip("="), f"{whole[:76]}\n{whole[76:]}\n", basic("me", "x" * 61 + "\0")):
        write(chosen, {"auths": {HOST: {"auth": auth}}})
        assert login_for(HOST, REPOSITORY) == Login("me", "x" * 61, source=str(chosen))


# Programs


def test_a_program_is_asked_as_docker_asks_it(chosen: Path, program: Callable[[str, str], Path]) -> None:
    asked = program("one", answer("me", PASSWORD))
    write(chosen, {"credsStore": "one"})
    assert login_for(HOST, REPOSITORY) == Login("me", PASSWORD, source="docker-credential-one")
    assert user_for("docker.io", "me/models") == "me"
    assert asked.read_text() == f"get {HOST}\nget {HUB_KEY}\n"


def test_a_program_that_reads_nothing_is_heard(
    chosen: Path, tmp_path: Path, program: Callable[[str, str], Path]
) -> None:
    program("one", "")
    (tmp_path / "bin/docker-credential-one").write_text(f"#!/bin/sh\nexec <&-\n{answer('me', PASSWORD)}\n")
    write(chosen, {"credsStore": "one"})
    assert user_for() == "me"


def test_a_program_may_answer_with_an_identity_token(chosen: Path, program: Callable[[str, str], Path]) -> None:
    program("acr", answer("<token>", "t0ken-t0ken"))
    write(chosen, {"credHelpers": {HOST: "acr"}})
    assert login_for(HOST, REPOSITORY) == Login("", "", "t0ken-t0ken", "docker-credential-acr")


def test_the_program_of_a_registry_comes_first_then_that_of_all_then_the_file(
    chosen: Path, program: Callable[[str, str], Path]
) -> None:
    program("mine", answer("mine", PASSWORD))
    program("all", answer("all", PASSWORD))
    content = {**auths(**{HOST: "file"}), "credsStore": "all", "credHelpers": {HOST: "mine", "other.example": "none"}}
    write(chosen, content)
    assert user_for() == "mine"
    write(chosen, {**content, "credHelpers": {"registry.example": "mine"}})
    assert user_for() == "all"
    write(chosen, {**content, "credHelpers": {HOST: ""}})
    assert user_for() == "file"


@pytest.mark.parametrize("key", [HUB_KEY, "docker.io", "index.docker.io"])
def test_the_program_of_docker_hub(chosen: Path, program: Callable[[str, str], Path], key: str) -> None:
    asked = program("mine", answer("me", PASSWORD))
    write(chosen, {"credHelpers": {key: "mine"}})
    assert user_for("docker.io", "me/models") == "me"
    assert asked.read_text() == f"get {HUB_KEY}\n"


@pytest.mark.parametrize(
    "lines", ["echo credentials not found in native keychain; exit 1", answer("", ""), answer("<token>", "")]
)
def test_where_a_program_knows_no_login_the_file_is_asked(
    chosen: Path, program: Callable[[str, str], Path], lines: str
) -> None:
    program("one", lines)
    write(chosen, {"credsStore": "one"})
    assert login_for(HOST, REPOSITORY) is None
    write(chosen, {"credsStore": "one", **auths(**{HOST: "file"})})
    assert user_for() == "file"


def test_a_program_of_another_registry_is_not_run(chosen: Path, program: Callable[[str, str], Path]) -> None:
    asked = program("one", answer("me", PASSWORD))
    write(chosen, {"credHelpers": {"other.example": "one"}})
    assert login_for(HOST, REPOSITORY) is None
    assert not asked.exists()


FAILING = {
    f"echo {PASSWORD}; echo {PASSWORD} >&2; exit 3": 'docker-credential-one, which "credsStore" names, failed (exit 3)',
    f"echo {PASSWORD}; exit 1": "failed (exit 1)",
    "kill -9 $$": "was ended by signal 9",
    f"echo {PASSWORD}": "answers with no JSON object",
    f"echo '[\"{PASSWORD}\"]'": "answers with no JSON object",
    "": "answers with no JSON object",
    f"echo '{{\"Secret\": \"{PASSWORD}\"}}'": "has no Username or no Secret",
    f"echo '{{\"Username\": 1, \"Secret\": \"{PASSWORD}\"}}'": "has no Username or no Secret",
    answer("", PASSWORD): "has a password and no name of a user",
    answer("me", PASSWORD + "\n"): "has a line break or another control character",
    answer("me:you", PASSWORD): "has a colon in the name of the user",
    f"while :; do echo {PASSWORD}; done": "answers with more than 65.5 kB",
}  # fmt: skip


@pytest.mark.parametrize("lines", FAILING)
def test_a_failing_program_is_told_and_its_output_is_not_shown(
    chosen: Path, program: Callable[[str, str], Path], lines: str
) -> None:
    program("one", lines)
    write(chosen, {"credsStore": "one", **auths(**{HOST: "file"})})
    told = refusal()
    assert FAILING[lines] in told
    assert str(chosen) in told
    assert f"`echo {HOST} | docker-credential-one get`" in told
    assert "pa55" not in told


def test_an_answer_of_64_kib_is_read(chosen: Path, program: Callable[[str, str], Path]) -> None:
    size = (64 << 10) - 1 - len(json.dumps({"ServerURL": HOST, "Username": "me", "Secret": ""}))
    blanks = f"head -c {size} /dev/zero | tr '\\0' ' '"
    for more, fits in ((0, True), (1, False)):
        program("one", "; ".join([blanks, *["printf ' '"] * more, answer("me", "")]))
        write(chosen, {"credsStore": "one"})
        if fits:
            assert user_for() == "me"
        else:
            assert "answers with more than" in refusal()


def test_a_program_that_is_not_there_is_told(chosen: Path, program: Callable[[str, str], Path]) -> None:
    del program
    write(chosen, {"credHelpers": {HOST: "desktop.exe"}, **auths(**{HOST: "file"})})
    told = refusal()
    assert f'docker-credential-desktop.exe, which "credHelpers"."{HOST}" names, is not on PATH' in told
    assert "Install it, or name another file in REGISTRY_AUTH_FILE" in told


def test_a_program_that_cannot_be_run_is_told(
    chosen: Path, tmp_path: Path, program: Callable[[str, str], Path]
) -> None:
    program("one", "")
    (tmp_path / "bin/docker-credential-one").write_text("#!/no/such/shell\n")
    write(chosen, {"credsStore": "one"})
    assert "cannot be run: No such file or directory" in refusal()


@pytest.mark.parametrize("name", ["../one", "a/b", "one get", "one;true", "ö", "one\n", "$(one)"])
def test_the_name_of_a_program_is_a_plain_word(chosen: Path, program: Callable[[str, str], Path], name: str) -> None:
    asked = program("one", answer("me", PASSWORD))
    write(chosen, {"credsStore": name})
    assert '"credsStore" is no plain name' in refusal()
    assert not asked.exists()


@pytest.mark.parametrize("last", ["sleep 600", "exit 0", f"{answer('me', PASSWORD)}; exec >&-; sleep 600"])
def test_a_program_that_hangs_is_ended_with_its_children(
    chosen: Path, tmp_path: Path, program: Callable[[str, str], Path], monkeypatch: pytest.MonkeyPatch, last: str
) -> None:
    """Whether it waits itself, or leaves a child that keeps its output open."""
    monkeypatch.setattr(credential_program, "_SECONDS", 2.0)
    program("one", f"sleep 600 & echo $! $$ >{tmp_path}/pids\n{last}")
    write(chosen, {"credsStore": "one"})
    begun = time.monotonic()
    assert "has not answered within 2 s" in refusal()
    assert time.monotonic() - begun < SOON
    pids = (tmp_path / "pids").read_text().split()
    assert len(pids) == 2
    while any(is_running(pid) for pid in pids):
        assert time.monotonic() - begun < SOON
        time.sleep(0.01)


def is_running(pid: str) -> bool:
    """Whether a process is there and has not ended."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return False


# Files that are no files of logins


def refuse_reading(path: Path) -> str:
    """The text of the error for a file, which names it."""
    told = refusal()
    assert str(path) in told
    assert "pa55" not in told
    return told


@pytest.mark.parametrize(
    "content", ["{", f'["{PASSWORD}"]', f'"{PASSWORD}"', PASSWORD, "[" * 100_000, "1" * 5000, "\udcff"]
)
def test_a_file_that_is_no_json_is_told(chosen: Path, content: str) -> None:
    chosen.write_bytes(content.encode(errors="surrogateescape"))
    assert "is not the JSON of docker's config.json" in refuse_reading(chosen)


def test_a_file_of_1_mib_is_read_and_no_larger_one(chosen: Path) -> None:
    text = json.dumps(auths(**{HOST: "me"}))
    chosen.write_text(text.ljust(1 << 20))
    assert user_for() == "me"
    chosen.write_text(text.ljust((1 << 20) + 1))
    assert "has more than 1.0 MB" in refuse_reading(chosen)


def test_a_directory_is_told(chosen: Path) -> None:
    chosen.mkdir()
    told = refuse_reading(chosen)
    assert "cannot be read: Is a directory" in told
    assert "Docker makes a directory" in told


def test_a_pipe_is_told_and_not_waited_for(chosen: Path) -> None:
    os.mkfifo(chosen)
    assert "is a pipe" in refuse_reading(chosen)


def test_a_socket_is_told(chosen: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(chosen.parent)  # the path of a socket must be short
    with socket.socket(socket.AF_UNIX) as made:
        made.bind(chosen.name)
        assert stat.S_ISSOCK(chosen.stat().st_mode)
        assert "cannot be read" in refuse_reading(chosen)


def test_a_loop_of_links_is_told(chosen: Path) -> None:
    chosen.symlink_to(chosen)
    assert "cannot be read: Too many levels of symbolic links" in refuse_reading(chosen)


def test_a_file_of_another_user_is_told(chosen: Path) -> None:
    write(chosen, auths(**{HOST: "me"})).chmod(0)
    user = os.geteuid() or 10001
    before = os.geteuid()
    os.seteuid(user)  # root would read it
    try:
        told = refuse_reading(chosen)
    finally:
        os.seteuid(before)
    assert f"{chosen} cannot be read: Permission denied | Let uid {user} read it" in told


# Entries that are no logins


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        ({"auths": []}, '"auths" is not an object'),
        ({"auths": {HOST: PASSWORD}}, f'"auths"."{HOST}" is not an object'),
        ({"auths": {HOST: {"auth": [PASSWORD]}}}, f'"auths"."{HOST}"."auth" is not a string'),
        ({"auths": {HOST: {"username": 1}}}, f'"auths"."{HOST}"."username" is not a string'),
        ({"auths": {HOST: {"identitytoken": 1}}}, f'"auths"."{HOST}"."identitytoken" is not a string'),
        ({"credHelpers": "one"}, '"credHelpers" is not an object'),
        ({"credHelpers": {HOST: 1}}, f'"credHelpers"."{HOST}" is not a string'),
        ({"credsStore": {}}, '"credsStore" is not a string'),
    ],
)
def test_an_entry_of_another_type_is_told(chosen: Path, content: object, problem: str) -> None:
    write(chosen, content)
    assert f"{chosen}: {problem} |" in refuse_reading(chosen)


@pytest.mark.parametrize(
    "auth",
    ["pa55", "pa55-pa55", "pa55\udc80", "ü", b64encode(b"me").decode(), b64encode(b":pa55").decode(),
     b64encode(b"me:\xff\xfe").decode(), b64encode(b"pa55").decode() + "=A"],
)  # fmt: skip
def test_an_auth_that_is_no_user_and_password_is_told_and_not_shown(chosen: Path, auth: str) -> None:
    write(chosen, {"auths": {HOST: {"auth": auth}}})
    told = refuse_reading(chosen)
    assert f'{chosen}: "auths"."{HOST}"."auth" is not the base64 of user:password' in told
    assert auth not in told


@pytest.mark.parametrize(
    ("entry", "problem"),
    [
        ({"auth": basic("me", f"{PASSWORD}\n")}, "a line break or another control character"),
        ({"auth": basic("me\r\nX-Header: 1", PASSWORD)}, "a line break or another control character"),
        ({"username": "me", "password": f"{PASSWORD}\x7f"}, "a line break or another control character"),
        ({"username": "me", "password": f"{PASSWORD}\ud800"}, "a line break or another control character"),
        ({"identitytoken": f"{PASSWORD}\n"}, "a line break or another control character"),
        ({"username": "me:you", "password": PASSWORD}, "a colon in the name of the user"),
        ({"password": PASSWORD}, "a password and no name of a user"),
    ],
)
def test_a_login_that_cannot_be_sent_is_told_and_not_shown(chosen: Path, entry: object, problem: str) -> None:
    write(chosen, {"auths": {HOST: entry}})
    assert f'{chosen}: "auths"."{HOST}" has {problem}' in refuse_reading(chosen)


# Secrets


def test_a_login_shows_no_secret() -> None:
    assert repr(Login("me", "pa55", "t0ken", "file")) == "Login(user='me', source='file')"


def test_every_secret_is_masked_in_output(chosen: Path, program: Callable[[str, str], Path]) -> None:
    write(chosen, {"auths": {HOST: {"auth": basic("me", "a-pa55word"), "identitytoken": "a-t0ken"}}})
    assert login_for(HOST, REPOSITORY)
    program("one", answer("you", "another-pa55word"))
    program("two", answer("<token>", "another-t0ken"))
    write(chosen, {"credHelpers": {HOST: "one", "other.example": "two"}})
    assert login_for(HOST, REPOSITORY)
    assert login_for("other.example", REPOSITORY)
    for secret in ("a-pa55word", "a-t0ken", basic("me", "a-pa55word"), "another-pa55word", "another-t0ken"):
        assert redact(f"it is {secret}.") == "it is [hidden]."
    assert redact(basic("you", "another-pa55word")) == "[hidden]"


def test_a_login_without_a_password_masks_nothing_more(chosen: Path) -> None:
    """The base64 of a name alone is no secret, nor is that of a colon."""
    write(chosen, {"auths": {HOST: {"identitytoken": "a-third-t0ken"}, "other.example": {"username": "nameless"}}})
    assert login_for(HOST, REPOSITORY)
    assert login_for("other.example", REPOSITORY)
    assert redact(f"{basic('', '')} {basic('nameless', '')}") == f"{basic('', '')} {basic('nameless', '')}"
