"""The inputs of a model's outputs: hostile configurations are compared by their bytes, and nothing else happens."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelcache.core.changes import Part
from modelcache.core.kinds import Kind
from modelcache.core.types import LARGEST_TEXT, LockedFile
from modelcache.resolver.inputs import inputs_of
from modelcache.resolver.model_modules import MAX_MODULES
from tests.support.faults.fuzz import BUDGET, json_values, mutated
from tests.support.pins import pin, reader, unread
from tests.support.versions import OLD, changed, modules, repository

FILES = repository(Kind.EMBEDDING)
NO_SETTINGS = [
    *(b"", b"{", b"\xff\xfe", b"null", b"[" * 100_000, b'{"a": ' * 100_000, b'{"a": ' + b"9" * 5000 + b"}"),
    *(b'{"a": 1} x', b"\x80\x02}q\x00."),
]
ODD = [
    b'{"a": NaN}',
    b'{"a": 1e999}',
    b'{"a": "\\ud800"}',
    b"[1]",
    b'"x"',
    b"7",
    b"\xef\xbb\xbf{}",
    b'{"a": 1, "a": 2}',
]


@pytest.mark.parametrize("content", NO_SETTINGS, ids=range(len(NO_SETTINGS)))
@pytest.mark.parametrize("path", ["config.json", "modules.json", "1_Pooling/config.json", "tokenizer_config.json"])
def test_what_is_no_json_is_compared_by_its_bytes(path: str, content: bytes) -> None:
    """Nested beyond Python's depth, with numbers beyond its digits, or null, which has no keys."""
    files = {**FILES, path: content}
    found = inputs_of(pin(files), reader(files))[path]
    assert found.settings is None
    assert found.counted == found.sha256


@pytest.mark.parametrize("content", ODD, ids=range(len(ODD)))
@pytest.mark.parametrize("path", ["config.json", "modules.json", "1_Pooling/config.json", "sentence_bert_config.json"])
def test_odd_json_has_settings(path: str, content: bytes) -> None:
    """Whatever its type is."""
    files = {**FILES, path: content}
    found = inputs_of(pin(files), reader(files))
    json.dumps({path: one.settings for path, one in found.items()}).encode()


NESTED = {
    "modules.json": [
        '[{"path": @, "type": "x"}]',
        '[{"path": "", "type": @}]',
        '[{"path": "", "kwargs": @}]',
        '[{"path": "", "name": @}]',
    ],
    "router_config.json": ['{"types": {"a": @}}', '{"types": @}'],
    "config.json": ['{"a": @}', '{"transformers_weights": @}', '{"types": {"a": @}}'],
    "1_Pooling/config.json": ['{"pooling_mode": @}', '{"pooling_mode_mean_tokens": @}'],
    "config_sentence_transformers.json": ['{"prompts": @}', '{"prompts": {"a": @}}'],
    "model.safetensors.index.json": ['{"weight_map": {"a": @}}'],
}


@pytest.mark.parametrize(("path", "template"), [(path, one) for path, some in NESTED.items() for one in some])
def test_nesting_up_to_the_limit_of_python_is_no_error(path: str, template: str) -> None:
    """What can be parsed cannot always be walked."""
    router = modules(f"={OLD}Router", f"1_Pooling={OLD}Pooling")
    for depth in (*range(1, 900, 100), *range(900, 1000, 3)):
        for opening, closing in (("[", "]"), ('{"a":', "}")):
            content = template.replace("@", f"{opening * depth}1{closing * depth}").encode()
            files = changed(FILES, {"modules.json": router, path: content})
            assert inputs_of(pin(files, include=("*",)), reader(files)).keys() == files.keys()


@pytest.mark.parametrize(
    "folder", ["..", "/", "//", "a/../..", "1_Pooling/", "./1_Pooling", "\x00", "\ud800", "x" * 9999, 7, None, [], {}]
)
def test_modules_in_odd_folders_are_no_error(folder: object) -> None:
    """No file is read there: the files of a pin are all that there is."""
    document = [{"path": folder, "type": f"{OLD}Pooling"}, {"path": folder}, {"type": []}, None, 3]
    files = {**FILES, "modules.json": json.dumps(document).encode()}
    asked: list[str] = []

    def read(file: LockedFile) -> bytes | None:
        asked.append(file.path)
        return files.get(file.path)

    found = inputs_of(pin(files), read)
    assert found["modules.json"].settings
    assert set(asked) <= files.keys()


