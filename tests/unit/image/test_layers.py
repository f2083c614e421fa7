"""Which files share a layer: a pure function of the lock."""

from __future__ import annotations

import hashlib
import random
import tarfile
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from io import BytesIO

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from modelcache.core.hub_view import hub_view
from modelcache.core.kinds import Kind
from modelcache.core.types import LockedModel
from modelcache.formats.receipt import format_receipt
from modelcache.image.layers import LARGE_FILE, MOST_LAYERS, Layer, LayerFile, OwnFile, plan_layers
from modelcache.image.tar import Type
from tests.support.faults.fuzz import BUDGET, EXAMPLES
from tests.support.images import entries, pin

MIB = 1 << 20
SMALL = {"config.json": 600, "tokenizer.json": 700_000, "1_Pooling/config.json": 200}
WHOLE = {**SMALL, "model.safetensors": 90 * MIB}


def plan(models: Iterable[LockedModel], prefix: str = "models") -> tuple[Layer, ...]:
    return plan_layers(models, prefix, format_receipt)


def several(count: int, files: Mapping[str, bytes | int]) -> list[LockedModel]:
    return [pin(f"acme/model-{number:03}", files) for number in range(count)]


def shards(count: int, size: int = 2048 * MIB) -> dict[str, bytes | int]:
    return {**SMALL, **{f"model-{number:05}-of-{count:05}.safetensors": size for number in range(1, count + 1)}}


# Large files, and layers of small files or of whole models; None: several models share layers.
CASES: dict[str, tuple[list[LockedModel], tuple[int, int] | None]] = {
    "nothing": ([], (0, 0)),
    "1 model": (several(1, WHOLE), (1, 1)),
    "1 model of small files": (several(1, SMALL), (0, 1)),
    "1 model without files": (several(1, {}), (0, 1)),
    "5 models": (several(5, WHOLE), (5, 5)),
    "2,600 small files": (several(1, {f"data/{number}.json": 900 for number in range(2600)}), (0, 1)),
    "40 shards": (several(1, shards(40)), (40, 1)),
    "exactly 60 layers": (several(1, shards(59)), (59, 1)),
    "61 layers, were each file apart": (several(1, shards(60)), (0, 1)),
    "30 models of one large file": (several(30, WHOLE), (30, 30)),
    "31 models of one large file": (several(31, WHOLE), (0, 31)),
    "60 models of small files": (several(60, SMALL), (0, 60)),
    "60 models, one of them with a large file": ([*several(59, SMALL), pin("acme/z", WHOLE)], (0, 60)),
    "61 models": (several(61, SMALL), None),
    "200 models": (several(200, WHOLE), None),
    "16 MiB": (several(1, {"a": 16 * MIB}), (1, 1)),
    "one byte less": (several(1, {"a": 16 * MIB - 1}), (0, 1)),
    "59 models without bytes, and 2 large files": (
        [*several(59, {}), pin("acme/z", {"a": 16 * MIB, "b": 16 * MIB})],
        (0, 60),
    ),
    "61 models without bytes": (several(61, {}), None),
}


@pytest.mark.parametrize(("models", "expected"), CASES.values(), ids=CASES)
def test_how_many_layers(models: list[LockedModel], expected: tuple[int, int] | None) -> None:
    """Each of the large files apart, each model in one, or groups of models in 60."""
    layers = plan(models)
    assert len(layers) <= MOST_LAYERS
    if expected is None:
        assert len(layers) == 60
        assert not any(is_apart(layer) for layer in layers)
        return
    assert [is_apart(layer) for layer in layers] == [True] * expected[0] + [False] * expected[1]
    assert [layer.title for layer in layers[expected[0] :]] == [model.id for model in models]
    assert_whole(layers, models)


def is_apart(layer: Layer) -> bool:
    """Whether it is of one large file."""
    return len(layer.files) == 1 and isinstance(layer.files[0], LayerFile) and layer.size >= LARGE_FILE


def test_the_table_has_its_borders() -> None:
    assert (MOST_LAYERS, LARGE_FILE) == (60, 16 * MIB)


