"""Code that a model names is brought along whole, or refused with every reason; a reference is rewritten exactly."""

from __future__ import annotations

import importlib.util
import json
import re
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelcache.core.errors import PolicyError
from modelcache.resolver.code_references import make_references_local, references
from modelcache.resolver.remote_code import CodeFile, VendoredCode, vendor_code
from modelcache.resolver.source_code import seen_by_transformers
from tests.support import models
from tests.support.models.remote_code import CODE
from tests.support.tiny import VOCABULARY, random_values, write_json, write_safetensors

if TYPE_CHECKING:
    import numpy as np

    from tests.support.models.outputs import Kind

needs_torch = pytest.mark.skipif(
    importlib.util.find_spec("sentence_transformers") is None, reason="sentence-transformers is not installed"
)

OWN, IMPL, MORE = "owner/name", "otherorg/impl", "third/more"
CONFIG = "config.json"
ST = "sentence_transformers.models"

Files = Mapping[str, Mapping[str, str | bytes]]


def auto_map(**references: object) -> bytes:
    """Return a config.json with these references."""
    return json.dumps({"auto_map": references, "hidden_size": 32}).encode()


def vendored(repositories: Files, configs: Mapping[str, bytes] | str = "m.Model") -> VendoredCode:
    """Vendor with the repositories as a table of texts; a single reference stands for a config.json with it."""
    if isinstance(configs, str):
        configs = {CONFIG: auto_map(AutoModel=configs)}

    def read(repository: str, path: str) -> bytes | None:
        text = repositories.get(repository, {}).get(path)
        return text.encode() if isinstance(text, str) else text

    return vendor_code(OWN, configs, read)


def named(path: str, content: bytes) -> list[str]:
    """Say what a configuration names as code, each once."""
    return list(dict.fromkeys(reference.describe() for reference in references(path, content)))


def names(found: VendoredCode) -> dict[str, str]:
    """Return the repository of each file of code, by its name in the model."""
    assert [file.path for file in found.files] == sorted(file.path for file in found.files)
    return {file.path: file.repository for file in found.files}


# What is named, and how it is rewritten.


@pytest.mark.parametrize(
    ("path", "before", "after"),
    [
        (CONFIG, {"auto_map": {"AutoModel": "o/r--m.M"}}, {"auto_map": {"AutoModel": "m.M"}}),
        ("2_X/config.json", {"auto_map": {"AutoModel": "o/r--m.M"}}, {"auto_map": {"AutoModel": "m.M"}}),
        (CONFIG, {"auto_map": {"A": "o/r--m.M", "B": "n.N"}}, {"auto_map": {"A": "m.M", "B": "n.N"}}),
        (CONFIG, {"auto_map": {"A": "o/r--m-2.M"}}, {"auto_map": {"A": "m-2.M"}}),
        (
            "tokenizer_config.json",
            {"auto_map": {"AutoTokenizer": ["o/r--t.Slow", None]}},
            {"auto_map": {"AutoTokenizer": ["t.Slow", None]}},
        ),
        (
            "tokenizer_config.json",
            {"auto_map": [None, "o/r--t.Fast"]},
            {"auto_map": [None, "t.Fast"]},
        ),
        (
            "preprocessor_config.json",
            {"auto_map": {"AutoImageProcessor": {"pil": "o/r--p.Slow", "torchvision": "p.Fast"}}},
            {"auto_map": {"AutoImageProcessor": {"pil": "p.Slow", "torchvision": "p.Fast"}}},
        ),
        (CONFIG, {"text_config": {"auto_map": {"A": "o/r--m.M"}}}, {"text_config": {"auto_map": {"A": "m.M"}}}),
        ("modules.json", [{"path": "", "type": "o/r--c.Thing"}], [{"path": "", "type": "c.Thing"}]),
        ("router_config.json", {"types": {"a": "o/r--c.Thing"}}, {"types": {"a": "c.Thing"}}),
        ("0_Asym/config.json", {"types": {"a": "o/r--c.Thing"}}, {"types": {"a": "c.Thing"}}),
        ("0_WordEmbeddings/wordembedding_config.json", {"tokenizer_class": "o/r--t.W"}, {"tokenizer_class": "t.W"}),
    ],
)
def test_a_reference_becomes_a_local_one(path: str, before: object, after: object) -> None:
    for indent in (None, 2):
        assert (
            make_references_local(path, json.dumps(before, indent=indent).encode())
            == json.dumps(after, indent=indent).encode()
        )


