"""The facts about a model: where its licence is named, what it is made of, whether it asks for consent."""

from __future__ import annotations

from dataclasses import replace

import pytest

from modelcache.core.kinds import Kind
from modelcache.core.model_report import ModelCard, Proof, ReportedModel, Source, is_licence_file
from modelcache.core.types import LockedFile, LockedModel, Made, Original

FILES = (
    LockedFile("config.json", 5, "1" * 64, Made.REWRITTEN, Original("config.json", 6, "2" * 64)),
    LockedFile("its_own.py", 5, "3" * 64),
    LockedFile("model.safetensors", 9, "4" * 64),
    LockedFile("words.txt", 9, "5" * 64, None, Original("words.txt", 9, "5" * 64, "c/code", "f" * 40)),
)
PIN = LockedModel(Kind.EMBEDDING, "a/b", "main", "c" * 40, FILES)


def reported(card: ModelCard = ModelCard(), **pin: object) -> ReportedModel:  # noqa: B008  # it is frozen
    """A model of this card, and of a pin with these values."""
    return ReportedModel(replace(PIN, **pin), Proof.UNPROVEN, card=card)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("card", "locked", "names", "source"),
    [
        (ModelCard(licences=("mit",)), "apache-2.0", ("mit",), Source.CARD),
        (ModelCard(licences=("mit", "gpl-3.0")), "mit", ("mit", "gpl-3.0"), Source.CARD),
        (ModelCard(licences=("other",), licence_name="acme"), "other", ("acme",), Source.CARD),
        (ModelCard(licences=("other",)), "other", ("other",), Source.CARD),
        (ModelCard(licence_name="acme"), "", ("acme",), Source.CARD),
        (ModelCard(), "apache-2.0", ("apache-2.0",), Source.LOCK),
        (ModelCard(licence_link="LICENSE"), "", (), None),
        (ModelCard(), "", (), None),
    ],
)
def test_a_licence_is_that_of_the_card_then_that_of_the_lock(
    card: ModelCard, locked: str, names: tuple[str, ...], source: Source | None
) -> None:
    """The card on disk is shipped; the lock has what the Hub said; where neither names one, it is unknown."""
    model = reported(card, licence=locked)
    assert (model.licences, model.licence_source) == (names, source)


@pytest.mark.parametrize(
    ("licences", "locked", "other"),
    [(("mit",), "mit", ""), (("mit", "x"), "x", ""), (("mit",), "x", "x"), ((), "x", ""), (("mit",), "", "")],
)
def test_another_licence_in_the_lock_is_seen(licences: tuple[str, ...], locked: str, other: str) -> None:
    """The policy judges that of the lock."""
    assert reported(ModelCard(licences=licences), licence=locked).other_licence == other


def test_consent_is_asked_for_by_the_hub_or_by_the_card() -> None:
    """They are kept apart: a copy of a card repeats its terms, and asks for nothing."""
    terms = ModelCard(terms=("extra_gated_prompt",))
    assert reported().gated == ()
    assert reported(gated=True).gated == (Source.LOCK,)
    assert reported(terms).gated == (Source.CARD,)
    assert reported(terms, gated=True).gated == (Source.LOCK, Source.CARD)


def test_code_has_its_origin_and_a_made_file_its_original() -> None:
    """Code of its own repository, and whatever was copied from another one."""
    model = reported()
    code = {file.path: (original.repository, original.commit) for file, original in model.code}
    assert code == {"its_own.py": ("a/b", "c" * 40), "words.txt": ("c/code", "f" * 40)}
    assert [(file.path, file.made) for file in model.made] == [("config.json", Made.REWRITTEN)]


@pytest.mark.parametrize(
    ("path", "is_one"),
    [
        *((path, True) for path in ("LICENSE", "licence.md", "LICENSE-APACHE", "MODEL_LICENSE.txt", "1_Dense/NOTICE")),
        *((path, True) for path in ("COPYING", "NOTICE.txt", "Notices.md", "LICENSES")),
        *((path, False) for path in ("license.py", "licensed.txt", "LICENSE.json", "notice.safetensors", "README.md")),
        *((path, False) for path in ("LICENSE/readme.txt", "copying_weights.bin", "unnoticed.txt", "config.json")),
    ],
)
def test_files_of_a_licence_are_found_by_their_names(path: str, *, is_one: bool) -> None:
    """Their first lines are quoted for a reader; none of them decides which licence it is."""
    assert is_licence_file(path) is is_one
