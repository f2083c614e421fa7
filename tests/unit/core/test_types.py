"""When a pin still says what the manifest asks for: then nobody is asked."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from modelcache.core.errors import StorageError
from modelcache.core.kinds import Kind
from modelcache.core.types import LockedModel, Made, Original, Pooling, RemoteCode, WantedModel
from modelcache.sources.directory import DirectoryRepository
from tests.support.published_model import pinned

PIN = pinned()
WANTED = WantedModel(PIN.kind, PIN.id)
CONVERTED = replace(
    PIN, files=(replace(PIN.files[0], made=Made.CONVERTED, original=Original("pytorch_model.bin", 9, "1" * 64)),)
)
DIRECTORY = replace(PIN, commit="")


@pytest.mark.parametrize(
    ("pin", "wanted", "answers"),
    [
        (PIN, WANTED, True),
        (PIN, replace(WANTED, line=7), True),
        (PIN, replace(WANTED, kind=Kind.RERANKER), False),
        (PIN, replace(WANTED, id="tinyorg/other"), False),
        (PIN, replace(WANTED, revision="v1"), False),
        (PIN, replace(WANTED, path="models/x"), False),
        (DIRECTORY, WANTED, False),
        (DIRECTORY, replace(WANTED, path="models/x"), True),
        (PIN, replace(WANTED, trust_remote_code=True), True),
        (PIN, replace(WANTED, trust_remote_code=False), True),
        *[
            (replace(PIN, remote_code=code), replace(WANTED, trust_remote_code=trust), answers)
            for code, trust, answers in [
                (RemoteCode.VENDORED, True, True),
                (RemoteCode.VENDORED, False, False),
                (RemoteCode.VENDORED, None, False),
                (RemoteCode.OMITTED, True, False),
                (RemoteCode.OMITTED, False, True),
                (RemoteCode.OMITTED, None, False),
            ]
        ],
        (CONVERTED, WANTED, False),
        (CONVERTED, replace(WANTED, allow_pickle=True), True),
        (PIN, replace(WANTED, allow_pickle=True), True),
        (PIN, replace(WANTED, pooling=Pooling.MEAN), False),
        (replace(PIN, pooling=Pooling.MEAN), replace(WANTED, pooling=Pooling.MEAN), True),
        (replace(PIN, pooling=Pooling.MEAN), replace(WANTED, pooling=Pooling.CLS), False),
        (replace(PIN, pooling=Pooling.MEAN, normalize=True), replace(WANTED, pooling=Pooling.MEAN), False),
    ],
)
def test_a_pin_answers(pin: object, wanted: WantedModel, answers: bool) -> None:
    """Leave that was withdrawn, or another wish, is asked about anew."""
    assert isinstance(pin, type(PIN))
    assert pin.fits(wanted) is answers


@pytest.mark.parametrize(
    ("pin", "wanted", "told"),
    [
        (PIN, WANTED, []),
        (PIN, replace(WANTED, kind=Kind.RERANKER), ["kind embedding instead of reranker"]),
        (PIN, replace(WANTED, id="tinyorg/other"), ["id tinyorg/embedding instead of tinyorg/other"]),
        (PIN, replace(WANTED, revision="v1"), ["revision main instead of v1"]),
        (PIN, replace(WANTED, path="models/x"), ["path unset instead of models/x"]),
        (DIRECTORY, WANTED, ["path set instead of unset"]),
        (replace(PIN, remote_code=RemoteCode.VENDORED), WANTED, ["trust_remote_code true instead of unset"]),
        (
            replace(PIN, remote_code=RemoteCode.OMITTED),
            replace(WANTED, trust_remote_code=True, revision="v1"),
            ["revision main instead of v1", "trust_remote_code false instead of true"],
        ),
        (CONVERTED, WANTED, ["allow_pickle true instead of false"]),
        (
            PIN,
            replace(WANTED, pooling=Pooling.CLS, normalize=True),
            ["pooling unset instead of cls", "normalize false instead of true"],
        ),
        (PIN, replace(WANTED, path="x\n  ready"), ["path unset instead of x\\n \\x20ready"]),
    ],
)
def test_a_pin_that_does_not_fit_names_every_key(pin: LockedModel, wanted: WantedModel, told: list[str]) -> None:
    """As the manifest has them, each with what is pinned and what is wanted."""
    assert [str(misfit) for misfit in pin.misfits(wanted)] == told
    assert pin.fits(wanted) is (not told)


def test_two_versions_differ_by_commit_settings_and_files() -> None:
    """Equal ones do not differ."""
    other = replace(PIN, commit="d" * 40, pooling=Pooling.MEAN, licence="", remote_code=RemoteCode.VENDORED)
    assert PIN.differs_from(PIN) == ()
    assert [str(misfit) for misfit in PIN.differs_from(other)] == [
        "commit cccccccccccc instead of dddddddddddd",
        "remote_code none instead of vendored",
        "pooling unset instead of mean",
        "licence mit instead of unset",
    ]
    assert [str(misfit) for misfit in DIRECTORY.differs_from(PIN)] == ["commit unset instead of cccccccccccc"]
    changed = replace(PIN, files=(*PIN.files[2:], replace(PIN.files[0], size=1)))
    assert PIN.other_files(PIN) == ()
    assert PIN.other_files(changed) == (PIN.files[0].path, PIN.files[1].path)


def test_a_directory_that_is_not_there_is_told(tmp_path: Path) -> None:
    """With where it was looked for."""
    with pytest.raises(StorageError) as told:
        DirectoryRepository("a/b", tmp_path / "x")
    assert str(tmp_path / "x") in told.value.message