def expected_paths(models: Iterable[LockedModel], prefix: str) -> list[tuple[str, Type, int, str]]:
    """Everything but directories that an image of these models has."""
    found = []
    for model in models:
        home = f"{prefix}/{model.kind.spec.collection}/{model.id.replace('/', '__')}"
        found.append((f"{home}/.cache-models.json", Type.FILE, len(format_receipt(model)), ""))
        found += [(f"{home}/{file.path}", Type.FILE, file.size, "") for file in model.files]
        if view := hub_view(model):
            folder = f"{prefix}/hub/models--{model.id.replace('/', '--')}"
            found += [(f"{folder}/refs/{ref}", Type.FILE, 40, "") for ref in view.refs]
            found += [(f"{folder}/snapshots/{view.commit}/{p}", Type.SYMLINK, 0, to) for p, to in view.links.items()]
    return found


def assert_whole(layers: Sequence[Layer], models: Sequence[LockedModel], prefix: str = "models") -> None:
    """Check that all of these models is in one layer each, below directories of its own, and nothing else."""
    found = []
    for layer in layers:
        listed = entries(layer)
        directories, above = {""}, set()
        for entry in listed:
            parent = entry.path.rpartition("/")[0]
            assert parent in directories  # it came before
            above.add(parent)
            if entry.type is Type.DIRECTORY:
                directories.add(entry.path)
        assert above == directories, "none is empty"
        found += [(one.path, one.type, one.size, one.target) for one in listed if one.path not in directories]
    assert Counter(found) == Counter(expected_paths(models, prefix))


def a_lock(draw: random.Random, count: int) -> list[LockedModel]:
    """Models of all kinds and sizes, some without a commit, a view or a byte."""
    models = []
    names = [
        "config.json",
        "a/b/c.json",
        "a/b.json",
        "a-b",
        "a.b",
        "größe/模型",
        "x" * 90 + "/" + "y" * 90,
        "README.md",
    ]
    sizes = [0, 1, 511, 512, 700_000, LARGE_FILE - 1, LARGE_FILE, 9 << 30]
    for number in range(count):
        files = {name: draw.choice(sizes) for name in draw.sample(names, draw.randint(0, len(names)))}
        owner = draw.choice(["acme", "a", "Org.X"])
        model_id = f"{owner}/{draw.choice(['m', 'no--view', 'z'])}{number}"
        commit = draw.choice(["", f"{draw.getrandbits(160):040x}"])
        revision = draw.choice(["main", "v1", "feature/x", "main/x"])
        models.append(pin(model_id, files, draw.choice(list(Kind)), commit=commit, revision=revision))
    return models


def digests(layers: Iterable[Layer]) -> list[str]:
    """The set digest and all headers of each layer, as one."""
    return [
        hashlib.sha256(
            b"".join([layer.set_digest.encode(), *(p for p in layer.parts() if isinstance(p, bytes))])
        ).hexdigest()
        for layer in layers
    ]