@pytest.mark.parametrize(
    ("path", "content"),
    [
        (CONFIG, '{"auto_map": {"AutoModel": "m.M"}}'),
        (CONFIG, '{"auto_map" : {"AutoModel":\t"m\\u002eM"},\r\n "a": 1e3, "b": 1.50, "a": [ ]}  \n'),
        (CONFIG, '{"name": "o/r--m.M", "AutoModel": "o/r--m.M", "types": "o/r--m.M"}'),
        (CONFIG, '{"auto_map": {"o/r--m.M": null}}'),
        (CONFIG, '{"a": "\\"auto_map\\": {\\"A\\": \\"o/r--m.M\\"}"}'),
        (CONFIG, '{"a": {"auto_map": 1}, "b": "o/r--m.M", "c": [[], {}, "o/r--m.M"]}'),
        ("modules.json", '[{"path": "o/r--m.M", "type": "sentence_transformers.models.Pooling"}]'),
        ("modules.json", '[{"type": ["o/r--m.M"]}, [{"type": "o/r--m.M"}]]'),
        ("tokenizer_config.json", '{"types": {"a": "o/r--m.M"}}'),
        ("generation_config.json", "3"),
    ],
)
def test_everything_else_is_left_byte_for_byte(path: str, content: str) -> None:
    assert make_references_local(path, content.encode()) == content.encode()


def test_only_the_literal_changes() -> None:
    """Order, spaces, numbers, doubled keys, escapes and other alphabets stay as they are."""
    before = (
        '{ "b":1.0,\t"auto_map" :{"A" : "o\\/r\\u002d-m.M" ,"A":"o/r--n.N"},"ü":"\\ud83d", "b": 1E5,"t":[{},"]"]}\n'
    )
    after = '{ "b":1.0,\t"auto_map" :{"A" : "m.M" ,"A":"n.N"},"ü":"\\ud83d", "b": 1E5,"t":[{},"]"]}\n'
    assert make_references_local(CONFIG, before.encode()) == after.encode()


def test_an_escaped_key_is_the_same_key() -> None:
    assert (
        make_references_local(CONFIG, b'{"auto\\u005fmap": {"A": "o/r--m.M"}}') == b'{"auto\\u005fmap": {"A": "m.M"}}'
    )


def test_references_are_told_in_words() -> None:
    content = auto_map(AutoConfig="c.Config", AutoModel=["o/r--m.M", None], AutoModelAgain="c.Config", Bad="\x1b[1m")
    assert named(CONFIG, content) == [
        "config.json names c.Config",
        "config.json names o/r--m.M",
        "config.json names \\x1b[1m",
    ]
    modules = json.dumps([{"type": f"{ST}.Transformer"}, {"type": "other/repo--custom_st.Thing"}]).encode()
    assert named("modules.json", modules) == ["modules.json names other/repo--custom_st.Thing"]
    assert named("tokenizer_config.json", b"{}") == []


@pytest.mark.parametrize(
    "content", [b"", b"{", b"\xff", b"\xef\xbb\xbf{}", '{"a": "ä"}'.encode("utf-16"), b"[" * 99999]
)
@pytest.mark.parametrize("ask", [references, make_references_local])
def test_what_is_not_json_is_refused(ask: Callable[[str, bytes], object], content: bytes) -> None:
    with pytest.raises(PolicyError, match=r"config\.json is not JSON"):
        ask(CONFIG, content)
    with pytest.raises(PolicyError, match=r"config\.json is not JSON"):
        vendor_code(OWN, {CONFIG: content}, lambda *_: None)


# What is brought along.


def test_a_model_without_code_needs_nothing() -> None:
    assert vendored({}, {CONFIG: b'{"hidden_size": 3}', "modules.json": b"[]"}) == VendoredCode((), {}, ())


def test_imports_are_followed_in_the_repository_of_the_file_that_imports() -> None:
    repositories = {
        OWN: {"own.py": "from .deep import x", "deep.py": "own"},
        IMPL: {"m.py": "from .near import x", "near.py": "from .far import y\nfrom .m import x", "far.py": ""},
        MORE: {"c.py": "from .base import x", "base.py": ""},
    }
    configs = {
        CONFIG: auto_map(AutoConfig=f"{MORE}--c.C", AutoModel=f"{IMPL}--m.M", AutoModelForX="own.X"),
        "tokenizer_config.json": b'{"a": 1}',
    }
    found = vendored(repositories, configs)
    assert names(found) == {
        "base.py": MORE,
        "c.py": MORE,
        "deep.py": OWN,
        "far.py": IMPL,
        "m.py": IMPL,
        "near.py": IMPL,
        "own.py": OWN,
    }
    assert found.rewritten == {CONFIG: auto_map(AutoConfig="c.C", AutoModel="m.M", AutoModelForX="own.X")}


