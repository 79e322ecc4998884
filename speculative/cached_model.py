"""A transformers model with the keys and values of what it has read, a row for every sequence.

Sequences accept different numbers of draft tokens, so their caches grow unevenly. Rows are kept
aligned at their right end: a rewind moves every row's slots (one gather per layer, a plain crop
where all rows move alike), so new tokens always come after the last slot, and what is left over is
padding on the left, which attention masks and position ids hide in every model.
"""

import inspect
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from speculative.inputs import positions
from speculative.vocabulary import readable
from systems.schema import InputError


class CachedModel:
    """Reads tokens, gives logits, and can go back.

    Args:
        model: a transformers causal or encoder-decoder model with attention in every layer.
        inputs: `input_ids` or `input_features` (and `attention_mask`) for an encoder; a
            decoder-only model takes nothing from it.
        batch: number of sequences.
    """

    def __init__(self, model: Any, inputs: Mapping[str, Tensor], batch: int) -> None:
        from transformers import DynamicCache, EncoderDecoderCache

        self.lengths = [0] * batch
        """Tokens that each row holds."""
        self._model = model
        self._positions = positions(model)
        self._parameters = set(inspect.signature(model.forward).parameters)
        self._fixed: dict[str, Any] = {"use_cache": True, "return_dict": True}
        self._cache: Any = DynamicCache()
        self._prefix = ""
        if model.config.is_encoder_decoder:
            self._cache = EncoderDecoderCache(DynamicCache(), DynamicCache())
            self._prefix = "decoder_"
            self._encode(inputs)

    def read(self, tokens: Tensor, real: Sequence[int] | None = None, *, keep: int) -> Tensor:
        """Append tokens to every row.

        Args:
            tokens: int64 [B, T]; a draft reads those that it lacks as its last one.
            real: how many of the last T are tokens, the others before them padding; only the first
                call may have padding. None: all.
            keep: logits of so many last tokens are returned.

        Returns:
            Logits [B, keep, V].
        """
        count, held = tokens.shape[1], self._width()
        added = real or [count] * len(self.lengths)
        self.lengths = [n + m for n, m in zip(self.lengths, added, strict=True)]
        width = held + count
        ends = torch.tensor(self.lengths, device=tokens.device)[:, None]
        arguments = {
            **self._fixed,
            f"{self._prefix}input_ids": readable(tokens, self._model),
            "past_key_values": self._cache,
        }
        if min(self.lengths) < width:
            slots = torch.arange(width, device=tokens.device)
            arguments[f"{self._prefix}attention_mask"] = (slots >= width - ends).long()
        if f"{self._prefix}position_ids" in self._parameters:
            places = ends - count + torch.arange(count, device=tokens.device)
            # A row near its end is read beyond it, as far as the others are; nobody looks there.
            last = None if self._positions is None else self._positions - 1
            arguments[f"{self._prefix}position_ids"] = places.clamp(min=0, max=last)
        if "logits_to_keep" in self._parameters:
            arguments["logits_to_keep"] = keep
        return self._model(**arguments).logits[:, -keep:]

    def rewind(self, lengths: Sequence[int]) -> None:
        """Forget all but the first `lengths[b]` tokens of row b."""
        held, width = self._width(), max(lengths)
        starts = [held - n for n in self.lengths]
        shifts = [start - (width - n) for start, n in zip(starts, lengths, strict=True)]
        self.lengths = list(lengths)
        if len(set(shifts)) == 1 and shifts[0] >= 0:
            self._change(self._own_layers(), lambda x: x[:, :, shifts[0] : shifts[0] + width])
            return
        device = self._model.device
        slots = torch.arange(width, device=device) + torch.tensor(shifts, device=device)[:, None]
        slots = slots.clamp(min=0)[:, None, :, None]  # padding may hold anything finite
        self._change(
            self._own_layers(),
            lambda x: x.gather(2, slots.expand(-1, x.shape[1], -1, x.shape[3])),
        )

    def select(self, rows: Sequence[int]) -> None:
        """Keep these rows, in this order."""
        index = torch.tensor(rows, device=self._model.device)
        self.lengths = [self.lengths[row] for row in rows]
        layers = self._own_layers()
        if self._prefix:
            layers = [*layers, *self._cache.cross_attention_cache.layers]
            encoded = self._fixed["encoder_outputs"]
            encoded.last_hidden_state = encoded.last_hidden_state[index]
            if "attention_mask" in self._fixed:
                self._fixed["attention_mask"] = self._fixed["attention_mask"][index]
        self._change(layers, lambda x: x[index])

    def _encode(self, inputs: Mapping[str, Tensor]) -> None:
        from transformers.modeling_outputs import BaseModelOutput

        name = self._model.main_input_name
        if name not in inputs:
            raise InputError(f"inputs have {', '.join(inputs)}; this model needs {name}")
        given = {name: inputs[name]}
        if given[name].is_floating_point():
            given[name] = given[name].to(self._model.dtype)
        else:
            given[name] = readable(given[name], self._model)
        if "attention_mask" in inputs and name == "input_ids":
            given["attention_mask"] = self._fixed["attention_mask"] = inputs["attention_mask"]
        states = self._model.get_encoder()(**given, return_dict=True).last_hidden_state
        self._fixed["encoder_outputs"] = BaseModelOutput(last_hidden_state=states)

    def _own_layers(self) -> list[Any]:
        cache = self._cache.self_attention_cache if self._prefix else self._cache
        return list(cache.layers)

    def _width(self) -> int:
        return int(self._cache.get_seq_length())

    def _change(self, layers: list[Any], change: Any) -> None:
        from transformers.cache_utils import DynamicLayer

        for layer in layers:
            if type(layer) is not DynamicLayer:
                raise InputError(
                    f"{type(self._model).__name__}: its {type(layer).__name__} cannot go back "
                    "token by token; give a model with plain attention in every layer"
                )
            layer.keys, layer.values = change(layer.keys), change(layer.values)
