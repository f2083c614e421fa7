"""Which files are shipped because a model's code seems to read them: by table, and at once for a whole model."""

from __future__ import annotations

import ast
from collections.abc import Iterable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelcache.core.types import ListedFile
from modelcache.resolver.files_read_by_code import files_read_by_code
from modelcache.resolver.remote_code import CodeFile, vendor_code
from modelcache.resolver.source_code import literals

OWN, IMPL = "owner/name", "otherorg/impl"
SHIPPED = {"config.json", "model.safetensors", "tokenizer.json", "1_Pooling/config.json"}
BESIDE = {
    "adapters/de/adapter.safetensors",
    "adapters/fr/adapter.safetensors",
    "checkpoint-100/model.safetensors",
    "figures/plot.png",
    "onnx/config.json",
    "onnx/model.onnx",
    "prices.csv",
    "pytorch_model.bin",
    "1_Pooling/weights.safetensors",
    "1_Pooling/weights.bin",
    "tasks/README.md",
    "tasks/code.py",
    "tasks/old.pt",
    "tasks/retrieval.safetensors",
    "tasks/sizes.json",
    "tasks/.hidden.json",
}
TASKS = {"tasks/retrieval.safetensors", "tasks/sizes.json"}
ADAPTERS = {"adapters/de/adapter.safetensors", "adapters/fr/adapter.safetensors"}


def listed(paths: Iterable[str], size: int = 10) -> dict[str, ListedFile]:
    return {path: ListedFile(path, size) for path in paths}


def code(text: str, repository: str = OWN, source: str = "m.py") -> CodeFile:
    return CodeFile(source, repository, frozenset(literals(ast.parse(text))))


def read(text: str, beside: Iterable[str] = BESIDE, size: int = 10) -> tuple[set[str], list[str]]:
    """Return what is shipped because of this code, and what is told."""
    files, notes = files_read_by_code(OWN, [code(text)], {OWN: listed({*SHIPPED, *beside}, size)}, SHIPPED)
    names = [file.path for file in files]
    assert len(names) == len(set(names))
    assert not SHIPPED.intersection(names)
    return set(names), notes


@pytest.mark.parametrize(
    ("text", "shipped"),
    [
        ("x = load_file(os.path.join(folder, 'tasks', 'retrieval.safetensors'))", TASKS),
        ("x = Path(folder) / 'tasks' / name", TASKS),
        ("x = folder + '/tasks/' + name", TASKS),
        ("x = f'{folder}/tasks/{name}.safetensors'", TASKS),
        ("x = f'tasks/{name}'", TASKS),
        ("x = 'tasks/%s.safetensors' % name", TASKS),
        ("x = 'tasks/{}.safetensors'.format(name)", TASKS),
        ("x = './tasks'", TASKS),
        ("x = f'{len(\"tasks\")}'", TASKS),
        ("x = snapshot_download(name, allow_patterns=['tasks/*'])", TASKS),
        ("def f(name, folder='tasks'):\n    return name", TASKS),
        ("TABLE = {'retrieval': 'tasks/sizes.json'}", {"tasks/sizes.json"}),
        ("x = cached_file(name, 'tasks/sizes.json')", {"tasks/sizes.json"}),
        ("x = f'{folder}/tasks/sizes.json'", {"tasks/sizes.json"}),
        ("x = cached_file(name, 'adapter.safetensors', subfolder='adapters')", ADAPTERS),
        ("x = 'adapters/de'", {"adapters/de/adapter.safetensors"}),
        ("x = 'adapters/de', 'adapters', 'adapters/fr'", ADAPTERS),
        ("x = open('prices.csv')", {"prices.csv"}),
        ("x = open('figures/plot.png')", {"figures/plot.png"}),
        ("x = open('onnx/config.json')", {"onnx/config.json"}),
        ("x = os.path.join(module, 'weights.safetensors')", {"1_Pooling/weights.safetensors"}),
        ("x = f'{module}/weights.safetensors'", {"1_Pooling/weights.safetensors"}),
        # Nothing of these names a file or a folder, or not to read it.
        ("x = cached_file(name, 'config.json')", set()),
        ("x = 'sizes.json', 'retrieval.safetensors', 'adapter.safetensors'", set()),
        ("x = f'{folder}/{name}.json', f'{name}', '*', '', '/', '.'", set()),
        ("x = 'tasks/gone.json', 'tasks.json', 'our tasks', '../tasks', 'x/tasks'", set()),
        ("x = backend == 'tasks'", set()),
        ("x = task in ('adapters', 'tasks')", set()),
        ("x = settings['tasks']", set()),
        ("x: Literal['tasks', 'adapters']", set()),
        ("def f(x: Literal['tasks']) -> Literal['tasks']:\n    'tasks'", set()),
        ("x = {'tasks': 1}", set()),
        ("match x:\n    case 'tasks':\n        pass", set()),
        ("'tasks'\n# 'tasks'\nclass A:\n    'tasks'", set()),
        ("x = 'onnx'", set()),
        ("x = 'checkpoint-100'", set()),
        ("x = 'figures'", set()),
    ],
)
def test_a_file_counts_if_its_path_or_its_folder_is_named(text: str, shipped: set[str]) -> None:
    assert read(text)[0] == shipped