@pytest.mark.parametrize(
    "code",
    [
        "from .a import x",
        "from .a import (x,\n y)",
        "from .a import *",
        "if True:\n\tfrom .a import x",
        "\x0cfrom .a import x",
        "match 1:\n    case 1:\n        from .a import x",
        "with open('x'):\n    from .a import x",
        "from .a import x; from .a import y",
        "from .a import x\nimport importlib\ny = importlib.import_module('.a', __package__)",
        "def f():\n    from .a import x",
        "try:\n    from .a import x\nexcept ImportError:\n    x = None",
        "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from .a import x",
        "if TYPE_CHECKING: from .gone import y\nfrom .a import x",
        "import importlib\nfrom .a import x\ny = importlib.import_module('.models', 'gone')",
        "import importlib\nfrom .a import x\ny = importlib.import_module(x)",
        "from .a import x\ntry:\n    y = __import__('gone', globals(), level=1)\nexcept ImportError:\n    pass",
        'HELP = """\n    from .a import x\n"""',
        'HELP = """\nimport .a\n"""',
        "from .a import x\r\n",
        "x = 1\rfrom .a import x\r",
        '"\\d"\nfrom .a import x',
    ],
)
def test_every_spelling_of_an_import_is_followed(code: str) -> None:
    assert names(vendored({OWN: {"m.py": code, "a.py": ""}})) == {"a.py": OWN, "m.py": OWN}
    with pytest.raises(PolicyError, match=r"m\.py of owner/name imports \.a, and owner/name has no a\.py"):
        vendored({OWN: {"m.py": code}})


@pytest.mark.parametrize(
    ("code", "line"),
    [
        ("from .a \\\n  import x", 1),
        ("from . a import x", 1),
        ("from.a import x", 1),
        ("x = 1\nx = 2; from .a import x\nx = 3; from .a import y", 2),
        ("if True: from .a import x", 1),
        ("try: from .a import x\nexcept ImportError: x = None", 1),
        ("def f(): from .a import x", 1),
        ("if TYPE_CHECKING: from .b import y\nelse: from .a import x", 2),
        ("import importlib\nx = importlib.import_module('.a', __package__)", 2),
        ("from importlib import import_module\nx = import_module('.a', package=__package__)", 2),
        ("x = __import__('a', globals(), level=1)", 1),
        ("x = __import__('a', globals(), None, (), 1)", 1),
    ],
)
def test_an_import_that_transformers_does_not_see_is_refused(code: str, line: int) -> None:
    """It would leave the file behind, also where the repository is loaded from the Hub."""
    with pytest.raises(PolicyError, match=rf'm\.py .* imports \.a in line {line} in a form .* "from \.a import …"'):
        vendored({OWN: {"m.py": code, "a.py": "", "b.py": ""}})


def test_an_import_may_take_any_form_where_another_one_is_seen() -> None:
    """Each file that a configuration names is copied with what it imports, so it has to be seen from there."""
    code = {"m.py": "from .a import x\nfrom .b import y", "a.py": "x = 1; from .b import y", "b.py": ""}
    assert set(names(vendored({OWN: code}))) == set(code)
    with pytest.raises(PolicyError, match=r"a\.py of owner/name imports \.b in line 1"):
        vendored({OWN: code}, {CONFIG: auto_map(A="m.M", B="a.X")})


@pytest.mark.parametrize(
    ("code", "line"),
    [
        ("import os\nX = json.load(open(os.path.join(os.path.dirname(__file__), 'x.json')))", 2),
        ("with open(Path(__file__).parent / 'x.json') as file:\n    X = file.read()", 1),
        ("HERE = Path(__file__).parent\nTABLE = HERE\nX = (TABLE / 'x.json').read_text(encoding='utf-8')", 3),
        ("class A:\n    X = Path(__file__).with_name('x.json').read_bytes()", 2),
    ],
)
def test_a_file_opened_beside_the_code_is_refused(code: str, line: int) -> None:
    """Of what lies beside it only code is copied, so it fails as soon as it is imported, also from the Hub."""
    with pytest.raises(PolicyError, match=rf"m\.py of owner/name opens x\.json beside itself in line {line}"):
        vendored({OWN: {"m.py": code, "x.json": "{}"}})


@pytest.mark.parametrize(
    "code",
    [
        "X = Path(__file__).parent / 'x.json'",
        "def f():\n    return open(Path(__file__).parent / 'x.json')",
        "try:\n    X = open(Path(__file__).parent / 'x.json')\nexcept OSError:\n    X = None",
        "if __name__ == '__main__':\n    X = open(Path(__file__).parent / 'x.json')",
        "X = open(__file__).read()",
        "X = open(Path(__file__).parent / 'a.py', encoding='utf-8')",
        "X = open(Path(__file__).parent / 'x.json', 'w')",
        "X = open('x.json')",
    ],
)
def test_a_file_that_may_never_be_opened_is_left_to_the_check(code: str) -> None:
    """A name alone opens nothing, and a function may never be called."""
    assert vendored({OWN: {"m.py": code, "x.json": "{}"}}).files


