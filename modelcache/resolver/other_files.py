"""Which files of a repository that is never loaded are shipped. Rules only; no network, no disk."""

from __future__ import annotations

from collections.abc import Sequence

from modelcache.core.errors import PolicyError
from modelcache.core.file_patterns import matches
from modelcache.core.file_types import PAPERS, ending_of, is_code
from modelcache.core.names import refuse_unsafe_paths
from modelcache.core.text import join_names
from modelcache.core.types import ListedFile, RemoteCode, WantedModel
from modelcache.resolver.files import Choice
from modelcache.resolver.included import included_paths, refuse_without_key
from modelcache.resolver.reasons import Reasons

_PAPERS = ("readme", "license", "licence", "notice", "copying")


def choose_other(wanted: WantedModel, listing: Sequence[ListedFile]) -> Choice:
    """Choose the files of a repository that is never loaded: all, or what `include` names, without `exclude`.

    Its card and its licence come with any part, since a redistributed image needs them. With trust_remote_code = false
    its code is left out.

    Raises:
        PolicyError: with every reason for which it is not shipped.

    """
    refused, files = Reasons(), {file.path: file for file in listing}
    named = set(included_paths(wanted, files, refused.add))
    kept = [path for path in files if not wanted.include or path in named or _is_paper(path)]
    paths = [path for path in kept if not matches(path, wanted.exclude)]
    remote_code = RemoteCode.NONE
    if not wanted.include and wanted.trust_remote_code is False and any(map(is_code, paths)):
        paths, remote_code = [path for path in paths if not is_code(path)], RemoteCode.OMITTED
    refuse_without_key(wanted, paths, refused.add)
    if links := sorted(path for path in paths if not files[path].plain):
        refused.add(f"{join_names(links)} cannot be shipped, as only plain files are", "name it in exclude")
    if not refused and not any(path in named or not wanted.include for path in paths):
        refused.add("no file is left of it", "change include or exclude")
    if refused:
        raise PolicyError(refused.message(f"{wanted.id} is not shipped"), settings=refused.settings)
    refuse_unsafe_paths(wanted.id, paths, hint="Name them in exclude, or ask the owner to rename them.")
    chosen = tuple(files[path] for path in sorted(paths))
    left = len(files) - len(kept)
    notes = (
        [f"include names all that is shipped; {left} files of it are left behind"] if wanted.include and left else []
    )
    return Choice(files=chosen, remote_code=remote_code, named=frozenset(paths), notes=tuple(notes))


def _is_paper(path: str) -> bool:
    """Whether a file at the top is the card or a licence."""
    return "/" not in path and path.lower().startswith(_PAPERS) and ending_of(path) in PAPERS
