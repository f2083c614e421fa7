"""The stand-in Hub against the clients it is for, and its faults as a raw HTTP client sees them."""

from __future__ import annotations

import hashlib
import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from tests.support import preloaded
from tests.support.hub import (
    DropHeaders,
    Fault,
    Flip,
    Html,
    IgnoreRange,
    Reset,
    Short,
    Silent,
    Slow,
    Stall,
    StandInHub,
    Status,
    WrongLength,
    WrongRange,
)

ROOT = Path(__file__).parents[3]
WEIGHTS = hashlib.shake_256(b"weights").digest(300_000)
FILES: dict[str, bytes | Path] = {
    "README.md": b"---\nlicense: mit\ntags:\n- tiny\nbase_model: org/base\n---\n# Tiny\n",
    "config.json": b'{"model_type": "bert"}',
    "model.safetensors": WEIGHTS,
    "1_Dense/model.safetensors": WEIGHTS[:1000],
    "sub/deeper/100 % \u00fc.txt": b"odd name",
}
CDN_WEIGHTS = r"GET cdn org/name/model\.safetensors"
TINY_MODELS = """
from sentence_transformers import CrossEncoder, SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Pooling, Transformer
from transformers import BertConfig, BertForSequenceClassification, BertModel, BertTokenizerFast

words = "[PAD] [UNK] [CLS] [SEP] [MASK] law court judge apple".split()
shape = dict(vocab_size=len(words), hidden_size=32, num_hidden_layers=2, num_attention_heads=2,
             intermediate_size=64, max_position_embeddings=64)
tokenizer = BertTokenizerFast(vocab={word: i for i, word in enumerate(words)}, model_max_length=64)
BertModel(BertConfig(**shape)).save_pretrained("raw")
tokenizer.save_pretrained("raw")
transformer = Transformer("raw")
SentenceTransformer(modules=[transformer, Pooling(32)]).save("hub/org/embed")
BertForSequenceClassification(BertConfig(num_labels=1, **shape)).save_pretrained("hub/org/rerank")
tokenizer.save_pretrained("hub/org/rerank")
"""


@pytest.fixture
def hub() -> Iterator[StandInHub]:
    """Serve one small repository."""
    with StandInHub() as hub:
        hub.add("org/name", FILES)
        yield hub


class Raw:
    """Ask one host with http.client, which hides nothing."""

    def __init__(self, url: str) -> None:
        self.connection = http.client.HTTPConnection(urlsplit(url).netloc, timeout=5)

    def head(self, path: str, method: str = "GET", **headers: str) -> http.client.HTTPResponse:
        """Send a request and read the status line and headers only."""
        self.connection.request(method, path, headers={name.replace("_", "-"): v for name, v in headers.items()})
        answer = self.connection.getresponse()
        if method == "HEAD":
            answer.read()  # there is nothing, but http.client wants to be asked before the next request
        return answer

    def get(self, path: str, **headers: str) -> tuple[int, http.client.HTTPMessage, bytes]:
        """Send a request and read the whole answer."""
        answer = self.head(path, **headers)
        return answer.status, answer.headers, answer.read()


@pytest.fixture
def raw(hub: StandInHub) -> Raw:
    """Talk to the hub."""
    return Raw(hub.url)


@pytest.fixture
def cdn(hub: StandInHub) -> Raw:
    """Talk to the content network."""
    return Raw(hub.cdn_url)


@pytest.fixture
def weights(hub: StandInHub, raw: Raw) -> str:
    """Resolve the weights to their path on the content network."""
    location = raw.get("/org/name/resolve/main/model.safetensors")[1]["Location"]
    hub.forget()
    return location.removeprefix(hub.cdn_url)


Run = Callable[..., "subprocess.CompletedProcess[Any]"]