@pytest.mark.parametrize("beside", ["house.py", "house/__init__.py"])
def test_a_file_beside_the_code_is_no_package(beside: str) -> None:
    """Such an import works where the author keeps both; transformers asks for a package of that name."""
    with pytest.raises(PolicyError, match=r'm\.py .* imports house as an installed package.*"from \.house import …"'):
        vendored({OWN: {"m.py": "from house import x", beside: ""}})
    for late in ("def late():\n    import house", "if TYPE_CHECKING:\n    import house"):
        assert vendored({OWN: {"m.py": "from .a import x", "a.py": late, beside: ""}}).packages == ("house",)


def test_a_repository_is_one_in_whatever_letters() -> None:
    """The Hub finds it in any, so the model's own code comes from the model's own commit."""
    configs = {CONFIG: auto_map(A="Owner/NAME--m.M", B=f"{IMPL}--n.N", C="OtherOrg/Impl--o.O")}
    found = vendored({OWN: {"m.py": "from .a import x", "a.py": ""}, IMPL: {"n.py": "", "o.py": ""}}, configs)
    assert names(found) == {"a.py": OWN, "m.py": OWN, "n.py": IMPL, "o.py": IMPL}
    assert found.rewritten == {CONFIG: auto_map(A="m.M", B="n.N", C="o.O")}


def test_a_mark_is_in_the_way_only_of_what_a_configuration_names() -> None:
    """Python reads a file with a byte order mark; transformers parses what it is pointed to, and cannot."""
    code = {"m.py": "from .a import x", "a.py": "\ufeffimport einops\nfrom .b import x", "b.py": ""}
    found = vendored({OWN: code})
    assert set(names(found)) == set(code)
    assert found.packages == ("einops",)
    with pytest.raises(PolicyError, match=r"a\.py of owner/name is not Python in UTF-8"):
        vendored({OWN: code}, {CONFIG: auto_map(A="m.M", B="a.X")})
    with pytest.raises(PolicyError, match=r"a\.py of owner/name imports \.b in line 1 in a form"):
        vendored({OWN: {**code, "a.py": "\ufefffrom .b import x"}})


def test_imports_may_go_round_in_circles() -> None:
    code = {"a.py": "from .b import x", "b.py": "from .c import x", "c.py": "from .a import x\nfrom .c import y"}
    assert set(names(vendored({OWN: code}, "a.A"))) == set(code)


def test_equal_files_of_two_repositories_are_one() -> None:
    """Which of them is written down does not depend on the order, and the model's own comes first."""
    code = {"m.py": "from .a import x", "a.py": ""}
    ways = [{"AutoModel": f"{MORE}--m.M", "AutoConfig": f"{IMPL}--m.C"}]
    ways += [dict(reversed(ways[0].items()))]
    found = [vendored({IMPL: code, MORE: code}, {CONFIG: auto_map(**way)}).files for way in ways]
    assert found[0] == found[1] == (CodeFile("a.py", IMPL), CodeFile("m.py", IMPL))
    configs = {CONFIG: auto_map(A=f"{IMPL}--m.M"), "tokenizer_config.json": auto_map(A="m.M")}
    assert names(vendored({IMPL: code, OWN: code}, configs)) == {"a.py": OWN, "m.py": OWN}


def test_equal_files_with_unequal_imports_are_a_collision() -> None:
    repositories = {name: {"m.py": "from .a import x", "a.py": f"x = '{name}'"} for name in (IMPL, MORE)}
    with pytest.raises(PolicyError, match=r"a\.py of otherorg/impl and a\.py of third/more differ"):
        vendored(repositories, {CONFIG: auto_map(A=f"{IMPL}--m.M", B=f"{MORE}--m.M")})


def test_packages_are_those_that_transformers_demands() -> None:
    code = """
import os, einops.layers, torch.nn.functional as F
import xml.etree.ElementTree
from __future__ import annotations
from sklearn.decomposition import PCA
from transformers.utils import is_flash_attn_2_available
from .a import y
from timm.models import x
if TYPE_CHECKING:
    import checked
if is_flash_attn_2_available() and True:
    import flash_attn
try:
    import apex
except ImportError:
    import apex_fallback
def late():
    import PIL.Image
"""
    found = vendored({OWN: {"m.py": code, "a.py": "import monai"}})
    assert found.packages == ("PIL", "checked", "einops", "monai", "timm")


