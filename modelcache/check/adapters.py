"""One class a kind: how its models are loaded and asked, in the words of sentence-transformers.

The libraries are imported only inside functions; all of this runs in the process of one model.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from array import array
from collections.abc import Sequence
from dataclasses import replace
from math import isfinite
from typing import Any

from modelcache.check.probes import PAIRS, QUERY, Answer, Probe
from modelcache.core.kinds import Kind

_ROUTED_PROMPTS = ("query", "document")
"""The tasks for which sentence-transformers has methods of their own."""


class FailedError(Exception):
    """A model was loaded, and then failed at one step, which completes "fails when it is …"; the cause says why."""


class Adapter(ABC):
    """A loaded model of one kind."""

    similarity = ""
    """The name of its similarity function, if it has one."""
    dimension: int | None = None
    """How many numbers it says that it gives, if it says so."""

    def __init__(self, model: Any) -> None:
        self.model = model
        self.max_seq_length = positive_or_none(getattr(model, "max_seq_length", None))

    @abstractmethod
    def probe_templates(self) -> list[Probe]:
        """Return a probe without a text for each prompt that the model knows."""

    @abstractmethod
    def _numbers(self, probe: Probe) -> Any:
        """Return the model's output for one probe, as a numpy array."""

    def ask(self, probe: Probe) -> array[float]:
        """Return the model's answer to one probe; alone, since a batch would change the last bits.

        Raises:
            FailedError: the model raised an error.

        """
        try:
            return array("f", self._numbers(probe).astype("float32").reshape(-1).tobytes())
        except Exception as error:
            raise FailedError(f"asked for {probe.description()}") from error

    def ask_all(self, probes: Sequence[Probe]) -> tuple[list[Answer], list[str]]:
        """Return the answers, and why there is none for an empty text.

        Some tokenizers make no token of it, and a vector of zeros cannot be divided by its length. A pair needs a
        number all the same: one score that is none spoils the order of all others.
        """
        answers, unanswered = [], []
        for probe in probes:
            try:
                answer = Answer(probe, self.ask(probe))
            except FailedError as error:
                if probe.input_text():
                    raise
                cause = error.__cause__
                unanswered.append(f"{probe.description()}: {type(cause).__name__}: {cause}")
                continue
            if probe.input_text() or probe.query is not None or all(map(isfinite, answer.values)):
                answers.append(answer)
            else:
                unanswered.append(f"{probe.description()}: its numbers are not finite")
        return answers, unanswered

    def distinguishes_words(self, template: Probe) -> bool:
        """Whether different words give different numbers with this prompt."""
        pairs = ([self.ask(replace(template, text=word)) for word in pair] for pair in PAIRS)
        return any(one != other for one, other in pairs)

    def prompts(self) -> dict[str, str]:
        """Return the texts that go in front, by name; under "" the name of the default prompt."""
        prompts = {name: text for name, text in self.model.prompts.items() if text}
        if default := getattr(self.model, "default_prompt_name", None):
            prompts[""] = default
        return prompts


class EmbeddingAdapter(Adapter):
    """A SentenceTransformer."""

    def __init__(self, model: Any) -> None:
        super().__init__(model)
        self.similarity = str(model.similarity_fn_name)
        self.dimension = positive_or_none(model.get_embedding_dimension())

    def probe_templates(self) -> list[Probe]:
        """Return one for each prompt, or, where there is a Router, for each of its routes: it takes no other text."""
        from sentence_transformers.base.modules import Router

        routers = [module for module in self.model.modules() if isinstance(module, Router)]
        if not routers:
            return [Probe(prompt=name) for name in ("", *sorted(self.prompts().keys() - {""}))]
        tasks = sorted(
            set.intersection(*map(_routes_of, routers)), key=lambda task: (task not in _ROUTED_PROMPTS, task)
        )
        return [Probe(prompt=task) if task in _ROUTED_PROMPTS else Probe(task=task) for task in tasks] or [Probe()]

    def _numbers(self, probe: Probe) -> Any:
        encode = self.model.encode
        options: dict[str, str | None] = {}
        if probe.prompt in _ROUTED_PROMPTS:
            encode = self.model.encode_query if probe.prompt == "query" else self.model.encode_document
        else:
            options = {"task": probe.task} if probe.task else {"prompt_name": probe.prompt or None}
        return encode([probe.input_text()], show_progress_bar=False, **options)


class RerankerAdapter(Adapter):
    """A CrossEncoder."""

    def probe_templates(self) -> list[Probe]:
        """Return one: every pair has the same query."""
        return [Probe(query=QUERY)]

    def _numbers(self, probe: Probe) -> Any:
        return self.model.predict([(probe.query, probe.input_text())], show_progress_bar=False)


ADAPTERS: dict[Kind, type[Adapter]] = {Kind.EMBEDDING: EmbeddingAdapter, Kind.RERANKER: RerankerAdapter}


def positive_or_none(number: object) -> int | None:
    """Return a number of a size that makes sense, else None."""
    return number if isinstance(number, int) and 0 < number < 1 << 24 else None


def _routes_of(router: Any) -> set[str]:
    """Return the names under which a Router takes texts."""
    from sentence_transformers.base.modality_types import MODALITY_TO_PROCESSOR_ARG

    mapped = {task for task, modality in router.route_mappings if task and modality in (None, "text")}
    direct = {route for route in router.sub_modules if route == "text" or route not in MODALITY_TO_PROCESSOR_ARG}
    return mapped | direct
