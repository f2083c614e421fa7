"""Parameters of a loaded model against the tensors that its weight files name. Names only; no torch, no disk.

A loader that does not find a weight fills the parameter with random numbers and goes on; one that does not know what
to do with a weight leaves it out. Both only warn. So the names are compared here, as transformers spells them: a base
model's prefix may be there or not, and LayerNorm had other names once (modeling_utils.py, core_model_loading.py).

A weight that no parameter takes is lost: the numbers were trained to go through it. Three kinds of weights are known
to be in files and not to be needed:

- what a model computes for itself, as the numbers of positions: its buffers;
- the heads of pre-training, which turn vectors back into words or judge whether two sentences are neighbours. They
  come after the vectors of which embeddings and scores are made. `_PRETRAINING` has what transformers' classes
  `…ForPreTraining`, `…ForMaskedLM` and `…ForCausalLM` have more than the model itself;
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
"""Buffers that old files hold, whatever the model of today makes of them."""


@dataclass(frozen=True, slots=True)
class Network:
    """The names of one network."""

    parameters: Collection[str]
    """What it needs from the files: parameters, and what is saved with them."""
    buffers: Collection[str] = ()
    """What it computes for itself: files may hold it or not."""
    prefix: str = ""
    """What the weights of a base model are called below in a larger one (`bert`)."""
    spare: Collection[str] = ()
    """Parts that are known not to be needed by this very model."""

    def unfilled(self, tensors: Iterable[str]) -> list[str]:
        """Return the parameters that no tensor has the name of, sorted."""
        filled = {name for tensor in tensors for name in self._spellings(tensor)}
        return sorted(set(self.parameters) - filled)

    def unnamed(self, tensors: Iterable[str]) -> set[str]:
        """Return the tensors that no parameter has the name of."""
        return {one for one in tensors if not any(name in self.parameters for name in self._spellings(one))}

    def left_over(self, tensors: Iterable[str]) -> tuple[list[str], list[str]]:
        """Return the tensors without a parameter: those that are lost, and the parts that are known to be no loss."""
        lost, unused = set(), set()
        for tensor in self.unnamed(tensors):
            if part := self._computed(tensor) or self._known_part(tensor):
                unused.add(part)
            else:
                lost.add(tensor)
        return sorted(lost), sorted(unused)

    def part(self, tensor: str) -> str:
        """Return a short name for the part that a tensor belongs to: as much of it as this network has not."""
        if known := self._computed(tensor) or self._known_part(tensor):
            return known
        bare = self._bare(tensor)
        first = bare.partition(".")[0]
        return bare.rpartition(".")[0] if any(_is_in(self._bare(name), first) for name in self.parameters) else first

    def _computed(self, tensor: str) -> str:
        """Return what a buffer is called, where a tensor is one: by two names, since many are called `bias`."""
        *_, above, name = ["", *self._bare(tensor).split(".")]
        tails = {".".join(buffer.split(".")[-2:]) for buffer in self.buffers}
        tail = f"{above}.{name}".removeprefix(".")
        return name if name in _COMPUTED else tail if tail in tails else ""

    def _known_part(self, tensor: str) -> str:
        """Return which of the parts that are not needed a tensor belongs to, unless this network has such a part."""
        bare = self._bare(tensor)
        for part in (*_PRETRAINING, _POOLER, *self.spare):
            if _is_in(bare, part) and not any(_is_in(self._bare(name), part) for name in self.parameters):
                return part
        return ""

    def _bare(self, name: str) -> str:
        return name.removeprefix(f"{self.prefix}.") if self.prefix else name

    def _spellings(self, tensor: str) -> Iterator[str]:
        names = [tensor, *(tensor.removesuffix(old) + new for old, new in _OLD_NAMES.items() if tensor.endswith(old))]
        for name in names:
            yield name
            if self.prefix:
                yield f"{self.prefix}.{name}"
                yield self._bare(name)


def _is_in(name: str, part: str) -> bool:
    return name == part or name.startswith(f"{part}.")
