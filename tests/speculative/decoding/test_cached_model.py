from typing import Any

import pytest
import torch

pytest.importorskip("transformers")

from speculative.decoding.cached_model import CachedModel
from speculative.decoding.encoder import encode
from speculative.decoding.even_rows import RereadModel
from tests.speculative import models


@torch.inference_mode()
def fresh(model: Any, given: dict[str, torch.Tensor], row: int, history: list[int]) -> Any:
    """Logits of a history that is read at once, without a cache."""
    one = {name: x[[row]] for name, x in given.items()}
    tokens = torch.tensor([history])
    if not model.config.is_encoder_decoder:
        return model(input_ids=tokens, use_cache=False).logits[0]
    return model(**one, decoder_input_ids=tokens, use_cache=False).logits[0]


@pytest.mark.parametrize("kind", models.KINDS)
@torch.inference_mode()
def test_rewound_and_selected_rows_read_on_as_if_alone(kind: str) -> None:
    model, given = models.make(kind, seed=1), models.inputs(kind, 4)
    encoded = encode(model, given) if model.config.is_encoder_decoder else None
    histories = [[3], [5, 6, 7, 8], [2, 9], [1, 1, 4]]
    cached = CachedModel(model, encoded, 4)
    padded = torch.tensor([[0] * (4 - len(h)) + h for h in histories])
    logits = cached.read(padded, [len(h) for h in histories], keep=1)
    for row, history in enumerate(histories):
        torch.testing.assert_close(logits[row, -1], fresh(model, given, row, history)[-1])

    more = torch.tensor([[1, 2, 3], [4, 5, 6], [7, 8, 9], [10, 11, 12]])
    logits = cached.read(more, keep=3)
    histories = [h + m for h, m in zip(histories, more.tolist(), strict=True)]
    for row, history in enumerate(histories):
        torch.testing.assert_close(logits[row], fresh(model, given, row, history)[-3:])

    kept = [2, 7, 3, 4]
    cached.rewind(kept)
    histories = [h[:n] for h, n in zip(histories, kept, strict=True)]
    cached = cached.select([3, 1, 0])
    cached.rewind([4, 5, 1])
    histories, order = [histories[3], histories[1][:5], histories[0][:1]], [3, 1, 0]
    logits = cached.read(torch.tensor([[1, 2], [3, 4], [5, 6]]), keep=2)
    for row, (i, history) in enumerate(zip(order, histories, strict=True)):
        whole = [*history, 2 * row + 1, 2 * row + 2]
        torch.testing.assert_close(logits[row], fresh(model, given, i, whole)[-2:])
    assert cached.lengths == [6, 7, 3]


@torch.inference_mode()
@pytest.mark.parametrize("way", [CachedModel, RereadModel])
def test_no_other_logits_are_computed_than_those_that_are_kept(way: Any) -> None:
    model, computed = models.make("llama", seed=1), []
    model.lm_head.register_forward_hook(lambda module, given, out: computed.append(out.shape))
    tokens = torch.tensor([[5, 6, 7, 8]])
    logits = way(model, None, 1).read(tokens, keep=2)
    assert computed == [(1, 2, 16)]
    torch.testing.assert_close(logits[0], fresh(model, {}, 0, [5, 6, 7, 8])[-2:])


@torch.inference_mode()
def test_rewind_to_nothing() -> None:
    model = models.make("llama", seed=1)
    cached = CachedModel(model, None, 2)
    cached.read(torch.tensor([[1, 2], [3, 4]]), keep=1)
    cached.rewind([0, 0])
    logits = cached.read(torch.tensor([[5, 6], [7, 8]]), keep=2)
    for row, history in enumerate([[5, 6], [7, 8]]):
        torch.testing.assert_close(logits[row], fresh(model, {}, row, history))