@pytest.mark.parametrize(
    ("text", "notes"),
    [
        ("x = 'config.json'", []),
        ("x = 'onnx'", []),
        ("x = 'tasks/sizes.json'", ["m.py seems to read tasks/sizes.json: shipped, too"]),
        (
            "x = 'tasks'",
            [
                "m.py seems to read tasks/retrieval.safetensors, tasks/sizes.json: shipped, too",
                "m.py seems to read tasks/old.pt: left behind, since only safetensors and plain data are shipped beside"
                ' what the loaders open; to ship: include = ["tasks/old.pt"] and allow_pickle = true',
            ],
        ),
        (
            "x = 'pytorch_model.bin', 'onnx/model.onnx', 'weights.bin'",
            [
                "m.py seems to read 1_Pooling/weights.bin, onnx/model.onnx, pytorch_model.bin: left behind, since only"
                " safetensors and plain data are shipped beside what the loaders open; to ship: include ="
                ' ["1_Pooling/weights.bin", "onnx/model.onnx", "pytorch_model.bin"] and allow_pickle = true',
            ],
        ),
    ],
)
def test_it_is_told(text: str, notes: list[str]) -> None:
    """What is shipped because of a guess, and what is left behind in spite of one."""
    assert read(text)[1] == notes


def test_a_guess_does_not_ship_all_that_there_is() -> None:
    """A folder that is too large is left behind, whole, and one file that is named goes before folders."""
    many = {f"data/{number}.json" for number in range(201)}
    files, notes = read("x = 'data', 'tasks/sizes.json'", {*many, "tasks/sizes.json"})
    assert files == {"tasks/sizes.json"}
    too_much = "m.py seems to read data/: left behind, since that would be more than 200 files or 2 GiB"
    assert notes[1] == f'{too_much}; to ship: include = ["data/"]'
    assert read("x = 'data'", sorted(many)[:200])[0] == set(sorted(many)[:200])
    assert len(read("x = 'tasks', 'adapters'", size=1 << 30)[0]) == 2
    assert read("x = 'prices.csv'", size=(2 << 30) + 1)[0] == set()


def test_much_code_is_looked_at_in_little_memory() -> None:
    """Of each file some thousand strings, which is more than code has."""
    text = b"import torch\nX = [" + b",".join(b"'%d'" % number for number in range(50_000)) + b"]\n"
    configs = {"config.json": b'{"auto_map": {"AutoModel": "m.Model"}}'}
    (file,) = vendor_code(OWN, configs, lambda _, path: text if path == "m.py" else None).files
    assert len(file.literals) == 10_000
    folders = [f"{number}_Dense/config.json" for number in range(256)]
    listings = {OWN: listed([*folders, *(f"{number}_Dense/7.json" for number in range(256))])}
    assert len(files_read_by_code(OWN, [code("x = '7.json'"), file], listings, folders)[0]) == 200


def test_of_much_code_some_is_told() -> None:
    listing = listed([*SHIPPED, *(f"tasks/{number}.json" for number in range(30))])
    many = [code(f"x = 'tasks/{number}.json'", source=f"m{number:02}.py") for number in range(30)]
    files, notes = files_read_by_code(OWN, many, {OWN: listing}, SHIPPED)
    assert (len(files), len(notes)) == (30, 21)
    assert notes[-1] == "10 more files of code seem to read others"


def test_names_that_no_volume_can_hold_are_left_behind() -> None:
    files, (note,) = read("x = 'tasks'", ["tasks/a:b.json"])
    assert (files, "tasks/a:b.json: left behind" in note) == (set(), True)


def test_a_link_is_left_behind() -> None:
    listing = listed([*SHIPPED, "tasks/sizes.json"]) | {"tasks/a.json": ListedFile("tasks/a.json", 9, entry="symlink")}
    files, notes = files_read_by_code(OWN, [code("x = 'tasks'")], {OWN: listing}, SHIPPED)
    assert [file.path for file in files] == ["tasks/sizes.json"]
    assert notes[1].startswith("m.py seems to read tasks/a.json: left behind")


def test_an_index_of_other_weights_is_not_for_code() -> None:
    """A loader would take it for the weights."""
    for folder in ("", "1_Pooling/"):
        assert read("x = 'model.safetensors.index.json'", [f"{folder}model.safetensors.index.json"]) == (set(), [])


def test_code_of_another_repository_reads_the_files_of_the_model() -> None:
    """It is run beside the weights; what lies in its own repository it does not find, and that is told."""
    listings = {OWN: listed({*SHIPPED, "tasks/sizes.json"}), IMPL: listed(["config.json", "tasks/sizes.json", "b.txt"])}
    reads = "x = 'tasks/sizes.json', 'b.txt', 'config.json'"
    files, notes = files_read_by_code(OWN, [code(reads, IMPL), code("x = 'b.txt'", source="n.py")], listings, SHIPPED)
    assert [file.path for file in files] == ["tasks/sizes.json"]
    assert notes == [
        "m.py seems to read tasks/sizes.json: shipped, too",
        "m.py of otherorg/impl seems to read b.txt of that repository: left behind, since its code finds files in the"
        " model's own directory only",
    ]


TEXTS = st.text("tasks/.*{}%adpter[]\0 ", max_size=12) | st.sampled_from([*BESIDE, *SHIPPED, "tasks", "adapters/*"])


@given(st.lists(TEXTS, max_size=6))
def test_any_literals_ship_only_what_the_repository_has(texts: list[str]) -> None:
    files, notes = read(f"x = {texts!r}")
    assert files <= BESIDE
    assert bool(notes) >= bool(files)