def python(code: str, hub: StandInHub | None, home: Path, run: Run = subprocess.run, **environment: str) -> Any:
    """Run `code` in a fresh interpreter with an empty home; it prints one line of JSON."""
    home.mkdir(exist_ok=True)
    variables = {"PATH": os.environ["PATH"], "HOME": str(home), "HF_HOME": str(home / "hf"), **environment}
    variables |= {"HF_ENDPOINT": hub.url} if hub else {"HF_HUB_OFFLINE": "1"}
    done = run(
        [sys.executable, "-c", code], env=variables, cwd=home, capture_output=True, text=True, timeout=240, check=False
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1]) if done.stdout else None


def tree(folder: Path) -> dict[str, bytes]:
    """Read every file below `folder`."""
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


# --- the clients it is for


@pytest.mark.parametrize("redirect", [False, True])
def test_snapshot_download_gets_every_file(redirect: bool, tmp_path: Path) -> None:
    """A snapshot equals the repository, weights come from the cdn, and the token never goes there."""
    with StandInHub(small_file_redirect=redirect) as hub:
        hub.token = "hf_secret"
        hub.add("org/name", FILES, private=True)
        code = "import json, huggingface_hub as h; print(json.dumps(h.snapshot_download('org/name')))"
        folder = python(code, hub, tmp_path / "home", HF_TOKEN="hf_secret")

        assert tree(Path(folder)) == FILES
        assert sum(request.sent for request in hub.requests if request.host == "cdn") == len(WEIGHTS) + 1000
        assert {request.authorization for request in hub.requests if request.host == "cdn"} == {None}
        assert "Bearer hf_secret" in {request.authorization for request in hub.requests if request.host == "hub"}
        assert any("/api/resolve-cache/" in request.path for request in hub.requests) is redirect


def test_tree_over_several_pages(tmp_path: Path) -> None:
    """A listing in pages is the whole listing, with directories, in three ways of asking."""
    with StandInHub(page_size=2) as hub:
        hub.add("org/name", FILES)
        code = """
import json
from huggingface_hub import HfApi
listed = [[entry.path for entry in HfApi().list_repo_tree("org/name", path, recursive=recursive, expand=recursive)]
          for path, recursive in ((None, True), (None, False), ("sub/deeper", True))]
print(json.dumps(listed))
"""
        everything, top, deeper = python(code, hub, tmp_path / "home")

        assert sorted(everything) == sorted([*FILES, "1_Dense", "sub", "sub/deeper"])
        assert sorted(top) == ["1_Dense", "README.md", "config.json", "model.safetensors", "sub"]
        assert deeper == ["sub/deeper/100 % \u00fc.txt"]
        assert sum("cursor=" in request.path for request in hub.requests) == 5


def test_every_kind_of_revision(hub: StandInHub, tmp_path: Path) -> None:
    """Branch, tag, pull request, old commit and a bare id all lead to the right bytes."""
    first = hub.add("alone", {"a b.txt": b"1"})
    hub.tag("alone", "v1.0", first)
    hub.add("alone", {"a b.txt": b"2"})
    hub.add("alone", {"a b.txt": b"3"}, branch="refs/pr/1")
    code = f"""
import json
from huggingface_hub import HfApi, hf_hub_download
read = [open(hf_hub_download("alone", "a b.txt", revision=revision)).read()
        for revision in ("main", "v1.0", "refs/pr/1", {first!r}, {first[:7]!r})]
api = HfApi()
[pull] = api.get_repo_discussions("alone")
history = [commit.commit_id for commit in api.list_repo_commits("alone", revision=pull.git_reference)]
print(json.dumps([read, len(history), history[-1], [ref.name for ref in api.list_repo_refs("alone").tags]]))
"""
    assert python(code, hub, tmp_path / "home") == [["2", "1", "3", "1", "1"], 3, first, ["v1.0"]]