def test_modules_without_end_have_one() -> None:
    """A Router whose routes are Routers."""
    routes = {str(number): f"{OLD}Router" for number in range(MAX_MODULES)}
    files = changed(
        FILES,
        {
            "modules.json": modules(*[f"{number}={OLD}Router" for number in range(2 * MAX_MODULES)]),
            "0/router_config.json": {"types": routes},
        },
    )
    found = inputs_of(pin(files), reader(files))["modules.json"].settings
    assert found
    assert len(json.loads(found["modules"])) <= MAX_MODULES + 1


def test_a_file_that_is_too_large_is_not_read() -> None:
    """A vocabulary in a config.json."""
    files = {**FILES, "config.json": b" " * (LARGEST_TEXT + 1)}

    def read(file: LockedFile) -> bytes | None:
        assert file.path != "config.json"
        return files[file.path]

    assert inputs_of(pin(files), read)["config.json"].settings is None


def test_each_file_is_read_once_and_weights_and_tokenizers_never() -> None:
    """Two modules that ask for one configuration get it from one reading."""
    asked: list[str] = []

    def read(file: LockedFile) -> bytes | None:
        asked.append(file.path)
        return FILES[file.path]

    inputs_of(pin(FILES, include=("onnx/*",)), read)
    assert sorted(asked) == sorted(set(asked))
    assert {path for path in asked if path.endswith((".safetensors", ".txt", "tokenizer.json", ".md"))} == set()


def test_only_the_settings_that_are_asked_for_are_read() -> None:
    """Where nothing but a card has changed, nothing is."""
    asked: list[str] = []

    def read(file: LockedFile) -> bytes | None:
        asked.append(file.path)
        return FILES[file.path]

    found = inputs_of(pin(FILES), read, ["README.md"])
    assert asked == []
    assert found.keys() == FILES.keys()


def test_a_file_that_is_not_at_hand_is_compared_by_its_bytes() -> None:
    """The part of each is known all the same."""
    found = inputs_of(pin(FILES), unread)
    assert {one.settings for one in found.values()} == {None}
    assert found["model.safetensors"].part is Part.WEIGHTS


INCLUDED = {
    "onnx/model.onnx": True,
    "onnx/config.json": True,
    "pytorch_model.bin": True,
    "adapters/law/adapter.safetensors": True,
    "other.safetensors": True,
    "model.safetensors": False,
    "model-1.safetensors": False,
    "special.safetensors": False,
    "config.json": False,
    "1_Pooling/config.json": False,
    "additional_chat_templates/x.jinja": False,
}


@pytest.mark.parametrize("path", INCLUDED)
def test_what_a_loader_opens_counts_although_include_names_it(path: str) -> None:
    """`include = ["*"]` makes nothing harmless."""
    files = changed(
        {**FILES, **dict.fromkeys(INCLUDED, b"{}")},
        {
            "model.safetensors.index.json": {"weight_map": {"w": "model-1.safetensors"}},
            "config.json": {"transformers_weights": "special.safetensors"},
        },
    )
    found = inputs_of(pin(files, include=("*",)), reader(files))
    assert (found[path].part is Part.INCLUDED) is INCLUDED[path]
    assert inputs_of(pin(files), reader(files))[path].part is not Part.INCLUDED


def test_a_repository_that_is_never_loaded_has_files_and_documents() -> None:
    """Nothing of it is a setting."""
    files = repository(Kind.OTHER)
    found = inputs_of(pin(files, kind=Kind.OTHER), unread)
    assert {one.part for one in found.values()} == {Part.FILES, Part.DOCUMENTS, Part.LICENCE}


JSON = [
    "modules.json",
    "config.json",
    "config_sentence_transformers.json",
    "1_Pooling/config.json",
    "router_config.json",
    "model.safetensors.index.json",
]
WORDS = ("path", "type", "types", f"{OLD}Router", f"{OLD}Pooling", "1_Pooling", "weight_map", "prompts", "a")


@given(path=st.sampled_from(JSON), document=json_values(*WORDS))
@BUDGET
def test_any_json_is_read(path: str, document: object) -> None:
    """In the place of any configuration."""
    files = {**FILES, path: json.dumps(document).encode()}
    assert inputs_of(pin(files, include=("*",)), reader(files)).keys() == files.keys()


@given(content=mutated(FILES["modules.json"], [b"..", b"[", b"{", b'"', b"null", b"Router", b"\xff"]))
@BUDGET
def test_any_bytes_are_read(content: bytes) -> None:
    """They are settings, or they are not."""
    files = {**FILES, "modules.json": content}
    assert inputs_of(pin(files), reader(files)).keys() == files.keys()
