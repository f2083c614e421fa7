"""Models with every fact that a report has, without a disk."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from modelcache.core.kinds import Kind
from modelcache.core.model_report import LicenceFile, ModelCard, Proof, ReportedModel
from modelcache.core.types import LockedFile, LockedModel, Made, Original, RemoteCode
from modelcache.formats.manifest import parse_manifest

PLAIN = ReportedModel(
    LockedModel(
        Kind.RERANKER,
        "acme/reranker",
        "main",
        "a" * 40,
        (LockedFile("LICENSE", 11, "1" * 64), LockedFile("model.safetensors", 1_112_201_288, "2" * 64)),
        "mit",
    ),
    Proof.PROVEN,
    {"torch": "2.13.0", "sentence-transformers": "6.2.0"},
    on_disk=True,
    card=ModelCard(licences=("mit",)),
    licence_files=(LicenceFile("LICENSE", "MIT License"),),
)
FULL = ReportedModel(
    LockedModel(
        Kind.EMBEDDING,
        "acme/full",
        "v1",
        "b" * 40,
        (
            LockedFile("NOTICE", 9, "3" * 64),
            LockedFile("config.json", 500, "4" * 64, Made.REWRITTEN, Original("config.json", 612, "5" * 64)),
            LockedFile("heads.pt", 9, "6" * 64),
            LockedFile(
                "model.safetensors", 90_000, "7" * 64, Made.CONVERTED, Original("pytorch_model.bin", 91_000, "8" * 64)
            ),
            LockedFile("modeling_x.py", 4, "9" * 64, None, Original("modeling_x.py", 4, "9" * 64, "c/code", "f" * 40)),
            LockedFile("own.py", 4, "a" * 64),
            LockedFile("1_Pooling/config.json", 300, "b" * 64, Made.WRITTEN),
        ),
        remote_code=RemoteCode.VENDORED,
        packages=("einops", "house_lib"),
        pickles=("heads.pt",),
        gated=True,
    ),
    Proof.UNPROVEN,
    on_disk=True,
    card=ModelCard(
        licences=("other", "apache-2.0"),
        licence_name="acme-1.0",
        licence_link="https://acme.example/licence",
        base_models=("BAAI/bge-m3", "not an id"),
        terms=("extra_gated_prompt",),
    ),
    licence_files=(LicenceFile("NOTICE", "Notice of acme"),),
    index_id="v1-77777777777777777777777777777777",
)
HOUSE = ReportedModel(
    LockedModel(Kind.EMBEDDING, "acme/house", "main", "", (LockedFile("model.safetensors", 9, "c" * 64),)),
    Proof.UNPROVEN,
    on_disk=True,
)
ABSENT = ReportedModel(
    LockedModel(Kind.OTHER, "acme/absent", "main", "d" * 40, (LockedFile("x.onnx", 9, "d" * 64),)), Proof.NEVER_LOADED
)
ALL = (PLAIN, FULL, HOUSE, ABSENT)


def hostile(words: str) -> ReportedModel:
    """A model of which every word of a stranger is this one."""
    model = LockedModel(
        Kind.EMBEDDING,
        "acme/hostile",
        "main",
        "e" * 40,
        (LockedFile("LICENSE", 9, "e" * 64), LockedFile("`<b>x`|&[a](b).py", 9, "f" * 64)),
        remote_code=RemoteCode.VENDORED,
    )
    return ReportedModel(
        model,
        Proof.PROVEN,
        {words: words},
        on_disk=True,
        card=ModelCard((words, "other"), words, words, (words,), (words,)),
        licence_files=(LicenceFile("LICENSE", words),),
    )


def listed(manifest: Path, licence: str = "apache-2.0", size: int = 2_239_618_672) -> Sequence[ReportedModel]:
    """The models of a manifest, each as large as the largest of them."""
    return [
        ReportedModel(
            LockedModel(one.kind, one.id, "main", "c" * 40, (LockedFile("model.safetensors", size, "1" * 64),)),
            Proof.UNPROVEN,
            on_disk=True,
            card=ModelCard(licences=(licence,)),
        )
        for one in parse_manifest(manifest.read_bytes(), manifest)
    ]