def test_refusals_become_typed_errors(hub: StandInHub, tmp_path: Path) -> None:
    """Each way of saying no is the exception huggingface_hub has for it."""
    hub.add("org/gated", FILES, gated=True)
    hub.add("org/private", FILES, private=True)
    code = """
import json, sys
from huggingface_hub import HfApi
def name(call, *args, **kwargs):
    try:
        call(*args, **kwargs)
    except Exception as error:
        return f"{type(error).__name__} {error.response.status_code}"
    return "fine"
print(json.dumps([[
    name(api.model_info, "org/none"),
    name(api.list_repo_files, "org/private"),
    name(api.model_info, "org/name", revision="none"),
    name(api.hf_hub_download, "org/name", "config.json", revision="none"),
    name(api.hf_hub_download, "org/name", "none.json"),
    name(lambda: list(api.list_repo_tree("org/name", "none"))),
    name(api.hf_hub_download, "org/gated", "config.json"),
    name(api.list_repo_files, "org/gated"),
] for api in (HfApi(token=False), HfApi(token="hf_stranger"))]))
"""
    rest = ["RevisionNotFoundError 404"] * 2 + ["RemoteEntryNotFoundError 404"] * 2
    assert python(code, hub, tmp_path / "home") == [
        ["RepositoryNotFoundError 401", "RepositoryNotFoundError 401", *rest, "GatedRepoError 401", "fine"],
        ["RepositoryNotFoundError 404", "RepositoryNotFoundError 404", *rest, "GatedRepoError 403", "fine"],
    ]
    missing = next(request for request in hub.requests if request.file == "none.json")
    assert Raw(hub.url).head(missing.path, "HEAD").headers["X-Repo-Commit"] is not None


def test_one_token_opens_everything_and_others_nothing(hub: StandInHub, raw: Raw) -> None:
    """The right token reads private and gated files; a wrong one is refused everywhere."""
    hub.token = "hf_right"
    hub.add("org/both", FILES, private=True, gated=True)

    assert raw.get("/org/both/resolve/main/config.json", Authorization="Bearer hf_right")[0] == 200
    assert raw.get("/api/whoami-v2", Authorization="Bearer hf_right")[0] == 200
    for path in ("/org/name/resolve/main/config.json", "/api/models/org/name", "/api/whoami-v2"):
        status, headers, _ = raw.get(path, Authorization="Bearer hf_wrong")
        assert (status, headers["X-Error-Message"]) == (401, "Invalid credentials in Authorization header")
    assert raw.get("/org/name/resolve/main/config.json")[0] == 200


def test_model_info_tells_what_the_card_says(hub: StandInHub, tmp_path: Path) -> None:
    """Licence, base model and tags come from the card, licence also from the caller; sizes from the files."""
    hub.add("org/other", FILES, licence="apache-2.0")
    code = """
import json
from huggingface_hub import HfApi
name, other = (HfApi().model_info(id, files_metadata=True) for id in ("org/name", "org/other"))
sizes = {s.rfilename: s.size for s in name.siblings}
only = HfApi().model_info("org/name", expand=["sha", "gated"])
print(json.dumps([name.tags, name.card_data.license, other.card_data.license, sizes, only.siblings, only.gated]))
"""
    tags, licence, other, sizes, siblings, gated = python(code, hub, tmp_path / "home")

    assert {"license:mit", "tiny", "base_model:org/base", "safetensors"} <= set(tags)
    assert (licence, other, siblings, gated) == ("mit", "apache-2.0", None, False)
    assert sizes == {path: len(data) for path, data in FILES.items() if isinstance(data, bytes)}


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make a tiny embedding model and a tiny reranker with random weights."""
    home = tmp_path_factory.mktemp("models")
    python(TINY_MODELS, None, home, preloaded.run)
    return home / "hub"


@pytest.mark.parametrize(
    ("kind", "name", "numbers"),
    [
        ("SentenceTransformer", "org/embed", "encode(['law court', 'apple'])"),
        ("CrossEncoder", "org/rerank", "predict([('law', 'court'), ('law', 'apple')])"),
    ],
)
@pytest.mark.slow
def test_sentence_transformers_loads_from_it(kind: str, name: str, numbers: str, models: Path, tmp_path: Path) -> None:
    """A model loaded online from an empty cache gives the numbers of the local one."""
    with StandInHub() as hub:
        hub.add(name, models / name)
        code = f"""
