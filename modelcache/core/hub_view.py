"""The Hub view of a model: the refs and links by which the standard Hugging Face cache has it, computed from its pin.

With `HF_HUB_CACHE=<root>/hub` and `HF_HUB_OFFLINE=1` any program loads a published model by its id. The layout is that
of `huggingface_hub` (file_download.py, `hf_hub_download`): `refs/<revision>` holds a commit, and `snapshots/<commit>`
the files. Each file is a link of its own. A link for the directory would let a client write into the published model.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from modelcache.core.kinds import Kind
from modelcache.core.names import sanitize_model_id
from modelcache.core.types import LockedModel, set_digest

HUB_NAME = "hub"
"""The directory of the view below a root; `HF_HOME=<root>` finds it, too."""
DEFAULT_REF = "main"
"""The revision that a program asks for if it names none."""

_UP = "../"
_LEVELS = 4
"""From a snapshot up to the root: commit, snapshots, repository, hub."""
_COMMIT = re.compile(r"[0-9a-f]{40}")
_COLLECTIONS = "|".join(re.escape(kind.spec.collection) for kind in Kind)
_LINK = re.compile(rf"(\.\./){{{_LEVELS},}}({_COLLECTIONS})/[^/]+/.+")


@dataclass(frozen=True, slots=True)
class HubView:
    """The view of one model, below `models--owner--name`."""

    folder: str
    commit: str
    """40 hex digits; of a model from a directory the first 40 of its set digest."""
    refs: tuple[str, ...]
    """The names below `refs`; each holds the commit."""
    links: Mapping[str, str]
    """The target of each link, relative to its own directory, by path below `snapshots/<commit>`."""


def hub_view(model: LockedModel) -> HubView | None:
    """Return the view of a model; None where no client takes its id (huggingface_hub/utils/_validators.py)."""
    if "--" in model.id or ".." in model.id or model.id.endswith(".git"):
        return None
    home = f"{model.kind.spec.collection}/{sanitize_model_id(model.id)}"
    paths = sorted(file.path for file in model.files)
    return HubView(
        view_folder(model.id),
        model.commit or set_digest(model.files)[:40],
        (DEFAULT_REF, *([model.revision] if _is_other_ref(model.revision) else [])),
        {path: f"{_UP * (_LEVELS + path.count('/'))}{home}/{path}" for path in paths},
    )


def view_folder(model_id: str) -> str:
    """Return the name of a model's directory in the cache: `owner/name` becomes `models--owner--name`."""
    return f"models--{model_id.replace('/', '--')}"


def leads_to_model(target: str) -> bool:
    """Whether the target of a link is as this tool writes it: a file of a published model."""
    return bool(_LINK.fullmatch(target))


def _is_other_ref(revision: str) -> bool:
    """Whether a revision needs a ref of its own: a commit is found without, and no file lies below the file `main`."""
    return revision != DEFAULT_REF and not revision.startswith(f"{DEFAULT_REF}/") and not _COMMIT.fullmatch(revision)
