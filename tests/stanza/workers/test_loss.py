"""Sums over the samples, so that shares of a batch add up."""

import math
from collections import OrderedDict, namedtuple
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from hypothesis import given, strategies as st
from torch import Tensor, nn

from stanza.layout import layout_of
from stanza.models import ARCHITECTURES, Architecture, build_model
from stanza.models.inception import InceptionOutputs
from stanza.options import Options
from stanza.train.data import open_data
from stanza.train.workload import logits, real_workload
from stanza.workers.loss import AUXILIARY_WEIGHT, check_outputs, loss_sum
from systems.data.accuracy import accuracy
from systems.schema import InputError

LOGITS = torch.tensor([[0.0, math.log(3)], [math.log(7), 0.0]])
LABELS = torch.tensor([0, 0])
LOSS = math.log(4) + math.log(8 / 7)


def test_loss_is_summed() -> None:
    assert loss_sum(LOGITS, LABELS).item() == pytest.approx(LOSS)


def test_the_auxiliary_loss_has_its_weight() -> None:
    auxiliary = torch.zeros(2, 2)
    assert AUXILIARY_WEIGHT == 0.4
    expected = LOSS + 0.4 * 2 * math.log(2)
    assert loss_sum(InceptionOutputs(LOGITS, auxiliary), LABELS).item() == pytest.approx(expected)


def test_both_outputs_get_gradients() -> None:
    logits, auxiliary = LOGITS.clone().requires_grad_(), LOGITS.clone().requires_grad_()
    loss_sum(InceptionOutputs(logits, auxiliary), LABELS).backward()
    assert logits.grad is not None
    torch.testing.assert_close(auxiliary.grad, AUXILIARY_WEIGHT * logits.grad)


@given(st.integers(1, 9), st.data(), st.booleans())
def test_shares_of_a_batch_add_up(samples: int, data: st.DataObject, auxiliary: bool) -> None:
    cut = data.draw(st.integers(0, samples))
    torch.manual_seed(samples)
    outputs, second = torch.randn(2, samples, 5)
    labels = torch.randint(5, (samples,))

    def loss(part: slice) -> Tensor:
        logits = outputs[part]
        heads = InceptionOutputs(logits, second[part]) if auxiliary else logits
        return loss_sum(heads, labels[part])

    parts = loss(slice(0, cut)) + loss(slice(cut, None))
    torch.testing.assert_close(parts, loss(slice(None)))


Pair = namedtuple("Pair", ["logits", "auxiliary_logits"])


@dataclass
class Output:
    logits: Tensor
    embedding: Tensor


class Named(OrderedDict[str, Tensor]):
    """A dict with a name, as the outputs of transformers' models are."""


KINDS: dict[str, tuple[Callable[[Tensor], Any], str]] = {
    "two heads": (lambda x: (x, x), "a tuple of 2"),
    "a list": (lambda x: [x, x], "a list of 2"),
    "one in a tuple": (lambda x: (x,), "a tuple of 1"),
    "a dict": (lambda x: {"logits": x, "age": x}, "a dict of logits, age"),
    "a dict with a name": (lambda x: Named(logits=x), "a Named of logits"),
    "a named tuple": (lambda x: Pair(x, x), "a Pair of 2"),
    "a dataclass": (lambda x: Output(x, x), "a Output"),
    "a map": (lambda x: x[:, :, None, None], "values of the shape [2, 10, 1, 1]"),
    "nothing": (lambda x: None, "a NoneType"),
    "auxiliary map": (
        lambda x: InceptionOutputs(x, x[:, :, None]),
        "values of the shape [2, 10, 1]",
    ),
}


class Returning(nn.Module):
    """A network that returns something else than logits in one of its modes."""

    def __init__(self, returned: Callable[[Tensor], Any], training: bool) -> None:
        super().__init__()
        self.fc, self.returned, self.when = nn.Linear(64, 10), returned, training

    def forward(self, images: Tensor) -> Any:
        logits = self.fc(images.flatten(1))
        return self.returned(logits) if self.training == self.when else logits


def two_heads(classes: int) -> Returning:
    return Returning(KINDS["two heads"][0], training=False)


@pytest.mark.parametrize("kind", KINDS)
def test_other_outputs_are_no_logits(kind: str) -> None:
    returned, words = KINDS[kind]
    for training in (True, False):
        with pytest.raises(InputError) as error:
            check_outputs(Returning(returned, training), (1, 8, 8))
        assert f"the network returns {words}, and" in str(error.value)
        assert "\n" not in str(error.value)
    with pytest.raises(InputError, match="the network returns"):
        loss_sum(returned(torch.randn(5, 10)), torch.arange(5))
    test = open_data("digits", image_shape=(1, 8, 8), classes=10).test
    if kind != "auxiliary map":
        network = Returning(returned, training=False)
        assert accuracy(network, test, torch.device("cpu"), logits=logits) is None


def test_a_registered_network_is_refused_before_it_trains(monkeypatch: pytest.MonkeyPatch) -> None:
    row = Architecture(
        build=f"{__name__}:two_heads", image_shape=(1, 8, 8), classes=10, batch_size=8
    )
    monkeypatch.setitem(ARCHITECTURES, "two-heads", row)
    options = Options(model="two-heads", scheme="single")
    workload = real_workload(options, layout_of(options, 1, 0, 1), seed=0)
    with pytest.raises(InputError, match="the network returns a tuple of 2, and"):
        workload.build()


@pytest.mark.parametrize("name", ["digits-cnn", "inception-v3"])
def test_logits_and_inceptions_auxiliary_classifier_are_trained(name: str) -> None:
    with torch.device("meta"):
        model = build_model(name)
    check_outputs(model, ARCHITECTURES[name].image_shape)
    assert model.training