import json, sentence_transformers
load = sentence_transformers.{kind}
print(json.dumps([load(id).{numbers}.tolist() for id in ({name!r}, {str(models / name)!r})]))
"""
        online, local = python(code, hub, tmp_path / "home", preloaded.run)

        assert online == local
        assert {request.authorization for request in hub.requests} == {None}
        assert any(request.host == "cdn" for request in hub.requests)


def test_folder_is_served_by_the_command(tmp_path: Path) -> None:
    """The command prints the endpoint alone, serves the folder and ends on SIGTERM."""
    (tmp_path / "org/name").mkdir(parents=True)
    (tmp_path / "org/name/config.json").write_bytes(b"{}")
    # -S: without site-packages, for it must run where nothing is installed
    command = [sys.executable, "-S", "-m", "tests.support.hub", str(tmp_path)]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        answer = Raw(process.stdout.readline().strip()).get("/org/name/resolve/main/config.json")
        process.send_signal(signal.SIGTERM)

        assert (answer[0], answer[2]) == (200, b"{}")
        assert process.wait(timeout=5) == 0
        assert process.stdout.read() == ""


# --- the protocol


def test_names_are_the_ones_git_gives(hub: StandInHub, raw: Raw, tmp_path: Path) -> None:
    """Blob and tree ids in the listing are those of a real git repository."""
    files = {"a/b.txt": b"1", "a.txt": b"2", "a-z/c.txt": b"3", "a/x/y.txt": b"4"}
    for path, data in files.items():
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_bytes(data)
    for command in (["init", "-q"], ["add", "-A"]):
        subprocess.run(["git", *command], cwd=tmp_path, check=True)
    root = subprocess.check_output(["git", "write-tree"], cwd=tmp_path, text=True).strip()
    rows = subprocess.check_output(["git", "ls-tree", "-r", "-t", root], cwd=tmp_path, text=True).splitlines()
    hub.add("org/git", {**files})

    listed = json.loads(raw.get("/api/models/org/git/tree/main?recursive=true")[2])
    assert {(entry["oid"], entry["path"]) for entry in listed} == {(row.split()[2], row.split("\t")[1]) for row in rows}


def test_file_headers_name_commit_and_content(hub: StandInHub, raw: Raw, cdn: Raw) -> None:
    """A small file has its git id as ETag; a large one is redirected under its SHA-256, which the cdn does not tell."""
    small = raw.get("/org/name/resolve/main/config.json")[1]
    large = raw.head("/org/name/resolve/main/model.safetensors", "HEAD").headers
    status, headers, body = cdn.get(large["Location"].removeprefix(hub.cdn_url))

    assert small["ETag"] == '"46332c50668921e90868a1d44a2550bb60ffdb1d"'
    assert large["X-Linked-Etag"] == f'"{hashlib.sha256(WEIGHTS).hexdigest()}"'
    assert large["X-Linked-Size"] == str(len(WEIGHTS))
    assert small["X-Repo-Commit"] == large["X-Repo-Commit"] == json.loads(raw.get("/api/models/org/name")[2])["sha"]
    assert (status, body) == (200, WEIGHTS)
    assert headers["ETag"] != large["X-Linked-Etag"]


def test_ranges_and_conditions(hub: StandInHub, raw: Raw, cdn: Raw, weights: str) -> None:
    """Both hosts cut single ranges, refuse ranges past the end and ignore what they do not know."""
    size = len(WEIGHTS)
    for first, last, asked in ((10, 19, "10-19"), (299_999, size - 1, "299999-"), (size - 5, size - 1, "-5")):
        status, headers, body = cdn.get(weights, Range=f"bytes={asked}")
        assert (status, body) == (206, WEIGHTS[first : last + 1])
        assert headers["Content-Range"] == f"bytes {first}-{last}/{size}"
    assert cdn.get(weights, Range=f"bytes={size}-")[1]["Content-Range"] == f"bytes */{size}"
    assert cdn.get(weights, Range="bytes=0-1,5-6")[0] == 200
    assert cdn.get(weights, Range="bytes=5-9", If_Range='"older"')[0] == 200
    status, headers, body = raw.get("/org/name/resolve/main/config.json", Range="bytes=1-")
    assert (status, body) == (206, bytes(FILES["config.json"])[1:])
    assert raw.get("/org/name/resolve/main/config.json", If_None_Match=headers["ETag"])[0] == 304
    assert [request.range for request in hub.requests][:2] == ["bytes=10-19", "bytes=299999-"]


def test_cdn_refuses_what_is_not_signed(hub: StandInHub, cdn: Raw, weights: str) -> None:
    """An Authorization header is an error on the cdn, and on the record; so is an unknown signature."""
    assert cdn.get(weights, Authorization="Bearer hf_leak")[0] == 400
    assert cdn.get(weights.replace("Signature=", "Signature=0"))[0] == 403
    assert [request.authorization for request in hub.requests] == ["Bearer hf_leak", None]


def test_one_connection_carries_many_requests(hub: StandInHub, raw: Raw) -> None:
    """Connections stay open after files, errors, HEAD and redirects."""
    raw.get("/org/name/resolve/main/config.json")
    sock = raw.connection.sock
    raw.get("/org/name/resolve/main/none")
    raw.head("/org/name/resolve/main/config.json", "HEAD")
    raw.get("/org/name/resolve/main/model.safetensors")
    assert raw.connection.sock is sock
    assert [request.status for request in hub.requests] == [200, 404, 200, 302]


def test_weights_are_in_lfs_whatever_their_size(hub: StandInHub, raw: Raw) -> None:
    """Patterns decide like the Hub's .gitattributes, or the repository's own; size decides for the rest."""
    hub.add("org/own", {".gitattributes": b"*.txt filter=lfs diff=lfs merge=lfs -text\n", "a.txt": b"", "b.bin": b""})
    hub.add("org/big", {"vocab.json": b"0" * 10_000_000})

    def lfs(repo: str) -> set[str]:
        listed = json.loads(raw.get(f"/api/models/{repo}/tree/main?recursive=true")[2])
        return {entry["path"] for entry in listed if "lfs" in entry}

    assert lfs("org/name") == {"model.safetensors", "1_Dense/model.safetensors"}
    assert lfs("org/own") == {"a.txt"}
    assert lfs("org/big") == {"vocab.json"}


def test_commits_are_deterministic_and_stay(hub: StandInHub, raw: Raw) -> None:
    """The same history has the same hashes; older commits stay readable until the repository goes."""
    with StandInHub() as other:
        first = hub.add("org/history", {"a": b"1"})
        second = hub.add("org/history", {"a": b"2"})
        assert [other.add("org/history", {"a": data}) for data in (b"1", b"2")] == [first, second]

    assert raw.get(f"/org/history/resolve/{first}/a")[2] == b"1"
    assert raw.get("/org/history/resolve/main/a")[2] == b"2"
    hub.remove("org/history")
    assert raw.get(f"/org/history/resolve/{first}/a")[0] == 401


def test_a_renamed_repository_redirects_and_answers_with_its_new_id(hub: StandInHub, raw: Raw, tmp_path: Path) -> None:
    """As the real one: 307 for the API and for files, with a path and no host."""
    commit = hub.add("org/old", {"a": b"1"})
    hub.rename("org/old", "neworg/new")
    for path in (
        "/api/models/{}",
        "/api/models/{}/tree/main?recursive=true",
        "/{}/resolve/main/a",
        "/api/models/{}/refs",
    ):
        status, headers, _ = raw.get(path.format("org/old"))
        assert (status, headers["Location"]) == (307, path.format("neworg/new"))
    assert json.loads(raw.get("/api/models/neworg/new/revision/main")[2])["id"] == "neworg/new"
    code = """
