"""The facts about the models of a root, for reviewers: from lock, receipts and bytes on disk, with no request."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from modelcache.check.golden import LARGEST_GOLDEN, GoldenFile, golden_of, parse_golden
from modelcache.core.errors import IntegrityError, raise_all
from modelcache.core.model_report import CARD_NAME, LicenceFile, ModelCard, Proof, ReportedModel, is_licence_file
from modelcache.core.types import LARGEST_TEXT, LockedModel
from modelcache.formats.model_card import first_line, parse_card
from modelcache.pipeline.index_id import index_id_of
from modelcache.pipeline.pins import Project
from modelcache.pipeline.verify import intact_models, missing_errors, pins_without_network
from modelcache.store.pinned_content import pinned_content
from modelcache.system.files import read_bytes, storage_errors


def report_models(project: Project, ids: Sequence[str] = ()) -> list[ReportedModel]:
    """Return the facts about the models of the lock, without one of the receipts; with ids, about these only.

    Every byte on disk is compared with its pin first, because a report states what is shipped.

    Raises:
        IntegrityError: a model on disk is not as pinned; without a lock, a wanted one is not there.

    """
    pins, absent = pins_without_network(project, ids, fitting=project.locked)
    errors = missing_errors(absent, project)
    there = [pin for pin in pins if _is_there(project, pin)]
    intact = list(intact_models(there, project, errors, quick=False))
    raise_all(errors)
    golden = _read_golden(project.golden)
    return [_reported(ShippedModel(project, pin, on_disk=pin in intact), golden) for pin in pins]


def _is_there(project: Project, pin: LockedModel) -> bool:
    """Whether anything stands where a model is published."""
    home = project.places.home(pin.kind, pin.id)
    with storage_errors(f"read {home}"):
        try:
            home.lstat()
        except (FileNotFoundError, NotADirectoryError):
            return False
    return True


@dataclass(frozen=True, slots=True)
class ShippedModel:
    """A pinned model and its small files, if it is on disk."""

    project: Project
    pin: LockedModel
    on_disk: bool

    @property
    def home(self) -> Path:
        """The directory where it is published."""
        return self.project.places.home(self.pin.kind, self.pin.id)

    def read(self, path: str) -> bytes | None:
        """Return a file of the model, as it is pinned; None for one that is not there, or too large for a text.

        Raises:
            IntegrityError: it was changed after it had been compared with its pin.

        """
        file = next((file for file in self.pin.files if file.path == path), None)
        if not self.on_disk or file is None or file.size > LARGEST_TEXT:
            return None
        content = pinned_content(file, [self.home / path])
        if content is None:
            raise IntegrityError(
                f"{self.pin.id} was changed while it was read ({self.home / path})", hint="Run it again."
            )
        return content


def _reported(shipped: ShippedModel, golden: GoldenFile) -> ReportedModel:
    pin, card = shipped.pin, shipped.read(CARD_NAME)
    recorded = golden_of(pin, golden)
    proof = Proof.PROVEN if recorded else Proof.UNPROVEN if pin.kind.spec.loads else Proof.NEVER_LOADED
    papers = [file.path for file in pin.files if is_licence_file(file.path)]
    return ReportedModel(
        pin=pin,
        proof=proof,
        versions=recorded.versions if recorded else {},
        on_disk=shipped.on_disk,
        card=ModelCard() if card is None else parse_card(card),
        licence_files=tuple(LicenceFile(path, first_line(shipped.read(path) or b"")) for path in papers),
        index_id=index_id_of(shipped.home, pin) if shipped.on_disk else None,
    )


def _read_golden(path: Path) -> GoldenFile:
    content = read_bytes(path, limit=LARGEST_GOLDEN)
    return {} if content is None else parse_golden(content, path.name)
