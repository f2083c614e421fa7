"""`outdated`: the state of a pin whose repository is gated, renamed, gone or refused, and of every kind of revision."""

from __future__ import annotations

import json
from typing import Any

import pytest

from modelcache.core.kinds import Kind
from tests.conftest import Ran, Tool
from tests.support.hub import Html, Short, StandInHub, Status
from tests.support.versions import CODE, OLD, Edits, Keys, changed, modules, pickle, repository, weights

MODEL, IMPL, NEW_ID = "tinyorg/model", "other/impl", "neworg/model"
FILES = repository(Kind.EMBEDDING)
CARD: Edits = {"README.md": b"---\nlicense: mit\n---\nnew"}
REFS, HISTORY = "/api/models/.*/refs", "/api/models/.*/commits/"
STAY = "vectors stay as they are"


def want(tool: Tool, keys: str = "", model: str = MODEL) -> None:
    """Write a manifest of one model."""
    (tool.folder / "models.toml").write_text(f'[[embedding]]\nid = "{model}"\n{keys}\n')


def outdated(tool: Tool, *words: str) -> list[str]:
    """Run it; return its lines without their indentation."""
    done = tool("outdated", *words)
    assert done.exit_code == 0, done.err
    return [line.strip() for line in done.out.splitlines()]


def fields(tool: Tool) -> dict[str, Any]:
    """Return the JSON of the only model."""
    done = tool("outdated", "--json")
    assert done.exit_code == 0, done.err
    (found,) = json.loads(done.out)
    return dict(found)


def head(state: str, kind: str = "embedding", model: str = MODEL) -> str:
    """The first line of a model."""
    return f"{state:<10} {kind:<12} {model}"


def pinned(commit: str, day: int = 1) -> str:
    """The line of the pinned commit."""
    return f"{commit[:12]} 2024-01-{day:02}  pinned"


def newest(commit: str, day: int = 2, branch: str = "main") -> str:
    """The line of the newest commit."""
    return f"{commit[:12]} 2024-01-{day:02}  newest of {branch}"


@pytest.fixture
def commit(hub: StandInHub, tool: Tool) -> str:
    """The commit of a model that is pinned."""
    first = hub.add(MODEL, FILES)
    want(tool)
    assert tool("lock").exit_code == 0
    hub.forget()
    return first


def test_a_current_pin_costs_two_requests(commit: str, hub: StandInHub, tool: Tool) -> None:
    """One for the newest commit, one for its date."""
    assert outdated(tool) == [head("current"), pinned(commit)]
    assert len(hub.requests) == 2
    assert tool("outdated").err.splitlines()[-1].endswith("1 model: 1 current.")


def test_a_card_costs_a_handful(commit: str, hub: StandInHub, tool: Tool) -> None:
    """Two listings, and what has to be read to choose the files; what is in the root is not asked for."""
    assert tool("sync").exit_code == 0
    second = hub.add(MODEL, changed(FILES, CARD))
    hub.forget()
    assert outdated(tool) == [head("outdated"), pinned(commit), newest(second), "documents  README.md", STAY]
    assert {request.file for request in hub.requests if request.file} == {"README.md"}
    assert len(hub.requests) == 5