from huggingface_hub import HfApi, hf_hub_download
info = HfApi().model_info("org/old")
print(__import__("json").dumps([info.id, info.sha, open(hf_hub_download("org/old", "a")).read()]))
"""
    assert python(code, hub, tmp_path / "home") == ["neworg/new", commit, "1"]


def test_a_forced_push_takes_a_commit_out_of_the_history(hub: StandInHub, raw: Raw) -> None:
    """The commits before and after it stay what they were."""
    first, gone, last = (hub.add("org/history", {"a": data}) for data in (b"1", b"2", b"3"))
    hub.tag("org/history", "v1", first)
    hub.drop("org/history", gone)
    assert [row["id"] for row in json.loads(raw.get("/api/models/org/history/commits/main")[2])] == [last, first]
    assert raw.get(f"/api/models/org/history/tree/{gone}")[0] == 404
    assert raw.get(f"/org/history/resolve/{gone}/a")[1]["X-Error-Code"] == "RevisionNotFound"
    assert raw.get("/org/history/resolve/main/a")[2] == b"3"
    assert raw.get("/org/history/resolve/v1/a")[2] == b"1"


def test_a_repository_is_gated_without_a_commit(hub: StandInHub, raw: Raw) -> None:
    """Its owner has a switch for it."""
    commit = hub.add("org/open", {"a": b"1"})
    hub.gate("org/open")
    told = json.loads(raw.get("/api/models/org/open")[2])
    assert (told["gated"], told["sha"]) == ("manual", commit)
    assert raw.get("/org/open/resolve/main/a")[1]["X-Error-Code"] == "GatedRepo"


def test_a_lie_is_told_by_the_listing_alone(hub: StandInHub, raw: Raw) -> None:
    """The listing says what it was told to say, the file's own headers and bytes stay true."""
    hub.lie("org/name", "model.safetensors", size=7, sha256="0" * 64)
    hub.lie("org/name", "config.json", oid="1" * 40)
    told = {e["path"]: e for e in json.loads(raw.get("/api/models/org/name/tree/main?recursive=1")[2])}

    assert told["model.safetensors"]["lfs"] == {"oid": "0" * 64, "size": 7, "pointerSize": 131}
    assert told["config.json"]["oid"] == "1" * 40
    assert raw.get("/org/name/resolve/main/model.safetensors")[1]["X-Linked-Size"] == str(len(WEIGHTS))


