"""Derive the files that no repository has from fetched and verified ones: rewritten, written, converted.

Each is compared with its pin. No code of a model is run, and no pickle is loaded.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from modelcache.core.errors import IntegrityError, PolicyError
from modelcache.core.plan import distinct
from modelcache.core.types import LockedFile, LockedModel, Made
from modelcache.resolver.derived import small_file
from modelcache.system.directories import make_below
from modelcache.system.files import copy_file, sha256_of, write_file


def derive_files(model: LockedModel, tree: Path, originals: Path) -> None:
    """Make every file of the model that is not in the tree yet, from `originals`, which are named by their SHA-256.

    Each original is removed after its last use, so that only one large pickle at a time lies beside its tensors.
    Of files with equal bytes one is made, from the original that was downloaded; the others are copies of it.
    A file with other bytes than its pin is an IntegrityError, an original that is refused a PolicyError.
    """
    for path in model.pickles:
        _refuse_more_than_tensors(model, path, tree)
    lacking = [file for file in distinct(model.files) if file.made and not (tree / file.path).exists()]
    lacking.sort(key=lambda file: file.made is Made.WRITTEN)  # these read config.json, which may itself be rewritten
    needed = Counter(file.original.sha256 for file in lacking if file.original)
    for file in lacking:
        target = tree / file.path
        make_below(tree.parent, target.parent)
        source = originals / file.original.sha256 if file.original else tree / "config.json"
        try:
            if file.made is Made.CONVERTED and file.original:
                from modelcache.convert.pickle_to_safetensors import convert  # few models need it

                convert(source, target, name=file.original.path)
            else:
                write_file(target, small_file(model, file, source.read_bytes()))
        except PolicyError as error:
            raise PolicyError(f"{model.id}: {error.message}", hint=error.hint) from error
        _refuse_other_bytes(model, file, target)
        _copy_to_equal_files(model, file, tree)
        if file.original:
            needed[file.original.sha256] -= 1
            if not needed[file.original.sha256]:
                source.unlink()


def _refuse_more_than_tensors(model: LockedModel, path: str, tree: Path) -> None:
    """Read a pickle that is shipped as it is: the lock may have been edited since it was read."""
    from modelcache.convert.pickle_to_safetensors import refuse_more_than_tensors  # few models have one

    refuse_more_than_tensors(tree / path, name=f"{model.id}: {path}")


def _copy_to_equal_files(model: LockedModel, made: LockedFile, tree: Path) -> None:
    for file in model.files:
        if file.sha256 == made.sha256 and file.path != made.path:
            target = tree / file.path
            make_below(tree.parent, target.parent)
            copy_file(tree / made.path, target)


def _refuse_other_bytes(model: LockedModel, file: LockedFile, target: Path) -> None:
    if (found := sha256_of(target)) != file.sha256:
        raise IntegrityError(
            f"{model.id}: {file.path} was {file.made} and has other bytes than it is pinned with:\n"
            f"  expected sha256 {file.sha256}\n  found    sha256 {found}",
            hint="Another version of this tool made the lock; with this one and the same --root, lock the model again:"
            f" `cache-models lock --upgrade {model.id}`.",
        )
