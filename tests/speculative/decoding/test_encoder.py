"""The encoder's states of every row are those of the row alone, however rows share its passes."""

from typing import Any

import pytest
import torch
from torch import Tensor

pytest.importorskip("transformers")

from speculative.decoding import encoder
from speculative.decoding.decode import generate
from speculative.decoding.encoder import encode
from speculative.decoding.reading import reading
from tests.speculative import models


def uneven(lengths: list[int], *, left: bool) -> dict[str, Tensor]:
    """Rows of tokens of these lengths, padded on one side."""
    width = max(lengths)
    ends = torch.tensor(lengths)[:, None]
    mask = (torch.arange(width) >= width - ends) if left else (torch.arange(width) < ends)
    generator = torch.Generator().manual_seed(1)
    tokens = torch.randint(1, 16, (len(lengths), width), generator=generator)
    return {"input_ids": tokens * mask, "attention_mask": mask.long()}


@torch.inference_mode()
def assert_states_of_each_alone(model: Any, given: dict[str, Tensor]) -> int:
    """Check the states of rows that are encoded together; returns how many passes that took."""
    passes: list[Any] = []
    stack = model.get_encoder()
    hook = stack.register_forward_hook(lambda module, inputs, out: passes.append(out))
    encoded = encode(model, given, together=True)
    hook.remove()
    for row, (states, count) in enumerate(zip(encoded.states, encoded.lengths, strict=True)):
        tokens = given["input_ids"][row][given["attention_mask"][row].bool()]
        assert count == len(tokens)
        alone = stack(input_ids=tokens[None]).last_hidden_state[0]
        torch.testing.assert_close(states[:count], alone)
    return len(passes)


@pytest.mark.parametrize("left", [True, False])
def test_short_rows_share_a_pass(left: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    model = models.make("t5", seed=1).eval()
    assert assert_states_of_each_alone(model, uneven([3, 7, 1, 7, 5], left=left)) == 1
    monkeypatch.setattr(encoder, "TOGETHER", 5)
    assert assert_states_of_each_alone(model, uneven([3, 9, 1, 7, 9, 5], left=left)) == 3


@torch.inference_mode()
def test_a_trial_says_whether_rows_may_share_a_pass() -> None:
    given = uneven([8, 5], left=False)
    model = models.make("t5", seed=1).eval()
    assert reading(model, given).encodes_together
    assert not reading(models.make("llama", seed=1).eval(), given).encodes_together


@torch.inference_mode()
def test_an_encoder_that_sees_padding_reads_rows_of_one_length_at_a_time() -> None:
    model = models.make("t5", seed=1).eval()

    def centred(module: Any, inputs: Any, out: Any) -> Any:
        out.last_hidden_state = out.last_hidden_state - out.last_hidden_state.mean(1, keepdim=True)
        return out

    model.get_encoder().register_forward_hook(centred)
    given = uneven([8, 5], left=False)
    assert not reading(model, given).encodes_together
    both = generate(model, None, given, do_sample=False, max_new_tokens=6).tokens
    for row in range(2):
        one = {name: x[[row], : 8 if row == 0 else 5] for name, x in given.items()}
        assert generate(model, None, one, do_sample=False, max_new_tokens=6).tokens == [both[row]]