# What is refused.


@pytest.mark.parametrize(
    ("files", "reference", "told"),
    [
        ({}, "m.Model", "config.json names m.Model, and owner/name has no m.py in its root"),
        ({}, f"{IMPL}--m.Model", "config.json names otherorg/impl--m.Model, and otherorg/impl has no m.py in its root"),
        ({}, "Model", "config.json names Model, which the loader cannot find"),
        ({}, "", "config.json names nothing, which"),
        ({}, "package.m.Model", "config.json names package.m.Model, which"),
        ({}, f"{IMPL}--m", 'has to look like "module.Class", or "owner/name--module.Class"'),
        ({}, f"{IMPL}--sub/m.Model", "which the loader cannot find"),
        ({}, f"{IMPL}--..m.Model", "which the loader cannot find"),
        ({}, f"{IMPL}--m.", "which the loader cannot find"),
        ({}, "bare--m.Model", "which the loader cannot find"),
        ({}, "a/b--c/d--m.Model", "which the loader cannot find"),
        ({}, "../a--m.Model", "which the loader cannot find"),
        ({}, "/m.Model", "which the loader cannot find"),
        ({}, "größe.Model", "which the loader cannot find"),
        ({}, "m.Mod\nel", "config.json names m.Mod\\nel, which"),
        ({"con.py": ""}, "con.Model", "con.py of owner/name has characters or a name that not every file system"),
        ({f"{'m' * 255}.py": ""}, f"{'m' * 255}.Model", "is too long"),
        ({"m.py": "from . import x"}, "m.Model", "m.py of owner/name imports ., which transformers does not follow"),
        ({"m.py": "from .. import x"}, "m.Model", "m.py of owner/name imports .., which"),
        ({"m.py": "from ..x import y"}, "m.Model", "m.py of owner/name imports ..x, which"),
        ({"m.py": "from .x.y import z"}, "m.Model", "m.py of owner/name imports .x.y, which"),
        ({"m.py": "from .größe import z"}, "m.Model", "m.py of owner/name imports .größe, which"),
        ({"m.py": "'''\nimport .x.y\n'''"}, "m.Model", "m.py of owner/name imports .x.y, which"),
        ({"m.py": "from .x import y", "x/__init__.py": ""}, "m.Model", "owner/name has no x.py in its root"),
        ({"m.py": "def ("}, "m.Model", "m.py of owner/name is not Python in UTF-8"),
        ({"m.py": "\ufeffx = 1"}, "m.Model", "is not Python in UTF-8"),
        ({"m.py": b"x = '\xff'"}, "m.Model", "is not Python in UTF-8"),
        ({"m.py": b"# coding: latin-1\nx = '\xff'"}, "m.Model", "is not Python in UTF-8"),
        ({"m.py": "x = '\0'"}, "m.Model", "is not Python in UTF-8"),
        ({"m.py": "(" * 5000 + ")" * 5000}, "m.Model", "is not Python in UTF-8"),
        ({"m.py": "-" * 100_000 + "1"}, "m.Model", "is not Python in UTF-8"),
        ({"m.py": "#" * (2**20 + 1)}, "m.Model", "m.py of owner/name takes more than 1.0 MB"),
        ({"m.py": "from .M import x", "M.py": ""}, "m.Model", "M.py of owner/name and m.py of owner/name differ"),
    ],
)
def test_what_cannot_be_brought_along_is_refused(files: dict[str, str | bytes], reference: str, told: str) -> None:
    with pytest.raises(PolicyError) as refused:
        vendored({OWN: files, IMPL: {}}, reference)
    assert told in refused.value.message
    assert "owner/name is not shipped with its code:" in refused.value.message
    assert "trust_remote_code = false" in refused.value.hint


@pytest.mark.parametrize("module_type", ["pylate.models.Other", "torch.nn.Identity", "Identity", "o/r--a.b.C"])
def test_a_module_type_of_an_installed_package_is_refused(module_type: str) -> None:
    with pytest.raises(PolicyError, match=r"modules\.json names .*, which the loader cannot find"):
        vendored({}, {"modules.json": json.dumps([{"type": module_type}]).encode()})


def test_the_dense_of_pylate_is_one_of_the_librarys_own_modules() -> None:
    """It is translated in modules.json, and nowhere else."""
    content = json.dumps([{"type": "pylate.models.Dense.Dense"}]).encode()
    assert references("modules.json", content) == []
    routes = json.dumps({"types": {"a": "pylate.models.Dense.Dense"}}).encode()
    assert [one.value for one in references("router_config.json", routes)] == ["pylate.models.Dense.Dense"]