def test_a_pin_that_is_older_than_a_page_of_the_history_has_its_date(
    tool: Tool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is asked for by itself."""
    with StandInHub(page_size=20) as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.url)
        first = hub.add(MODEL, FILES)
        want(tool)
        assert tool("lock").exit_code == 0
        for number in range(24):
            second = hub.add(MODEL, changed(FILES, {"picture.png": b"%d" % number}))
        assert outdated(tool) == [head("outdated"), pinned(first), newest(second, 25), "nothing that is shipped"]
        assert sum("/commits/" in request.path for request in hub.requests) == 2


# Gated, renamed, gone


def test_a_gate_is_named_with_and_without_a_commit(
    commit: str, hub: StandInHub, tool: Tool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a token that may read it, the pin is current, and its terms are new."""
    hub.token = "hf_secret"
    monkeypatch.setenv("HF_TOKEN", hub.token)
    hub.gate(MODEL)
    assert outdated(tool) == [head("current"), pinned(commit), "access     gated false → true", STAY]
    second = hub.add(MODEL, changed(FILES, CARD), gated=True)
    lines = [head("outdated"), pinned(commit), newest(second), "documents  README.md", "access     gated false → true"]
    assert outdated(tool) == [*lines, STAY]


def test_a_gate_that_the_token_does_not_open_is_a_state(commit: str, hub: StandInHub, tool: Tool) -> None:
    """The newest commit is known, and no more; that is no error."""
    second = hub.add(MODEL, changed(FILES, CARD), gated=True)
    first, pin, new, reason = outdated(tool)
    assert [first, pin, new] == [head("denied"), f"{commit[:12]}  pinned", f"{second[:12]}  newest of main"]
    assert reason == f"{MODEL} is gated and cannot be read without a token"
    found = fields(tool)
    assert (found["state"], found["newest"], found["reason"], found["changes"]) == ("denied", second, reason, [])
    assert tool("outdated").err.splitlines()[-1].endswith("1 model: 1 denied.")


def test_a_token_that_is_refused_is_an_error(
    commit: str, hub: StandInHub, tool: Tool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It says nothing of the models."""
    hub.token = "hf_secret"
    monkeypatch.setenv("HF_TOKEN", "hf_other")
    done = tool("outdated")
    assert done.exit_code == 3
    assert "does not accept the token from HF_TOKEN" in done.err
    assert done.out == ""


@pytest.mark.parametrize("moved", [False, True])
def test_a_renamed_repository_is_followed(moved: bool, commit: str, hub: StandInHub, tool: Tool) -> None:
    """Its new id is on a line of its own; everything else is as before."""
    hub.rename(MODEL, NEW_ID)
    lines = [pinned(commit)]
    if moved:
        second = hub.add(NEW_ID, changed(FILES, CARD))
        lines += [newest(second)]
    lines += [f"renamed    {NEW_ID}"] + (["documents  README.md", STAY] if moved else [])
    assert outdated(tool) == [head("outdated" if moved else "current"), *lines]
    assert fields(tool)["renamed"] == NEW_ID


def test_a_repository_that_is_gone_is_a_state(commit: str, hub: StandInHub, tool: Tool) -> None:
    """The others are still compared."""
    hub.add("tinyorg/other", FILES)
    want(tool, '\n[[embedding]]\nid = "tinyorg/other"')
    assert tool("lock").exit_code == 0
    hub.remove(MODEL)
    lines = outdated(tool)
    assert lines[:3] == [head("gone"), f"{commit[:12]}  pinned", f"{MODEL} is not on 127.0.0.1"]
    assert lines[3] == head("current", model="tinyorg/other")
    effects = [one["effect"] for one in json.loads(tool("outdated", "--json").out)]
    assert effects == ["", "none"]
    assert tool("outdated").err.splitlines()[-1].endswith("2 models: 1 current, 1 gone.")


def test_a_pinned_commit_that_is_gone_is_said(commit: str, hub: StandInHub, tool: Tool) -> None:
    """After a forced push: what a `sync` elsewhere could not fetch any more. The pin has the hashes to compare with."""
    second = hub.add(MODEL, changed(FILES, {"model.safetensors": weights(1), **CARD}))
    hub.drop(MODEL, commit)
    lines = [f"{commit[:12]}  pinned, which is not on the Hub any more", newest(second)]
    rows = ["weights    model.safetensors", "documents  README.md", "vectors will differ: re-index"]
    assert outdated(tool) == [head("outdated"), *lines, *rows]
    assert fields(tool)["commit_is_gone"] is True


# Refused


@pytest.mark.parametrize(
    ("edits", "reason"),
    [
        ({"model.safetensors": None, "pytorch_model.bin": pickle(100_000)}, "pytorch_model.bin"),
        ({"config.json": Keys(auto_map={"AutoModel": "x.X"}), "x.py": CODE}, "trust_remote_code"),
        ({"config.json": b"{"}, "config.json"),
        ({"modules.json": None, "config.json": None}, "config.json"),
    ],
)
def test_a_newest_commit_that_is_not_shipped_is_refused_for_the_reason_of_lock(
    edits: Edits, reason: str, commit: str, hub: StandInHub, tool: Tool
) -> None:
    """In one line; `lock --upgrade` has the way out."""
    second = hub.add(MODEL, changed(FILES, edits))
    first, pin, new, said = outdated(tool)
    assert [first, pin, new] == [head("refused"), pinned(commit), newest(second)]
    assert reason in said
    assert (fields(tool)["effect"], fields(tool)["meaning"]) == ("", "")  # it is no harmless update
    refusal = tool("lock", "--upgrade", "--dry-run")
    assert refusal.exit_code == 5
    assert said.split(": ")[-1] in " ".join(refusal.err.split())


def test_code_of_a_repository_that_is_gone_is_refused(hub: StandInHub, tool: Tool) -> None:
    """The model itself is there."""
    hub.add(IMPL, {"modeling_x.py": CODE})
    hub.add(MODEL, changed(FILES, {"config.json": Keys(auto_map={"AutoModel": f"{IMPL}--modeling_x.X"})}))
    want(tool, "trust_remote_code = true")
    assert tool("lock").exit_code == 0
    hub.remove(IMPL)
    assert fields(tool)["state"] == "refused"
    assert outdated(tool)[-1] == f"{IMPL} is not on 127.0.0.1"


def test_a_commit_of_the_code_that_changes_no_code_is_no_update(hub: StandInHub, tool: Tool) -> None:
    """Its card alone: `lock --upgrade` would say that nothing has changed."""
    hub.add(IMPL, {"modeling_x.py": CODE})
    first = hub.add(MODEL, changed(FILES, {"config.json": Keys(auto_map={"AutoModel": f"{IMPL}--modeling_x.X"})}))
    want(tool, "trust_remote_code = true")
    assert tool("lock").exit_code == 0
    hub.add(IMPL, {"modeling_x.py": CODE, "README.md": b"new"})
    assert outdated(tool) == [head("current"), pinned(first)]


# Revisions


@pytest.mark.parametrize("revision", ["v1", "refs/tags/v1", "commit", "short"])
def test_a_tag_and_a_commit_are_held_against_main(revision: str, hub: StandInHub, tool: Tool) -> None:
    """They never move themselves."""
    first = hub.add(MODEL, FILES)
    hub.tag(MODEL, "v1", first)
    revision = {"commit": first, "short": first[:8]}.get(revision, revision)
    want(tool, f'revision = "{revision}"')
    assert tool("lock").exit_code == 0
    assert outdated(tool) == [head("current"), pinned(first)]
    second = hub.add(MODEL, changed(FILES, CARD))
    assert outdated(tool) == [head("outdated"), pinned(first), newest(second), "documents  README.md", STAY]


@pytest.mark.parametrize("branch", ["dev", "refs/pr/1", "facade1"])
def test_another_branch_is_held_against_itself(branch: str, hub: StandInHub, tool: Tool) -> None:
    """Also that of a pull request; whatever happens to main."""
    hub.add(MODEL, FILES)
    first = hub.add(MODEL, changed(FILES, {"picture.png": b"1"}), branch=branch)
    want(tool, f'revision = "{branch}"')
    assert tool("lock").exit_code == 0
    hub.add(MODEL, changed(FILES, CARD))
    assert outdated(tool) == [head("current"), pinned(first, 2)]
    second = hub.add(MODEL, changed(FILES, CARD), branch=branch)
    lines = [pinned(first, 2), newest(second, 4, branch), "documents  README.md", STAY]
    assert outdated(tool) == [head("outdated"), *lines]


def test_a_branch_that_is_gone_is_not_taken_for_a_tag(hub: StandInHub, tool: Tool) -> None:
    """Main is another version of the model, perhaps."""
    hub.add(MODEL, FILES)
    first = hub.add(MODEL, changed(FILES, CARD), branch="dev")
    want(tool, 'revision = "dev"')
    assert tool("lock").exit_code == 0
    hub.remove(MODEL)
    hub.add(MODEL, FILES)
    assert outdated(tool) == [head("gone"), f"{first[:12]}  pinned", f"{MODEL} at dev: there is no such revision"]


# Models that are not compared


def test_a_directory_and_a_model_that_is_not_pinned_cost_no_request(hub: StandInHub, tool: Tool) -> None:
    """A directory has no commit."""
    (tool.folder / "house").mkdir()
    for path, content in FILES.items():
        (tool.folder / "house" / path).parent.mkdir(exist_ok=True)
        (tool.folder / "house" / path).write_bytes(content)
    want(tool, 'path = "house"')
    assert tool("lock").exit_code == 0
    want(tool, 'path = "house"\n[[reranker]]\nid = "tinyorg/new"')
    lines = [head("directory"), "from a directory: `cache-models lock` compares it"]
    assert outdated(tool) == [*lines, head("not pinned", "reranker", "tinyorg/new")]
    assert [one["effect"] for one in json.loads(tool("outdated", "--json").out)] == ["", ""]
    assert hub.requests == []


def test_the_lock_alone_and_the_receipts_alone_are_pins(commit: str, hub: StandInHub, tool: Tool) -> None:
    """Without models.toml the lock says what is wanted; without a lock the receipts are the pin."""
    (tool.folder / "models.toml").unlink()
    assert outdated(tool) == [head("current"), pinned(commit)]
    want(tool)
    assert tool("sync").exit_code == 0
    (tool.folder / "models.lock").unlink()
    assert outdated(tool) == [head("current"), pinned(commit)]


@pytest.mark.parametrize(
    ("keys", "edits"),
    [
        ("allow_pickle = true", {"model.safetensors": None, "pytorch_model.bin": pickle(100_000)}),
        ('pooling = "cls"\nnormalize = true', {"modules.json": None, "1_Pooling/config.json": None}),
        ('include = ["onnx/*"]', {"onnx/model.onnx": b"x"}),
    ],
)
def test_the_lock_alone_knows_the_keys_of_a_model(keys: str, edits: Edits, hub: StandInHub, tool: Tool) -> None:
    """Of a newer commit only the card differs, as with models.toml."""
    hub.add(MODEL, changed(FILES, edits))
    want(tool, keys)
    assert tool("lock").exit_code == 0
    hub.add(MODEL, changed(FILES, {**edits, **CARD}))
    with_manifest = outdated(tool)
    assert with_manifest[3:] == ["documents  README.md", STAY]
    (tool.folder / "models.toml").unlink()
    assert outdated(tool) == with_manifest


def test_only_the_models_that_are_named_are_asked_for(commit: str, hub: StandInHub, tool: Tool) -> None:
    """An id that is in no table is refused."""
    want(tool, '[[reranker]]\nid = "tinyorg/new"')
    assert outdated(tool, "tinyorg/new") == [head("not pinned", "reranker", "tinyorg/new")]
    assert hub.requests == []
    assert tool("outdated", "tinyorg/unknown").exit_code == 2
    done = tool("outdated", "--locked")
    assert done.exit_code == 2
    assert "tinyorg/new (reranker) is not pinned" in done.err


def test_a_key_that_has_changed_since_is_compared_with_the_newest_commit(
    commit: str, hub: StandInHub, tool: Tool
) -> None:
    """Models.toml may be ahead of the lock."""
    want(tool, 'include = ["onnx/*"]')
    second = hub.add(MODEL, changed(FILES, {"onnx/model.onnx": b"\x08\x07"}))
    rows = ["included   onnx/model.onnx (new)", "pin        include unset → onnx/*", STAY]
    assert outdated(tool) == [head("outdated"), pinned(commit), newest(second), *rows]


# Servers


def test_a_mirror_without_references_and_history_answers_without_dates(hub: StandInHub, tool: Tool) -> None:
    """A branch is then asked for itself, as `lock --upgrade` does."""
    hub.add(MODEL, FILES)
    first = hub.add(MODEL, FILES, branch="dev")
    second = hub.add(MODEL, changed(FILES, CARD), branch="dev")
    want(tool, f'revision = "{first}"')
    assert tool("lock").exit_code == 0
    lock = (tool.folder / "models.lock").read_text().replace(f'revision = "{first}"', 'revision = "dev"')
    (tool.folder / "models.lock").write_text(lock)
    want(tool, 'revision = "dev"')
    for status in (404, 405, 501):
        hub.fail(Status(status), on=REFS)
        hub.fail(Status(status), on=HISTORY, times=2)
        lines = [f"{first[:12]}  pinned", f"{second[:12]}  newest of dev", "documents  README.md", STAY]
        assert outdated(tool) == [head("outdated"), *lines]


@pytest.mark.parametrize("route", [REFS, HISTORY])
@pytest.mark.parametrize("status", [429, 503])
def test_a_busy_server_is_asked_again(status: int, route: str, hub: StandInHub, tool: Tool) -> None:
    """A rate limit is waited for."""
    first = hub.add(MODEL, FILES)
    hub.tag(MODEL, "v1", first)
    want(tool, 'revision = "v1"')
    assert tool("lock").exit_code == 0
    hub.fail(Status(status, {"Retry-After": "0"}), on=route)
    assert outdated(tool) == [head("current"), pinned(first)]


@pytest.mark.parametrize("route", [REFS, HISTORY])
@pytest.mark.parametrize(
    ("fault", "said"),
    [
        (Html(), "answered with text/html instead of JSON"),
        (Short(5), ""),
        (Status(200, {"Content-Type": "application/json"}, b'[{"id": "'), "JSON that is broken or cut short"),
        (Status(200, {"Content-Type": "application/json"}, b"[" * 100_000), "JSON that is broken or cut short"),
        (Status(200, {"Content-Type": "application/json"}, b" " * (3 << 20)), ""),
        (Status(500), "status 500"),
    ],
)
def test_an_answer_that_is_none_is_exit_3(fault: Any, said: str, route: str, hub: StandInHub, tool: Tool) -> None:
    """Whatever came instead, and with nothing on stdout."""
    first = hub.add(MODEL, FILES)
    hub.tag(MODEL, "v1", first)
    want(tool, 'revision = "v1"')
    assert tool("lock").exit_code == 0
    hub.fail(fault, on=route, times=-1)
    done = tool("outdated")
    assert (done.exit_code, done.out) == (3, ""), done.err
    assert said in done.err


ODD = [
    *(b"null", b"{}", b"[]", b"7", b'"x"', b"[[]]", b"[NaN, 1e999]", b'["\\ud800"]'),
    *(b'[{"id": 1, "date": 2}]', b'[{"id": "x", "date": "2024-01-01"}]'),
    *(b'{"branches": 3}', b'{"branches": [null, {"name": []}], "tags": {}}'),
]


@pytest.mark.parametrize("body", ODD, ids=range(len(ODD)))
def test_an_odd_answer_leaves_the_dates_empty(body: bytes, commit: str, hub: StandInHub, tool: Tool) -> None:
    """It is JSON, and not what the Hub sends."""
    hub.fail(Status(200, {"Content-Type": "application/json"}, body), on=HISTORY, times=-1)
    assert outdated(tool) == [head("current"), f"{commit[:12]}  pinned"]
    lock = (tool.folder / "models.lock").read_text().replace('revision = "main"', 'revision = "dev"')
    (tool.folder / "models.lock").write_text(lock)
    want(tool, 'revision = "dev"')
    hub.fail(Status(200, {"Content-Type": "application/json"}, body), on=REFS, times=-1)
    assert outdated(tool)[-1] == f"{MODEL} at dev: there is no such revision"


def test_a_date_is_a_date(commit: str, hub: StandInHub, tool: Tool) -> None:
    """A server writes nothing else between the commit and the words behind it."""
    rows = [{"id": commit, "date": "2024-01-01\x1b[31m"}, {"id": commit[::-1], "date": "2024-01-01T"}]
    hub.fail(Status(200, {"Content-Type": "application/json"}, json.dumps(rows).encode()), on=HISTORY, times=-1)
    assert outdated(tool) == [head("current"), f"{commit[:12]}  pinned"]


@pytest.mark.parametrize("route", [REFS, HISTORY])
def test_the_token_is_not_sent_to_another_host(
    route: str, hub: StandInHub, tool: Tool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A redirect of these answers is followed without it."""
    hub.token = "hf_secret"
    monkeypatch.setenv("HF_TOKEN", hub.token)
    first = hub.add(MODEL, FILES)
    hub.tag(MODEL, "v1", first)
    want(tool, 'revision = "v1"')
    assert tool("lock").exit_code == 0
    hub.forget()
    with StandInHub() as other:
        other.add(MODEL, FILES)
        other.tag(MODEL, "v1", first)
        hub.fail(
            Status(
                302, {"Location": f"{other.url}/api/models/{MODEL}/{'refs' if route is REFS else f'commits/{first}'}"}
            ),
            on=route,
        )
        assert outdated(tool) == [head("current"), pinned(first)]
        assert [request.authorization for request in other.requests] == [None]
    assert {request.authorization for request in hub.requests} == {f"Bearer {hub.token}"}


def test_a_hub_that_does_not_answer_is_asked_once(hub: StandInHub, tool: Tool) -> None:
    """The message names every model, and no other one waits for it, too."""
    names = [f"tinyorg/model{number}" for number in range(9)]
    for name in names:
        hub.add(name, FILES)
    tool.want(*names)
    assert tool("lock").exit_code == 0
    hub.fail(Status(503), on=".", times=-1)
    hub.forget()
    done = tool("outdated")
    assert (done.exit_code, done.out) == (3, "")
    assert len(hub.requests) < 2 * len(names)  # the first four models, two tries each
    [named] = [line for line in done.err.splitlines() if line.startswith("  models: ")]
    assert sorted(named.removeprefix("  models: ").split(", ")) == names


@pytest.mark.parametrize("name", ["HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"])
def test_offline_is_exit_3_with_the_way_out(
    name: str, commit: str, hub: StandInHub, tool: Tool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """There is nothing to compare with."""
    monkeypatch.setenv(name, "1")
    done = tool("outdated")
    assert (done.exit_code, done.out) == (3, "")
    assert f"{name} is set" in done.err
    assert f"Unset {name}" in done.err
    assert hub.requests == []


ODD_FILES = [
    *(
        b"",
        b"null",
        b"[]",
        b"{}",
        b"{",
        b'"x"',
        b"7",
        b"\xff\xfe\x00",
        b"[[[1]]]",
        b'[{"path": 7, "type": []}]',
        b"[NaN]",
    ),
    *(b"[" * 100_000, b'{"a":' * 990 + b"1" + b"}" * 990, b'{"a": ' + b"9" * 5000 + b"}", b'{"\\ud800": "\\ud800"}'),
    *(b'{"types": {"a": 7}}', b'{"prompts": 7, "model_type": {}}', b'{"a": 1e999}', b"{}" + b" " * (5 << 20)),
]
CONFIGURATIONS = """
    modules.json config.json sentence_bert_config.json config_sentence_transformers.json 1_Pooling/config.json
    tokenizer_config.json tokenizer.json router_config.json adapter_config.json README.md
"""


@pytest.mark.parametrize("path", CONFIGURATIONS.split())
def test_whatever_a_configuration_holds_there_is_an_answer(path: str, commit: str, hub: StandInHub, tool: Tool) -> None:
    """The newest commit is compared or refused, and no model keeps the others from being compared."""
    states = set()
    for content in ODD_FILES:
        hub.add(MODEL, changed(FILES, {path: content}))
        states.add(fields(tool)["state"])
        assert_harmless(tool("outdated"), MODEL)
    assert states <= {"outdated", "refused"}


BAD = "\x1b]0;x\x07\r\x9b\u202e ::error::y ##vso[task]"


@pytest.mark.parametrize(
    ("edits", "state", "said"),
    [
        ({"config.json": Keys(hidden_act=BAD)}, "outdated", "config.json: hidden_act"),
        ({"config.json": Keys(**{BAD: 1})}, "outdated", "config.json: "),
        ({"config_sentence_transformers.json": Keys(prompts={BAD: BAD})}, "outdated", "prompts."),
        ({"modules.json": modules(f"={OLD}Transformer", f"1_Pooling=my.{BAD}")}, "refused", "my."),
        ({f"extra/{BAD}": b"x"}, "refused", "extra/"),
        ({"extra/##vso[x]": b"x"}, "outdated", "extra/"),
        ({"README.md": f"---\nlicense: {BAD!r}\n---\n".encode()}, "outdated", "licence"),
    ],
)
def test_nothing_of_a_hostile_repository_reaches_the_terminal(
    edits: Edits, state: str, said: str, hub: StandInHub, tool: Tool
) -> None:
    """What a terminal or a CI server would obey, in the names of files, in settings, in a licence."""
    files = changed(FILES, {"extra/one": b"x"})
    hub.add(MODEL, files)
    want(tool, 'include = ["extra/*"]\ntrust_remote_code = false')
    assert tool("lock").exit_code == 0
    hub.add(MODEL, changed(files, edits))
    assert fields(tool)["state"] == state
    for words in (("outdated",), ("outdated", "--json"), ("lock", "--upgrade", "--dry-run")):
        assert_harmless(tool(*words), said)


def assert_harmless(done: Ran, said: str = "") -> None:
    """Nothing in it is more than text."""
    assert done.exit_code in (0, 5), done.err
    assert said in done.out + done.err
    for line in (done.out + done.err).splitlines():
        assert line.isprintable()
        assert not line.lstrip().startswith("::")
        assert "##vso[" not in line


def test_an_id_and_a_reason_of_a_server_are_text(commit: str, hub: StandInHub, tool: Tool) -> None:
    """A new id that is none is not shown; a reason is shown as text."""
    answer = json.dumps({"sha": commit, "id": f"new/{BAD}"}).encode()
    hub.fail(Status(200, {"Content-Type": "application/json"}, answer), on="/revision/", times=2)
    done = tool("outdated")
    assert_harmless(done, pinned(commit))
    assert "renamed" not in done.out
    assert_harmless(tool("outdated", "--json"))
    headers = {"X-Error-Code": "GatedRepo", "X-Error-Message": "##vso[task] \x9b ::x"}
    hub.fail(Status(403, headers), on="/revision/", times=1)
    assert_harmless(tool("outdated"), head("denied"))
    hub.fail(Status(403, {"X-Error-Message": "##vso[task] \x9b ::x"}), on="/revision/", times=1)
    assert_harmless(tool("outdated"), "vso[task]")
