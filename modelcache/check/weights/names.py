"""Missing and unexpected keys: the parameters of a loaded model against the tensors in its weight files. Names only.

A loader initialises a parameter without a weight with random numbers, and leaves out a weight without a parameter.
Both only warn. So the names are compared here, as transformers spells them: a base model's prefix may be there or not,
and LayerNorm had other names once (modeling_utils.py, core_model_loading.py).

An unexpected key is a fault: the outputs were trained to go through that weight. Three kinds of weights are known to
be in files and not to be needed:

- buffers, which a model computes itself, as position ids;
- heads of pre-training, which predict words or whether two sentences are neighbours. They come after the vectors of
  which embeddings and scores are made. `_PRETRAINING` has the modules that transformers' classes `…ForPreTraining`,
  `…ForMaskedLM` and `…ForCausalLM` have and the base model has not;
- the pooler of a model that is loaded by a class without one.

A head that was trained for another task, as a classifier, a projection or a score, is none of these.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass

_OLD_NAMES = {".gamma": ".weight", ".beta": ".bias"}
_PRETRAINING = frozenset(
    (
        *("lm_head", "embed_out", "output_projection", "final_logits_bias", "mtp"),  # most models
        *("cls.predictions", "cls.seq_relationship"),  # BERT
        *("predictions", "sop_classifier"),  # ALBERT
        *("vocab_transform", "vocab_layer_norm", "vocab_projector"),  # DistilBERT
        *("generator_predictions", "generator_lm_head", "discriminator_predictions"),  # ELECTRA, ConvBERT
        *("lm_predictions", "mask_predictions"),  # DeBERTa
        *("lm_loss", "pred_layer", "entity_predictions"),  # XLNet, XLM, LUKE
        *("head.dense", "head.norm", "decoder.weight", "decoder.bias"),  # ModernBERT
    )
)
_POOLER = "pooler"
_COMPUTED = frozenset(("masked_bias", "position_ids", "token_type_ids", "inv_freq", "num_batches_tracked"))
"""Buffers that old files hold, and that models of today compute or do without."""


@dataclass(frozen=True, slots=True)
class Network:
    """The names in one network."""

    parameters: Collection[str]
    """The names that it needs from the files: parameters, and buffers that are saved with them."""
    buffers: Collection[str] = ()
    """The buffers that it computes itself: files may hold them or not."""
    prefix: str = ""
    """The name of the base model in a larger one (`bert`)."""
    optional_parts: Collection[str] = ()
    """Parts that this very model is known not to need."""
    counters: Collection[str] = ()
    """The buffers of whole numbers that it saves: it takes them from the files, and does without."""

    def missing_keys(self, tensors: Iterable[str]) -> list[str]:
        """Return the parameters without a tensor of their name, sorted."""
        filled = {name for tensor in tensors for name in self._parameter_names(tensor)}
        return sorted(set(self.parameters) - filled)

    def unmatched(self, tensors: Iterable[str]) -> set[str]:
        """Return the tensors without a parameter of their name."""
        known = {*self.parameters, *self.counters}
        return {one for one in tensors if known.isdisjoint(self._parameter_names(one))}

    def unexpected_keys(self, tensors: Iterable[str]) -> tuple[list[str], list[str]]:
        """Return the tensors without a parameter, and, instead of those that are not needed, the parts they are of."""
        unexpected, unused = set(), set()
        for tensor in self.unmatched(tensors):
            if part := self._unused_part(tensor):
                unused.add(part)
            else:
                unexpected.add(tensor)
        return sorted(unexpected), sorted(unused)

    def part_of(self, tensor: str) -> str:
        """Return a short name for the part that a tensor belongs to: the outermost module that the network lacks."""
        if known := self._unused_part(tensor):
            return known
        bare = self._bare(tensor)
        first = bare.partition(".")[0]
        has_module = any(_is_within(self._bare(name), first) for name in self.parameters)
        return bare.rpartition(".")[0] if has_module else first

    def _unused_part(self, tensor: str) -> str:
        """Return the buffer or the part without use that a tensor belongs to; empty where it may be needed.

        Buffers are compared by two names, since many are called `bias`. A part that this network has is in use.
        """
        bare = self._bare(tensor)
        *_, above, name = ["", *bare.split(".")]
        tail = f"{above}.{name}".removeprefix(".")
        if name in _COMPUTED:
            return name
        if tail in {".".join(buffer.split(".")[-2:]) for buffer in self.buffers}:
            return tail
        for part in (*_PRETRAINING, _POOLER, *self.optional_parts):
            if _is_within(bare, part) and not any(_is_within(self._bare(name), part) for name in self.parameters):
                return part
        return ""

    def _bare(self, name: str) -> str:
        return name.removeprefix(f"{self.prefix}.") if self.prefix else name

    def _parameter_names(self, tensor: str) -> Iterator[str]:
        names = [tensor, *(tensor.removesuffix(old) + new for old, new in _OLD_NAMES.items() if tensor.endswith(old))]
        for name in names:
            yield name
            if self.prefix:
                yield f"{self.prefix}.{name}"
                yield self._bare(name)


def _is_within(name: str, part: str) -> bool:
    return name == part or name.startswith(f"{part}.")
