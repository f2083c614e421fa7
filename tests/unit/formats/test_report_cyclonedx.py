"""The report as a CycloneDX ML-BOM: valid, the same bytes for the same facts, and nothing that is not known."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from typing import Any

import pytest
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator

from modelcache.core.model_report import ModelCard, ReportedModel
from modelcache.formats.report_cyclonedx import format_report
from tests.conftest import PROJECT
from tests.support.reported import ABSENT, ALL, FULL, HOUSE, PLAIN, hostile
from tests.unit.formats.test_report_markdown import HOSTILE

VALIDATOR = JsonStrictValidator(SchemaVersion.V1_6)


def document(*models: ReportedModel, timestamp: str = "") -> dict[str, Any]:
    """The bill of these models, which is valid."""
    text = format_report(models, timestamp)
    error = VALIDATOR.validate_str(text)
    assert error is None, error
    found: dict[str, Any] = json.loads(text)
    return found


def component(model: ReportedModel) -> dict[str, Any]:
    """The component of a model."""
    (found,) = document(model)["components"]
    assert isinstance(found, dict)
    return found


def properties(found: dict[str, Any]) -> dict[str, str]:
    """The properties of a component, without their prefix."""
    return {one["name"].removeprefix("cache-models:"): one["value"] for one in found["properties"]}


@pytest.mark.parametrize("models", [(), ALL, *((model,) for model in ALL)])
def test_every_bill_is_valid(models: tuple[ReportedModel, ...]) -> None:
    """By the strict schema of CycloneDX 1.6, which knows no field of our own."""
    assert document(*models)["specVersion"] == "1.6"


@pytest.mark.parametrize("words", HOSTILE)
def test_a_bill_with_hostile_words_is_valid(words: str) -> None:
    """They are values, and no link is made of them."""
    text = format_report([hostile(words)])
    assert VALIDATOR.validate_str(text) is None
    assert '"url"' not in text


def test_a_model_is_a_component_with_its_commit_and_its_address() -> None:
    """As tools for bills of materials look for it."""
    found = component(PLAIN)
    assert (found["type"], found["name"], found["version"]) == ("machine-learning-model", "acme/reranker", "a" * 40)
    assert found["purl"] == f"pkg:huggingface/acme/reranker@{'a' * 40}"
    assert found["licenses"] == [{"license": {"id": "MIT", "acknowledgement": "declared"}}]
    assert found["modelCard"] == {"modelParameters": {"task": "text-ranking", "outputs": [{"format": "score"}]}}
    assert "pedigree" not in found
    assert properties(found) == {
        "check": "proven",
        "check_version": "torch 2.13.0",
        "gated": "false",
        "kind": "reranker",
        "licence_source": "card",
        "on_disk": "true",
        "revision": "main",
        "set_digest": PLAIN.digest,
        "size": "1112201299",
    }


def test_files_are_components_with_their_hashes_and_origins() -> None:
    """Code of another repository has that one's address, a file that was made has its original."""
    found = component(FULL)
    files = {one["name"]: one for one in found["components"]}
    assert {name: one["hashes"][0] for name, one in files.items()} == {
        file.path: {"alg": "SHA-256", "content": file.sha256} for file in FULL.pin.files
    }
    assert files["modeling_x.py"]["purl"] == f"pkg:huggingface/c/code@{'f' * 40}#modeling_x.py"
    assert "purl" not in files["own.py"]
    assert properties(files["own.py"])["code"] == f"acme/full@{'b' * 40}"
    (original,) = files["model.safetensors"]["pedigree"]["ancestors"]
    assert (original["name"], original["hashes"][0]["content"]) == ("pytorch_model.bin", "8" * 64)
    assert properties(files["model.safetensors"]) == {"made": "converted", "size": "90000"}
    assert properties(files["heads.pt"])["pickle"] == "true"
    assert properties(files["NOTICE"])["first_line"] == "Notice of acme"


def test_licences_without_an_spdx_id_are_named_and_base_models_are_ancestors() -> None:
    """An address is made of an id alone."""
    found = component(FULL)
    link = "https://acme.example/licence"
    assert sorted((one["license"] for one in found["licenses"]), key=str) == [
        {"id": "Apache-2.0", "url": link, "acknowledgement": "declared"},
        {"name": "acme-1.0", "url": link, "acknowledgement": "declared"},
    ]
    ancestors = {one["name"]: one.get("purl") for one in found["pedigree"]["ancestors"]}
    assert ancestors == {"BAAI/bge-m3": "pkg:huggingface/BAAI/bge-m3", "not an id": None}
    assert properties(found)["index_id"] == FULL.index_id


def test_nothing_is_said_that_is_not_known() -> None:
    """A model from a directory has no address, one that is never loaded no task, an unknown licence is not named."""
    house, absent = component(HOUSE), component(ABSENT)
    assert not {"version", "purl", "licenses"} & house.keys()
    assert properties(house)["licence_source"] == "unknown"
    assert not {"modelCard", "licenses"} & absent.keys()
    assert properties(absent)["on_disk"] == "false"
    bill = document(*ALL)
    assert "timestamp" not in bill["metadata"]
    assert "dependencies" not in bill  # an empty list would say that there are none


def test_one_id_of_two_kinds_is_two_components() -> None:
    """References are unique, also where a lock pins an id twice."""
    other = replace(PLAIN, pin=replace(PLAIN.pin, kind=HOUSE.pin.kind))
    assert len({one["bom-ref"] for one in document(PLAIN, other)["components"]}) == 2


def test_equal_facts_give_equal_bytes() -> None:
    """In any process, whatever its hash seed; other facts, or another date, are another bill."""
    code = "from tests.support.reported import ALL\nfrom modelcache.formats.report_cyclonedx import format_report\n"
    command = [sys.executable, "-c", f"{code}print(format_report(ALL))"]
    bills = {
        subprocess.run(
            command, cwd=PROJECT, env={**os.environ, "PYTHONHASHSEED": seed}, capture_output=True, check=True
        ).stdout
        for seed in ("0", "1", "2")
    }
    assert bills == {f"{format_report(ALL)}\n".encode()}
    numbers = [document(*models)["serialNumber"] for models in (ALL, ALL[:1])]
    numbers.append(document(*ALL, timestamp="2026-01-02T03:04:05+00:00")["serialNumber"])
    assert len(set(numbers)) == 3


@pytest.mark.parametrize(
    ("link", "is_address"),
    [
        ("https://acme.example/licence", True),
        ("http://acme.example:8080/a-b/c.md", True),
        ("LICENSE", False),
        ("javascript:alert(1)", False),
        ("https://a b", False),
        ("https://acme.example/?token=x", False),
        ("https://user:password@acme.example/", False),
    ],
)
def test_only_an_address_becomes_a_link(link: str, *, is_address: bool) -> None:
    """The words of the card stand in a property in any case."""
    found = component(replace(PLAIN, card=ModelCard(licences=("mit",), licence_link=link)))
    assert (found["licenses"][0]["license"].get("url") == link) is is_address
    assert properties(found)["licence_link"] == link