# --- the faults, as seen by http.client


def test_files_on_disk_are_served_and_spoiled_alike(hub: StandInHub, cdn: Raw, raw: Raw, tmp_path: Path) -> None:
    """A file given by path is sent whole, in parts and with one byte flipped, like bytes in memory."""
    (tmp_path / "big.bin").write_bytes(WEIGHTS * 100)
    hub.add("org/disk", {"big.bin": tmp_path / "big.bin"})
    path = raw.get("/org/disk/resolve/main/big.bin")[1]["Location"].removeprefix(hub.cdn_url)
    offset = 20_000_000

    assert cdn.get(path)[2] == WEIGHTS * 100
    hub.fail(Flip(offset), on="cdn")
    spoiled = cdn.get(path)[2]
    assert [at for at in range(offset - 3, offset + 4) if spoiled[at] != (WEIGHTS * 100)[at]] == [offset]
    assert len(spoiled) == len(WEIGHTS) * 100
    assert [request.sent for request in hub.requests if request.host == "cdn"] == [len(spoiled)] * 2


def test_status_replaces_the_answer_so_many_times(hub: StandInHub, raw: Raw) -> None:
    """A fault hits the matching requests only, as often as it was asked to."""
    hub.fail(Status(429, {"Retry-After": "1"}, b"slow down"), on=r"GET hub /api/models/org/name$", times=2)

    assert raw.get("/api/models/org/name/refs")[0] == 200
    status, headers, body = raw.get("/api/models/org/name")
    assert (status, headers["Retry-After"], body) == (429, "1", b"slow down")
    assert [raw.get("/api/models/org/name")[0] for _ in range(2)] == [429, 200]
    assert [request.status for request in hub.requests] == [200, 429, 429, 200]