def test_code_may_not_pass_for_the_library() -> None:
    modules = json.dumps([{"type": f"{IMPL}--sentence_transformers.Thing"}]).encode()
    with pytest.raises(PolicyError, match="has the name of a library"):
        vendored({IMPL: {"sentence_transformers.py": ""}}, {"modules.json": modules})


def test_all_reasons_come_at_once() -> None:
    repositories = {OWN: {"m.py": "from . import x\nfrom .gone import y"}, IMPL: {"m.py": ""}}
    configs = {CONFIG: auto_map(A="m.M", B=f"{IMPL}--m.M", C="nothing")}
    with pytest.raises(PolicyError) as refused:
        vendored(repositories, configs)
    lines = refused.value.message.splitlines()
    assert len(lines) == 5
    for told in (
        "names nothing",
        "imports .,",
        "no gone.py",
        "m.py of otherorg/impl differ",
    ):
        assert sum(told in line for line in lines) == 1


def test_a_library_is_too_much() -> None:
    many = {f"m{number}.py": f"from .m{number + 1} import x" for number in range(200)}
    with pytest.raises(PolicyError, match="more than 200 files of code"):
        vendored({OWN: {**many, "m200.py": ""}}, "m0.M")
    assert len(vendored({OWN: {**many, "m199.py": ""}}, "m0.M").files) == 200


# Laws over anything.

WORDS = ["auto_map", "types", "type", "o/r--m.M", "m.M", "a--b", "--", "o/r--m.M.M", "sentence_transformers.models.X"]
TEXTS = st.sampled_from(WORDS) | st.text(max_size=8)
VALUES: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | TEXTS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXTS, inner, max_size=4),
    max_leaves=20,
)
PATHS = st.sampled_from([CONFIG, "tokenizer_config.json", "modules.json", "router_config.json", "1_X/config.json"])
DOCUMENTS = st.builds(lambda value, indent: json.dumps(value, indent=indent).encode(), VALUES, st.none() | st.just(1))


@given(PATHS, DOCUMENTS | st.binary(max_size=40), st.none() | st.sampled_from([b"", b"from .a import x", b"\xff"]))
def test_any_configuration_is_vendored_or_refused(path: str, content: bytes, code: bytes | None) -> None:
    try:
        found = vendor_code(OWN, {path: content}, lambda *_: code)
    except PolicyError:
        return
    for told in named(path, found.rewritten.get(path, content)):
        assert "--" not in told
    assert bool(found.files) == bool(named(path, content))


@given(PATHS, DOCUMENTS)
def test_making_references_local_is_idempotent_and_touches_nothing_else(path: str, content: bytes) -> None:
    once = make_references_local(path, content)
    assert make_references_local(path, once) == once
    assert len(named(path, once)) <= len(named(path, content))
    if b"--" not in content:
        assert once == content


@given(st.binary(max_size=60) | st.text(max_size=60).map(str.encode))
def test_any_code_is_vendored_or_refused(code: bytes) -> None:
    try:
        found = vendor_code(OWN, {CONFIG: auto_map(A="m.M")}, lambda _, path: code if path == "m.py" else None)
    except PolicyError:
        return
    assert set(names(found)) == {"m.py"}


# It loads, and gives the same numbers.

CUSTOM = {
    "custom_st.py": """
from torch import nn

from .custom_factor import FACTOR


class Doubled(nn.Module):
    def forward(self, features, **kwargs):
        features["sentence_embedding"] = FACTOR * features["sentence_embedding"]
        return features

    @classmethod
    def load(cls, model_name_or_path, **kwargs):
        return cls()
""",
    "custom_factor.py": "FACTOR = 2.0\n",
}
TOKENIZATION = {
    "tokenization_tiny.py": """
from transformers import PreTrainedTokenizerFast

from .tokenization_words import OTHER


class TinyTokenizer(PreTrainedTokenizerFast):
    def __call__(self, text, **kwargs):
        return super().__call__([line.replace("rain", OTHER) for line in text], **kwargs)
""",
    "tokenization_words.py": 'OTHER = "snow"\n',
}
RANKER = {
    "modeling_ranker.py": """
from torch import nn
from transformers import PreTrainedModel
from transformers.modeling_outputs import SequenceClassifierOutput

from .configuration_tiny import TinyConfig
from .tiny_layers import Mixer


class TinyRanker(PreTrainedModel):
    config_class = TinyConfig

    def __init__(self, config):
        super().__init__(config)
        self.words = nn.Embedding(config.vocab_size, config.hidden_size)
        self.mixer = Mixer(config.hidden_size)
        self.classifier = nn.Linear(config.hidden_size, config.num_labels)
        self.post_init()

    def forward(self, input_ids, attention_mask=None, **kwargs):
        return SequenceClassifierOutput(logits=self.classifier(self.mixer(self.words(input_ids)).mean(1)))
"""
}
TRANSFORMER_FILES = ("config.json", "model.safetensors", "sentence_bert_config.json", "special_tokens_map.json")


