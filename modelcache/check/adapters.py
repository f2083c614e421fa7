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

from modelcache.check.probes import PAIRS, QUERY, TEXTS, Answer, Probe, probes_for
from modelcache.core.kinds import Kind

_ROUTED_PROMPTS = ("query", "document")
"""The tasks for which sentence-transformers has methods of their own."""
_MOST_ROWS = 320
"""Words of the long text where each token gives a vector: 8,192 tokens of 128 numbers would take 4 MB in the file."""


class FailedError(Exception):
    """A model was loaded, and then failed at one step, which completes "fails when it is …"; the cause says why."""


class Adapter(ABC):
    """A loaded model of one kind."""

    similarity = ""
    """The name of its similarity function, if it has one."""

    def __init__(self, model: Any) -> None:
        self.model = model
        self.max_seq_length = positive_or_none(getattr(model, "max_seq_length", None))

    @abstractmethod
    def probe_templates(self) -> list[Probe]:
        """Return a probe without a text for each prompt that the model knows."""

    @abstractmethod
    def _answer(self, probe: Probe) -> Answer:
        """Return the model's output for one probe."""

    def dimension(self) -> int | None:
        """Return how many numbers it says that it gives, if it says so; some models know that after the first text."""
        return None

    def probes(self) -> Sequence[Probe]:
        """Return the probes for this model."""
        return probes_for(self.max_seq_length, self.probe_templates())

    def ask(self, probe: Probe) -> Answer:
        """Return the model's answer to one probe; alone, since a batch would change the last bits.

        Raises:
            FailedError: the model raised an error.

        """
        try:
            return self._answer(probe)
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
                answer = self.ask(probe)
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
        return any(replace(one, probe=other.probe) != other for one, other in pairs)

    def prompts(self) -> dict[str, str]:
        """Return the texts that go in front, by name; under "" the name of the default prompt."""
        prompts = {name: text for name, text in self.model.prompts.items() if text}
        if default := getattr(self.model, "default_prompt_name", None):
            prompts[""] = default
        return prompts


class EmbeddingAdapter(Adapter):
    """A SentenceTransformer."""

    _ways: Sequence[str] = ("",)
    """The prompts with which each model is asked, also one that has no text for them."""

    def __init__(self, model: Any) -> None:
        super().__init__(model)
        self.similarity = str(model.similarity_fn_name)

    def dimension(self) -> int | None:
        """Return how many numbers it says that it gives, if it says so."""
        return positive_or_none(self.model.get_embedding_dimension())

    def probe_templates(self) -> list[Probe]:
        """Return one for each prompt, or, where there is a Router, for each of its routes: it takes no other text."""
        from sentence_transformers.base.modules import Router

        routers = [module for module in self.model.modules() if isinstance(module, Router)]
        if not routers:
            first = self._ways
            return [Probe(prompt=name) for name in (*first, *sorted(self.prompts().keys() - {"", *first}))]
        tasks = sorted(
            set.intersection(*map(_routes_of, routers)), key=lambda task: (task not in _ROUTED_PROMPTS, task)
        )
        return [Probe(prompt=task) if task in _ROUTED_PROMPTS else Probe(task=task) for task in tasks] or [Probe()]

    def _answer(self, probe: Probe) -> Answer:
        return Answer(probe, _floats(self._encode(probe)))

    def _encode(self, probe: Probe) -> Any:
        """Return what the model gives for a list of one text."""
        encode = self.model.encode
        options: dict[str, str | None] = {}
        if probe.prompt in _ROUTED_PROMPTS:
            encode = self.model.encode_query if probe.prompt == "query" else self.model.encode_document
        else:
            options = {"task": probe.task} if probe.task else {"prompt_name": probe.prompt or None}
        return encode([probe.input_text()], show_progress_bar=False, **options)


class _RetrieverAdapter(EmbeddingAdapter):
    """A model for queries and documents: each goes its own way, with weights or settings of its own."""

    _ways = ("document", "query")
    _most_words: int | None = None

    def probes(self) -> Sequence[Probe]:
        """Return every text for each way, and the first text for each other prompt or route."""
        templates = self.probe_templates()
        ways = [template for template in templates if template.prompt in self._ways] or templates[:1]
        others = [template for template in templates if template not in ways]
        asked = [probe for way in ways for probe in probes_for(self.max_seq_length, [way], self._most_words)]
        return [*asked, *(replace(other, text=TEXTS[0]) for other in others)]


class SparseAdapter(_RetrieverAdapter):
    """A SparseEncoder."""

    def _answer(self, probe: Probe) -> Answer:
        vector = self._encode(probe)[0].coalesce()
        (indices,), values = vector.indices(), vector.values()
        some = values != 0
        return Answer(probe, _floats(values[some].float().numpy()), array("I", indices[some].tolist()), len(vector))


class MultiVectorAdapter(_RetrieverAdapter):
    """A MultiVectorEncoder: a matrix a text, and the score of one pair."""

    _most_words = _MOST_ROWS

    def __init__(self, model: Any) -> None:
        super().__init__(model)
        self.max_seq_length = positive_or_none(getattr(model[0], "document_length", None)) or self.max_seq_length

    def probes(self) -> Sequence[Probe]:
        """Return also a pair, whose score is made of the matrices of both ways."""
        probes = super().probes()
        both = {probe.prompt for probe in probes}.issuperset(self._ways)
        return [*probes, Probe(TEXTS[0], query=QUERY)] if both else probes

    def _answer(self, probe: Probe) -> Answer:
        if probe.query is not None:
            query = self._encode(Probe(probe.query, prompt="query"))
            document = self._encode(Probe(probe.text, probe.words, prompt="document"))
            return Answer(probe, _floats(self.model.similarity(query, document).float().numpy()))
        matrix = self._encode(probe)[0].float().numpy()
        return Answer(probe, _floats(matrix), dimension=matrix.shape[1])


class RerankerAdapter(Adapter):
    """A CrossEncoder."""

    def probe_templates(self) -> list[Probe]:
        """Return one: every pair has the same query."""
        return [Probe(query=QUERY)]

    def _answer(self, probe: Probe) -> Answer:
        return Answer(probe, _floats(self.model.predict([(probe.query, probe.input_text())], show_progress_bar=False)))


ADAPTERS: dict[Kind, type[Adapter]] = {
    Kind.EMBEDDING: EmbeddingAdapter,
    Kind.RERANKER: RerankerAdapter,
    Kind.SPARSE: SparseAdapter,
    Kind.MULTI_VECTOR: MultiVectorAdapter,
}


def positive_or_none(number: object) -> int | None:
    """Return a number of a size that makes sense, else None."""
    return number if isinstance(number, int) and 0 < number < 1 << 24 else None


def _floats(numbers: Any) -> array[float]:
    """Return the numbers of a numpy array."""
    return array("f", numbers.astype("float32").reshape(-1).tobytes())


def _routes_of(router: Any) -> set[str]:
    """Return the names under which a Router takes texts."""
    from sentence_transformers.base.modality_types import MODALITY_TO_PROCESSOR_ARG

    mapped = {task for task, modality in router.route_mappings if task and modality in (None, "text")}
    direct = {route for route in router.sub_modules if route == "text" or route not in MODALITY_TO_PROCESSOR_ARG}
    return mapped | direct