def test_faults_last_for_ever_when_asked_to(hub: StandInHub, raw: Raw) -> None:
    """Minus one time means every time."""
    hub.fail(Status(503), on="HEAD|GET", times=-1)
    assert [raw.get("/api/models/org/name")[0] for _ in range(3)] == [503] * 3


@pytest.mark.parametrize("after", [0, 1, 123_456])
def test_reset_comes_after_exactly_so_many_bytes(after: int, hub: StandInHub, cdn: Raw, weights: str) -> None:
    """The promised bytes arrive, then the connection is reset."""
    hub.fail(Reset(after), on=CDN_WEIGHTS)
    answer = cdn.head(weights)
    assert answer.headers["Content-Length"] == str(len(WEIGHTS))
    assert (answer.read(after) if after else b"") == WEIGHTS[:after]
    with pytest.raises(ConnectionResetError):
        answer.read(1)
    assert hub.requests[-1].sent == after


def test_reset_before_the_answer(hub: StandInHub, raw: Raw) -> None:
    """Reset(None) leaves not even a status line."""
    hub.fail(Reset(None), on="/api/models")
    with pytest.raises(ConnectionResetError):
        raw.get("/api/models/org/name")
    assert hub.requests[-1].status == 0


def test_short_ends_cleanly_too_early(hub: StandInHub, cdn: Raw, weights: str) -> None:
    """The length is announced in full, and the end comes as an ordinary end."""
    hub.fail(Short(1000), on=CDN_WEIGHTS)
    with pytest.raises(http.client.IncompleteRead) as error:
        cdn.get(weights)
    assert (error.value.partial, error.value.expected) == (WEIGHTS[:1000], len(WEIGHTS) - 1000)


@pytest.mark.parametrize(("fault", "status"), [(Silent(), 0), (Stall(1000), 200)])
def test_held_connections_stay_open(fault: Fault, status: int, hub: StandInHub, cdn: Raw, weights: str) -> None:
    """Nothing more comes and nothing ends, until the server closes."""
    hub.fail(fault, on=CDN_WEIGHTS)
    cdn.connection.request("GET", weights)
    assert cdn.connection.sock is not None
    cdn.connection.sock.settimeout(0.3)
    received = b""
    with pytest.raises(TimeoutError):  # noqa: PT012  # reads until nothing more comes
        while True:
            received += cdn.connection.sock.recv(65536)
    assert (received.partition(b"\r\n\r\n")[2], hub.requests[-1].status) == (WEIGHTS[: 1000 if status else 0], status)
    hub.close()
    assert cdn.connection.sock.recv(1) == b""


def test_held_connections_end_with_the_client(hub: StandInHub, cdn: Raw, weights: str) -> None:
    """A server thread does not outlive the client it holds."""
    hub.fail(Silent(), on=CDN_WEIGHTS)
    cdn.connection.request("GET", weights)
    time.sleep(0.1)
    cdn.connection.close()
    deadline = time.monotonic() + 5
    while hub._servers[1]._open and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not hub._servers[1]._open


