"""Models added to a models.toml: what stood there stands there still, byte for byte, and what is read is one more."""

from __future__ import annotations

import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from modelcache.core.errors import ManifestError
from modelcache.core.kinds import Kind
from modelcache.core.types import Pooling, WantedModel
from modelcache.formats.manifest import parse_manifest, parse_policy
from modelcache.formats.manifest_tables import table_text, with_tables
from tests.conftest import PROJECT

PATH = Path("models.toml")
NEW = WantedModel(Kind.EMBEDDING, "new/model", "v1")
FULL = WantedModel(
    Kind.EMBEDDING,
    "new/full",
    trust_remote_code=False,
    allow_pickle=True,
    pooling=Pooling.MEAN,
    normalize=False,
)
RERANKER = WantedModel(Kind.RERANKER, "new/reranker", trust_remote_code=True)
TABLES = {
    "one table": b'[[embedding]]\nid = "a/b"\n',
    "no final newline": b'[[embedding]]\nid = "a/b"',
    "a comment at the end": b'[[embedding]]\nid = "a/b" # mine\n# the end',
    "empty lines at the end": b'[[embedding]]\nid = "a/b"\n\n\n',
    "windows": b'# mine\r\n[[embedding]]\r\nid = "a/b"\r\n',
    "windows without final newline": b'[[embedding]]\r\nid = "a/b"',
    "both line ends": b'[[embedding]]\r\nid = "a/b"\n',
    "a byte order mark": b'\xef\xbb\xbf[[embedding]]\nid = "a/b"\n',
    "kinds in turn": b'[[embedding]]\nid = "a/b"\n\n# s\n[[reranker]]\nid="c/d"\n [[embedding]]#x\n  id = "e/f"\n',
    "strings of several lines": b'[[embedding]]\nid = """\\\n  a/b"""\npath = """[[reranker]]\n"""\n',
    "comments alone": b"# none yet\n",
    "nothing": b"",
    "white space": b"\n  \n",
    "an empty array": b"reranker = []\n",
    "a policy at the end": b'[[embedding]]\nid = "a/b"\n\n[policy]\npickle = false # never',
    "a policy in between": b'[[embedding]]\nid = "a/b"\n[policy]\nremote_code = false\n[[reranker]]\nid = "c/d"\n',
    "a policy first": b'# ours\n[policy]\nlicences = [\n  "mit", # ours\n]\n\n[[embedding]]\nid = "a/b"\n',
    "a policy alone": b'[policy]\r\nlicences = ["mit"]\r\n',
    "a policy inline": b"policy = { pickle = false }\n",
    "a policy by dots": b'policy.pickle = false\npolicy.licences = ["mit"]\n',
}
ARRAYS = {
    "one line": b'embedding = [{id = "a/b"}]\n',
    "spaces": b'embedding = [ {id="a/b"} , {id="c/d"} ] # tail\n',
    "empty": b"embedding = []",
    "several lines": b'embedding = [\n  {id = "a/b"}, # first\n  # two\n  {id = "c/d"},\n]\n# end\n',
    "no comma at the end": b'embedding = [\n    {id = "a/b"} # x\n]\nreranker = [{id="x/y", revision="v1"}, ]',
    "windows": b'embedding = [\r\n  {id = "a/b"},\r\n  {id="c/d"}\r\n]\r\n',
    "a comment alone": b"embedding = [\n  # none yet\n]\n",
    "before a policy": b'embedding = [{id = "a/b"}]\n\n[policy]\nlicences = ["mit"] # ours\n',
    "behind a policy": b'policy = {pickle = false}\nembedding = [{id = "a/b"}]\n',
    "before tables": b'# mine\n"embedding" = [{id = "a/b"}]\n\n[[reranker]]\nid = "c/d" # score\n',
}


def plain(content: bytes) -> set[WantedModel]:
    """Return the models of a manifest, without their lines."""
    return {replace(model, line=0) for model in parse_manifest(content, PATH)}