@settings(BUDGET, max_examples=max(20, EXAMPLES // 100))
@given(st.randoms(use_true_random=False), st.sampled_from([0, 1, 2, 7, 20, 59, 60, 61, 75, 130]))
def test_any_lock(draw: random.Random, count: int) -> None:
    """Each file, receipt, ref and link once; the order of the models does not matter, nor that of their files."""
    models = a_lock(draw, count)
    layers = plan(models)
    assert len(layers) <= MOST_LAYERS
    assert all(layer.files for layer in layers)
    assert_whole(layers, models)
    shuffled = [replace(model, files=tuple(draw.sample(model.files, len(model.files)))) for model in models]
    draw.shuffle(shuffled)
    again = plan(shuffled)
    assert [layer.title for layer in again] == [layer.title for layer in layers]
    assert digests(again) == digests(layers)


@settings(BUDGET, max_examples=max(40, EXAMPLES // 100))
@given(st.randoms(use_true_random=False), st.integers(61, 200))
def test_groups_are_balanced(draw: random.Random, count: int) -> None:
    """A group is larger than another by less than its smallest model, so none could give one away to gain by it."""
    models = [
        pin(f"acme/{number}", {"a": draw.choice([0, 1, 5, 1000, draw.randint(0, 1 << 40)])}) for number in range(count)
    ]
    groups = [
        {file.model.id: file.model.size for file in layer.files if isinstance(file, LayerFile)}
        for layer in plan(models)
    ]
    assert sorted(name for group in groups for name in group) == sorted(model.id for model in models)
    smallest = min(sum(group.values()) for group in groups)
    for group in groups:
        assert sum(group.values()) - min(group.values()) <= smallest
    empty = [group for group in groups if not any(group.values())]
    assert max(map(len, empty), default=0) - min(map(len, empty), default=0) <= 1


def test_a_small_file_that_changes_is_in_one_layer() -> None:
    """A commit that changes the card moves the small files of one model, and no weights."""
    models = several(5, WHOLE)
    changed = pin(models[2].id, {**WHOLE, "config.json": 601}, commit="d" * 40)
    before, after = plan(models), plan([*models[:2], changed, *models[3:]])
    differ = [
        number for number, pair in enumerate(zip(digests(before), digests(after), strict=True)) if len(set(pair)) > 1
    ]
    assert [before[number].title for number in differ] == [models[2].id]
    assert before[differ[0]].size < 2 * MIB


def test_weights_that_change_are_in_two_layers() -> None:
    """Their own, and that of the receipt, which has their hash."""
    models = several(5, WHOLE)
    changed = pin(models[2].id, {**WHOLE, "model.safetensors": 91 * MIB})
    before, after = plan(models), plan([*models[:2], changed, *models[3:]])
    differ = [one.title for one, a, b in zip(before, digests(before), digests(after), strict=True) if a != b]
    assert differ == [f"{models[2].id} model.safetensors", models[2].id]


def test_equal_content_has_an_equal_set_digest() -> None:
    """It is what `sha256sum | sort | sha256sum` says of the files of a layer, so it names other content otherwise."""
    one, other = plan(several(2, WHOLE)), plan(reversed(several(2, WHOLE)))
    assert [layer.set_digest for layer in one] == [layer.set_digest for layer in other]
    assert len({layer.set_digest for layer in one}) == len(one)
    lines = sorted(f"{file.sha256}  {file.path}\n".encode() for file in one[0].files)
    assert one[0].set_digest == hashlib.sha256(b"".join(lines)).hexdigest()
    assert {layer.set_digest for layer in plan(several(2, WHOLE), "srv/models")}.isdisjoint(
        layer.set_digest for layer in one
    )


@pytest.mark.parametrize("prefix", ["models", "a", "srv/deep/er", "größe"])
def test_all_of_it_is_below_the_prefix(prefix: str) -> None:
    models = [*several(2, WHOLE), pin("acme/no--view", SMALL, Kind.OTHER)]
    assert_whole(plan(models, prefix), models, prefix)


def test_large_files_come_first() -> None:
    """In the order of the models, and of the paths."""
    models = [pin("b/b", {"z": 20 * MIB, "a": 20 * MIB, "c": 1}), pin("a/a", {"w": 16 * MIB}, Kind.RERANKER)]
    assert [layer.title for layer in plan(models)] == ["a/a w", "b/b a", "b/b z", "a/a", "b/b"]


def test_the_title_of_a_group_names_the_first() -> None:
    titles = {layer.title for layer in plan(several(121, {"a": 1}))}
    assert "3 models, from acme/model-000" in titles
    assert "2 models, from acme/model-001" in titles


CONTENT: dict[str, bytes | int] = {
    "config.json": b"{}",
    "deep/er/größe.json": b"1" * 700,
    "empty": b"",
    "x" * 150: b"2" * 512,
    "model.safetensors": b"3" * (LARGE_FILE + 3),
}


def written(layer: Layer, content: dict[str, bytes | int]) -> bytes:
    """The bytes of a layer."""
    parts = [part if isinstance(part, bytes) else content[part.file.path] for part in layer.parts()]
    return b"".join(part for part in parts if isinstance(part, bytes))


def test_size_and_offset_are_those_of_the_bytes() -> None:
    """Of a layer of one file the offset leads to its content; another has none."""
    large, small = plan([pin("acme/m", CONTENT, revision="v1")])
    data = written(large, CONTENT)
    assert large.size == len(data)
    assert large.offset is not None
    assert data[large.offset :][: LARGE_FILE + 3] == CONTENT["model.safetensors"]
    data = written(small, CONTENT)
    assert (small.size, small.offset) == (len(data), None)
    with tarfile.open(fileobj=BytesIO(data), mode="r:") as archive:
        found = {
            one.name: file.read() if (file := archive.extractfile(one)) else b"" for one in archive if one.isfile()
        }
    assert found == {
        file.path: file.content if isinstance(file, OwnFile) else CONTENT[file.file.path] for file in small.files
    }


def test_the_offset_of_a_layer_of_one_small_file() -> None:
    """A model without files and without a view has its receipt alone."""
    (layer,) = plan([pin("acme/no--view", {})])
    data = written(layer, {})
    assert layer.offset is not None
    assert data[layer.offset :].startswith(format_receipt(pin("acme/no--view", {})))