def test_slow_keeps_its_pace(hub: StandInHub, cdn: Raw, weights: str) -> None:
    """A body of 300 kB at 600 kB/s takes half a second and is whole."""
    hub.fail(Slow(600_000), on=CDN_WEIGHTS)
    start = time.monotonic()
    assert cdn.get(weights)[2] == WEIGHTS
    assert 0.35 < time.monotonic() - start < 2


@pytest.mark.parametrize("asked", [None, "bytes=0-", "bytes=1000-2000", "bytes=1234-1234"])
def test_flip_spoils_one_byte_of_the_file(asked: str | None, hub: StandInHub, cdn: Raw, weights: str) -> None:
    """The offset counts from the start of the file, whatever range is asked for."""
    hub.fail(Flip(1234), on=CDN_WEIGHTS)
    start, _, stop = (asked or "bytes=0-").removeprefix("bytes=").partition("-")
    spoiled = bytearray(WEIGHTS)
    spoiled[1234] ^= 0xFF
    body = cdn.get(weights, **({"Range": asked} if asked else {}))[2]
    assert body == spoiled[int(start) : int(stop) + 1 if stop else None]


def test_flip_outside_the_range_does_nothing(hub: StandInHub, cdn: Raw, weights: str) -> None:
    """A range that does not hold the byte is not touched."""
    hub.fail(Flip(5), on=CDN_WEIGHTS)
    assert cdn.get(weights, Range="bytes=6-9")[2] == WEIGHTS[6:10]


def test_range_faults(hub: StandInHub, cdn: Raw, weights: str) -> None:
    """One answers with the whole file, the other with a part from elsewhere and says so."""
    hub.fail(IgnoreRange(), on=CDN_WEIGHTS)
    status, headers, body = cdn.get(weights, Range="bytes=100-")
    assert (status, headers["Content-Range"], body) == (200, None, WEIGHTS)
    for asked, told in (("100-199", "0-99"), ("100-", "0-299899"), ("0-9", "1-10")):
        hub.fail(WrongRange(), on=CDN_WEIGHTS)
        status, headers, body = cdn.get(weights, Range=f"bytes={asked}")
        first, last = map(int, told.split("-"))
        assert (status, headers["Content-Range"]) == (206, f"bytes {told}/{len(WEIGHTS)}")
        assert body == WEIGHTS[first : last + 1]


@pytest.mark.parametrize("delta", [-10, 10])
def test_wrong_length_is_announced(delta: int, hub: StandInHub, weights: str) -> None:
    """The header lies, the body is whole, and the connection ends after it."""
    hub.fail(WrongLength(delta), on=CDN_WEIGHTS)
    address = urlsplit(hub.cdn_url)
    with socket.create_connection((address.hostname, address.port), timeout=5) as sock:
        sock.sendall(f"GET {weights} HTTP/1.1\r\nHost: cdn\r\n\r\n".encode())
        head, _, body = b"".join(iter(lambda: sock.recv(65536), b"")).partition(b"\r\n\r\n")
    assert f"Content-Length: {len(WEIGHTS) + delta}\r\n".encode() in head + b"\r\n"
    assert body == WEIGHTS


def test_html_takes_the_place_of_the_answer(hub: StandInHub, raw: Raw) -> None:
    """A page is served with a perfectly good status."""
    hub.fail(Html(), on="config.json")
    status, headers, body = raw.get("/org/name/resolve/main/config.json")
    assert (status, headers.get_content_type(), body[:15]) == (200, "text/html", b"<!doctype html>")


def test_dropped_headers_are_gone(hub: StandInHub, raw: Raw) -> None:
    """Named headers are left out; without a length the body ends with the connection."""
    hub.fail(DropHeaders(("x-repo-commit", "Content-Length")), on="config.json")
    _, headers, body = raw.get("/org/name/resolve/main/config.json")
    assert (headers["X-Repo-Commit"], headers["Content-Length"]) == (None, None)
    assert body == FILES["config.json"]
    assert raw.connection.sock is None