@pytest.mark.parametrize("models", [(NEW,), (FULL, RERANKER, NEW)], ids=["one", "three"])
@pytest.mark.parametrize("content", TABLES.values(), ids=TABLES)
def test_tables_are_appended(content: bytes, models: tuple[WantedModel, ...]) -> None:
    """What was there is the beginning of the new text, and the new lines end as the others do."""
    if content.startswith(b"reranker") and len(models) > 1:
        models = (NEW, FULL)
    new = with_tables(content, PATH, models).encode()
    assert new.startswith(content)
    assert plain(new) == plain(content) | set(models)
    assert parse_policy(new, PATH) == parse_policy(content, PATH)
    added = new[len(content) :]
    if b"\r\n" in content and b"both" not in content and content.count(b"\n") == content.count(b"\r\n"):
        assert added.count(b"\n") == added.count(b"\r\n")
    elif b"\r" not in content:
        assert b"\r" not in added
    assert added.endswith(b"\n")
    assert not added.endswith(b"\n\n")


@pytest.mark.parametrize("content", ARRAYS.values(), ids=ARRAYS)
def test_an_array_gets_another_entry(content: bytes) -> None:
    """TOML has no table that follows an array of its name; nothing is lost, and every comment is on its line."""
    new = with_tables(content, PATH, (NEW, FULL)).encode()
    assert plain(new) == plain(content) | {NEW, FULL}
    assert parse_policy(new, PATH) == parse_policy(content, PATH)
    rest = iter(new)
    assert all(byte in rest for byte in content), "what was there is not all there in its order"
    for comment in re.findall(rb"[^\n,#]*,? *#.*", content):
        before, mark, after = comment.partition(b"#")
        same_line = re.escape(before.rstrip(b", ]")) + rb"[^\n]*" + re.escape(mark + after)
        assert re.search(same_line, new), comment
    assert (b"\r\n" in content) is (b"\r\n" in new)
    assert new.count(b"\n") == new.count(b"\r\n") or b"\r" not in new


def test_a_new_manifest_holds_the_tables_and_nothing_else() -> None:
    """An empty line stands between two; only what is not the default is written."""
    assert with_tables(None, PATH, (NEW, FULL, RERANKER)) == (
        '[[embedding]]\nid = "new/model"\nrevision = "v1"\n\n'
        '[[embedding]]\nid = "new/full"\ntrust_remote_code = false\nallow_pickle = true\n'
        'pooling = "mean"\nnormalize = false\n\n'
        '[[reranker]]\nid = "new/reranker"\ntrust_remote_code = true\n'
    )
    assert table_text(WantedModel(Kind.RERANKER, "a/b")) == '[[reranker]]\nid = "a/b"\n'


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"[[embeddin", "is not TOML"),
        (b"\xff\xfe", "UTF-16"),
        (b'[[embedding]]\nid = "a/b"\nfoo = 1\n', "models.toml:3: unknown key"),
        (b'[[embedding]]\nid = "NEW/model"\n', "would share one directory"),
        (b'[[embedding]]\nid = "new/model"\n', "listed twice"),
        (b"embedding = 1\n", "must be tables"),
    ],
)
def test_a_manifest_that_is_wrong_or_would_be(content: bytes, told: str) -> None:
    """It is refused with its own message."""
    with pytest.raises(ManifestError, match=told):
        with_tables(content, PATH, (NEW,))


def test_tomlkit_is_imported_for_arrays_alone() -> None:
    """A table at the end needs no library; `sync` and `lock` import neither."""
    program = (
        "import sys, pathlib\n"
        "import modelcache.cli.commands.sync, modelcache.cli.commands.lock\n"
        "assert 'modelcache.formats.manifest_tables' not in sys.modules\n"
        "from modelcache.formats.manifest_tables import with_tables\n"
        "from modelcache.core.types import WantedModel, Kind\n"
        "model = WantedModel(Kind.EMBEDDING, 'a/b')\n"
        "with_tables(b'# x', pathlib.Path('m'), [model])\n"
        "assert 'tomlkit' not in sys.modules\n"
        "with_tables(b'embedding = []', pathlib.Path('m'), [model])\n"
        "assert 'tomlkit' in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", program], cwd=PROJECT, check=True)