def model_with(folder: Path, owner: str, code: Mapping[str, str] = CODE) -> Path:
    """Return the model whose code is in `owner`, or beside its weights where that is empty."""
    if not owner:
        models.remote_code_embedding(folder)
        return write_code(folder, code)
    return models.remote_code_elsewhere(folder, owner)


def write_code(folder: Path, code: Mapping[str, str]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in code.items():
        (folder / name).write_text(text)
    return folder


def edit(path: Path, **values: object) -> None:
    """Set some keys of a JSON file."""
    write_json(path, json.loads(path.read_text()) | values)


def prefix(owner: str) -> str:
    return f"{owner}--" if owner else ""


def custom_module(folder: Path, owner: str) -> Path:
    """A fourth module that doubles the vector; it has a folder of its own."""
    model_with(folder, owner, CUSTOM)
    modules = json.loads((folder / "modules.json").read_text())
    modules.append({"idx": 3, "name": "3", "path": "3_Doubled", "type": f"{prefix(owner)}custom_st.Doubled"})
    write_json(folder / "modules.json", modules)
    write_json(folder / "3_Doubled" / "config.json", {})
    return folder


def custom_tokenizer(folder: Path, owner: str) -> Path:
    """A tokenizer that reads snow for rain."""
    model_with(folder, owner, TOKENIZATION)
    references = [None, f"{prefix(owner)}tokenization_tiny.TinyTokenizer"]
    edit(folder / "tokenizer_config.json", auto_map={"AutoTokenizer": references}, tokenizer_class="TinyTokenizer")
    return folder


def two_repositories(folder: Path, owner: str) -> Path:
    """Configuration and model from two repositories that share their files."""
    model_with(folder, owner)
    references = {
        "AutoConfig": f"{prefix(owner and MORE)}configuration_tiny.TinyConfig",
        "AutoModel": f"{prefix(owner)}modeling_tiny.TinyModel",
    }
    edit(folder / CONFIG, auto_map=references)
    return folder


def reranker(folder: Path, owner: str) -> Path:
    """A CrossEncoder without modules.json, as most rerankers are."""
    model_with(folder, owner, RANKER)
    for name in ("modules.json", "sentence_bert_config.json", "config_sentence_transformers.json"):
        (folder / name).unlink()
    shutil.rmtree(folder / "1_Pooling")
    references = {
        "AutoConfig": f"{prefix(owner)}configuration_tiny.TinyConfig",
        "AutoModelForSequenceClassification": f"{prefix(owner)}modeling_ranker.TinyRanker",
    }
    edit(folder / CONFIG, auto_map=references, id2label={"0": "LABEL_0"}, label2id={"LABEL_0": 0})
    tensors = {
        "words.weight": (len(VOCABULARY), 32),
        "mixer.dense.weight": (32, 32),
        "mixer.dense.bias": (32,),
        "classifier.weight": (1, 32),
        "classifier.bias": (1,),
    }
    write_safetensors(folder / "model.safetensors", tensors, random_values(tensors, seed=10))
    return folder


def router(folder: Path, owner: str) -> Path:
    """Queries and documents through one transformer in a folder of its own; queries are doubled after it."""
    model_with(folder, owner, CUSTOM)
    inner = folder / "query_0_Transformer"
    inner.mkdir()
    for path in (*(folder / name for name in TRANSFORMER_FILES), *folder.glob("tokenizer*"), folder / "vocab.txt"):
        path.rename(inner / path.name)
    (folder / "1_Pooling").rename(folder / "query_1_Pooling")
    write_json(folder / "modules.json", [{"idx": 0, "name": "0", "path": "", "type": f"{ST}.Router"}])
    types = {
        "query_0_Transformer": f"{ST}.Transformer",
        "query_1_Pooling": f"{ST}.Pooling",
        "query_2_Doubled": f"{prefix(owner)}custom_st.Doubled",
    }
    both = ["query_0_Transformer", "query_1_Pooling"]
    structure = {"query": [*both, "query_2_Doubled"], "document": both}
    write_json(folder / "router_config.json", {"types": types, "structure": structure, "parameters": {}})
    return folder


MAKERS: dict[str, tuple[Kind, Callable[[Path, str], Path]]] = {
    "plain": ("embedding", model_with),
    "two": ("embedding", two_repositories),
    "custom": ("embedding", custom_module),
    "tokenizer": ("embedding", custom_tokenizer),
    "reranker": ("reranker", reranker),
    "router": ("routes", router),
}


def published(source: Path, target: Path, impl: Path) -> Path:
    """Copy a model without its code, and bring the code in; `impl` is every other repository."""

    def read(repository: str, path: str) -> bytes | None:
        file = (source if repository == OWN else impl) / path
        return file.read_bytes() if file.is_file() else None

    configs = {path.relative_to(source).as_posix(): path.read_bytes() for path in source.rglob("*.json")}
    found = vendor_code(OWN, configs, read)
    shutil.copytree(source, target, ignore=shutil.ignore_patterns("*.py"))
    for path, content in found.rewritten.items():
        (target / path).write_bytes(content)
    for file in found.files:
        (target / file.path).write_bytes(read(file.repository, file.path) or b"")
    assert not [path for path in configs if any("--" in told for told in named(path, (target / path).read_bytes()))]
    return target


@pytest.fixture(scope="module")
def answers(tmp_path_factory: pytest.TempPathFactory) -> dict[str, np.ndarray]:
    """What each model says: as it is with its code beside it, and vendored from its own and from another repository.

    The process is offline and its caches are empty; each directory has a name of its own, under which transformers
    keeps what it imports, so none can use another's code.
    """
    home = tmp_path_factory.mktemp("vendored")
    impl = write_code(home / "impl", {**CODE, **CUSTOM, **TOKENIZATION, **RANKER})
    jobs: dict[str, tuple[Kind, Path]] = {}
    for name, (kind, make) in MAKERS.items():
        whole = make(home / f"{name}-whole", "")
        jobs[f"{name} directly"] = kind, whole
        jobs[f"{name} own"] = kind, published(whole, home / f"{name}-own", impl)
        apart = make(home / f"{name}-apart", IMPL)
        jobs[f"{name} other"] = kind, published(apart, home / f"{name}-other", impl)
    return dict(zip(jobs, models.outputs(jobs.values(), trust_remote_code=True), strict=True))


@pytest.mark.slow
@needs_torch
@pytest.mark.parametrize("name", MAKERS)
def test_a_vendored_model_gives_the_same_numbers_offline(name: str, answers: dict[str, np.ndarray]) -> None:
    for way in ("own", "other"):
        assert answers[f"{name} {way}"].tobytes() == answers[f"{name} directly"].tobytes()


@pytest.mark.slow
@needs_torch
def test_the_code_itself_was_run(answers: dict[str, np.ndarray]) -> None:
    """Each kind of code shows in the numbers, so equal numbers mean that it came along."""
    plain = answers["plain directly"]
    assert answers["two directly"].tobytes() == plain.tobytes()
    assert answers["custom directly"].tobytes() == (2 * plain).tobytes()
    changed = answers["tokenizer directly"] != plain
    assert changed[2].any()
    assert not changed[1].any()
    queries, documents = answers["router directly"].reshape(2, *plain.shape)
    assert queries.tobytes() == (2 * documents).tobytes()
    assert len(set(answers["reranker directly"].tolist())) > 1


@pytest.mark.slow
@needs_torch
@pytest.mark.parametrize(
    ("name", "code", "told"),
    [
        ("router", CODE, r"does not appear to have a file named configuration_tiny\.py"),
        ("custom", CUSTOM, "No module named 'custom_st'"),
    ],
)
def test_the_loader_finds_code_in_the_root_only(name: str, code: Mapping[str, str], told: str, tmp_path: Path) -> None:
    """If this fails, the loaders have learnt to look into a module's folder, and so may vendor_code."""
    _, make = MAKERS[name]
    folder = make(tmp_path / name, "")
    inner = folder / {"router": "query_0_Transformer", "custom": "3_Doubled"}[name]
    for file in code:
        (folder / file).rename(inner / file)
    with pytest.raises(RuntimeError, match=told):
        models.embed(folder, ["rain"], trust_remote_code=True)


PIECES = [
    "import",
    "from",
    " ",
    "\n",
    "\t",
    "\r",
    "\f",
    "\u2028",
    ".a",
    ".",
    "b",
    ";",
    "\\",
    "(",
    "as c",
    "import .a",
    "from .b import",
]


@given(st.lists(st.sampled_from(PIECES), max_size=14).map("".join))
def test_the_patterns_find_what_those_of_transformers_find(text: str) -> None:
    """These are its own, of dynamic_module_utils.py, which look at empty lines again and again."""
    theirs = [r"^\s*import\s+\.(\S+)\s*$", r"^\s*from\s+\.(\S+)\s+import"]
    found = {f".{name}" for pattern in theirs for name in re.findall(pattern, text, flags=re.MULTILINE)}
    assert seen_by_transformers(text) == found
