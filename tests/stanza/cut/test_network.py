"""The FC part is the classifier and nothing else, whatever the blocks before it are made of."""

from collections import namedtuple
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, is_dataclass
from functools import partial
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings, strategies as st
from torch import Tensor, nn

from stanza.cut.separate import Parts, separate
from stanza.models.dry_run import materialise
from systems.schema import InputError

SHAPE = (3, 8, 8)
WIDTH = 4


class Excite(nn.Module):
    """Squeeze-and-excitation, with one of the ways to write its last step."""

    def __init__(self, join: Callable[[Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        self.first, self.second, self.join = nn.Linear(WIDTH, 2), nn.Linear(2, WIDTH), join

    def forward(self, x: Tensor) -> Tensor:
        samples, channels, _, _ = x.size()
        pooled = F.adaptive_avg_pool2d(x, 1).view(samples, channels)
        return self.join(x, torch.sigmoid(self.second(F.relu(self.first(pooled)))))


JOINS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "index": lambda x, gate: x * gate[:, :, None, None],
    "view": lambda x, gate: x * gate.view(x.size(0), x.size(1), 1, 1),
    "expand": lambda x, gate: x * gate.unsqueeze(-1).unsqueeze(-1).expand_as(x),
    "einsum": lambda x, gate: torch.einsum("bchw,bc->bchw", x, gate),
    "shift": lambda x, gate: torch.add(gate[..., None, None], x),
    "concatenation": lambda x, gate: torch.cat(
        [x[:, :2], x[:, 2:] + gate[:, 2:, None, None].expand_as(x[:, 2:])], dim=1
    ),
}


class Next(nn.Module):
    """ConvNeXt's block: 1 x 1 convolutions written as nn.Linear, over one of three layouts."""

    def __init__(self, layout: str, residual: bool = True) -> None:
        super().__init__()
        self.depthwise = nn.Conv2d(WIDTH, WIDTH, 3, padding=1, groups=WIDTH)
        self.norm = nn.LayerNorm(WIDTH)
        self.wide, self.narrow = nn.Linear(WIDTH, 6), nn.Linear(6, WIDTH)
        self.scale = nn.Parameter(torch.ones(WIDTH))
        self.layout, self.residual = layout, residual

    def forward(self, x: Tensor) -> Tensor:
        samples, channels, height, width = x.shape
        y = self.depthwise(x).permute(0, 2, 3, 1)
        if self.layout == "rows":
            y = y.reshape(-1, channels)
        elif self.layout == "tokens":
            y = y.flatten(1, 2)
        y = self.scale * self.narrow(F.gelu(self.wide(self.norm(y))))
        y = y.view(samples, height, width, channels).permute(0, 3, 1, 2)
        return x + y if self.residual else y


BLOCKS: dict[str, Callable[[], nn.Module]] = {
    **{f"excite {name}": partial(Excite, join) for name, join in JOINS.items()},
    **{f"next {layout}": partial(Next, layout) for layout in ("grid", "rows", "tokens")},
    "convolution": lambda: nn.Conv2d(WIDTH, WIDTH, 3, padding=1),
    "norm": lambda: nn.BatchNorm2d(WIDTH),
}
CLASSIFIERS: dict[str, Callable[[], list[nn.Module]]] = {
    "linear": lambda: [nn.Linear(WIDTH * 4, 5)],
    "dropout": lambda: [nn.Dropout(0.5), nn.Linear(WIDTH * 4, 5)],
    "norm": lambda: [nn.Linear(WIDTH * 4, 6), nn.LayerNorm(6), nn.GELU(), nn.Linear(6, 5)],
    "lazy": lambda: [nn.LazyLinear(6), nn.ReLU(), nn.LazyLinear(5)],
    "weight norm": lambda: [nn.utils.parametrizations.weight_norm(nn.Linear(WIDTH * 4, 5))],
}


class Network(nn.Module):
    """A stem, blocks, a pooling and a classifier."""

    def __init__(self, blocks: list[str], classifier: str, side: int) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, WIDTH, side, stride=side)  # 8 / side positions a side
        self.blocks = nn.Sequential(*(BLOCKS[name]() for name in blocks))
        self.pool = nn.AdaptiveAvgPool2d(2)
        self.classifier = nn.Sequential(nn.Flatten(), *CLASSIFIERS[classifier]())

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.classifier(self.pool(self.blocks(self.stem(x))))
        return out


def assert_the_parts_are_the_network(model: nn.Module, classifier: nn.Module) -> Parts:
    """Check values, gradients, and that the FC part has just the parameters of the classifier."""
    parts = separate(model, SHAPE)
    owned = [{id(p) for p in part.parameters()} for part in (parts.conv, parts.fc)]
    assert owned[1] == {id(p) for p in classifier.parameters()}
    assert owned[0] | owned[1] == {id(p) for p in model.parameters()}
    assert not owned[0] & owned[1]
    assert_same_values_and_gradients(model, parts)
    return parts


def assert_same_values_and_gradients(model: nn.Module, parts: Parts) -> None:
    images = torch.randn(3, *SHAPE, dtype=next(model.parameters()).dtype)
    for module in (model, parts.conv, parts.fc):
        module.eval()
    expected = values(model(images))
    weights = [torch.randn_like(value) for value in expected]
    wanted = list(model.parameters())
    gradients = torch.autograd.grad(expected, wanted, weights, allow_unused=True)
    activations = parts.conv(images)
    assert activations.shape == (3, *parts.cut_shape)
    received = activations.detach().requires_grad_()  # no graph crosses the cut
    found = values(parts.fc(received))
    assert [value.dtype for value in found] == [value.dtype for value in expected]
    assert all(torch.equal(ours, theirs) for ours, theirs in zip(found, expected, strict=True))
    torch.autograd.backward(found, weights)
    activations.backward(received.grad)
    for parameter, gradient in zip(wanted, gradients, strict=True):
        torch.testing.assert_close(parameter.grad, gradient)


def values(outputs: Any) -> list[Tensor]:
    """All tensors that a network returns."""
    if is_dataclass(outputs):
        outputs = [getattr(outputs, field.name) for field in fields(outputs)]
    if isinstance(outputs, Tensor):
        return [outputs]
    if isinstance(outputs, Mapping):
        outputs = list(outputs.values())
    return [value for one in outputs if one is not None for value in values(one)]


@pytest.mark.parametrize("block", BLOCKS)
@pytest.mark.parametrize("side", [4, 8])
def test_linear_layers_inside_the_blocks_stay_in_the_convolutional_part(
    block: str, side: int
) -> None:
    """The last block's too, which no convolution follows; also where one position is left."""
    torch.manual_seed(0)
    model = Network([block, "convolution", block], "dropout", side)
    parts = assert_the_parts_are_the_network(model, model.classifier)
    assert parts.cut_shape == (WIDTH, 2, 2)


@settings(max_examples=12)
@given(
    st.lists(st.sampled_from(sorted(BLOCKS)), max_size=4),
    st.sampled_from(sorted(CLASSIFIERS)),
    st.sampled_from([2, 8]),
)
def test_any_blocks_and_any_classifier(blocks: list[str], classifier: str, side: int) -> None:
    torch.manual_seed(0)
    model = Network(blocks, classifier, side)
    materialise(model, SHAPE)
    assert_the_parts_are_the_network(model, model.classifier)


def test_position_wise_layers_without_a_residual_stay_as_well() -> None:
    torch.manual_seed(0)
    model = Network([], "linear", 4)
    model.blocks.append(Next("grid", residual=False))
    assert_the_parts_are_the_network(model, model.classifier)


class Transformer(nn.Module):
    """Patches, attention, and a classifier on the first token."""

    def __init__(self) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, WIDTH, 2, stride=2)
        self.start = nn.Parameter(torch.randn(1, 1, WIDTH))
        self.norm, self.attention = nn.LayerNorm(WIDTH), nn.Linear(WIDTH, 3 * WIDTH)
        self.mixer = nn.Sequential(nn.Linear(WIDTH, 8), nn.GELU(), nn.Linear(8, WIDTH))
        self.classifier = nn.Linear(WIDTH, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.patches(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.start.expand(x.shape[0], -1, -1), x], dim=1)
        query, key, value = self.attention(self.norm(x)).chunk(3, dim=-1)
        x = x + F.scaled_dot_product_attention(query, key, value)
        out: Tensor = self.classifier((x + self.mixer(x))[:, 0])
        return out


class Recurrent(nn.Module):
    """A classifier at every step of a recurrent layer."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.recurrent = nn.Conv2d(3, 2, 3, padding=1), nn.GRU(16, 6, batch_first=True)
        self.classifier = nn.Linear(6, 5)

    def forward(self, x: Tensor) -> Tensor:
        steps, _ = self.recurrent(self.conv(x).permute(0, 3, 1, 2).flatten(2))
        out: Tensor = self.classifier(steps)
        return out


class Detector(nn.Module):
    """Fully connected layers that compute a grid (YOLO's)."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, WIDTH, 4, stride=4)
        self.classifier = nn.Sequential(nn.Linear(16, 8), nn.ReLU(), nn.Linear(8, 2 * 2 * 7))

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.classifier(self.conv(x).flatten(1)).view(-1, 2, 2, 7)
        return out * out.mean((1, 2), keepdim=True)


class Stacked(nn.Module):
    """Two heads whose outputs are joined."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, WIDTH, 4, stride=4)
        self.classifier = nn.ModuleList([nn.Linear(16, 5), nn.Linear(16, 5)])

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x).flatten(1)
        return torch.cat([head(x).unsqueeze(1) for head in self.classifier], dim=1)


@pytest.mark.parametrize(
    ("network", "cut_shape"),
    [
        (Transformer, (WIDTH,)),  # the first token alone crosses
        (Recurrent, (8, 6)),
        (Detector, (WIDTH, 2, 2)),
        (Stacked, (WIDTH, 2, 2)),
    ],
)
def test_classifiers_of_other_kinds(network: type[nn.Module], cut_shape: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    model = network()
    parts = assert_the_parts_are_the_network(model, model.get_submodule("classifier"))
    assert parts.cut_shape == cut_shape


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("block", ["convolution", "excite index", "next grid"])
def test_networks_of_other_dtypes(dtype: torch.dtype, block: str) -> None:
    torch.manual_seed(0)
    model = Network([block], "norm", 4).to(dtype)
    assert_the_parts_are_the_network(model, model.classifier)


# What a network returns besides logits


@dataclass
class Returned:
    logits: Tensor
    embedding: Tensor


Pair = namedtuple("Pair", ["logits", "embedding"])


class TwoOutputs(nn.Module):
    """Returns more than its classifier's output."""

    def __init__(self, returned: Callable[[Tensor, Tensor], Any], narrow: bool = False) -> None:
        super().__init__()
        self.conv, self.classifier = nn.Conv2d(3, WIDTH, 4, stride=4), nn.Linear(16, 5)
        self.returned, self.narrow = returned, narrow

    def forward(self, x: Tensor) -> Any:
        x = self.conv(x)
        logits = self.classifier(x.flatten(1))
        return self.returned(logits, x.bfloat16() if self.narrow else x)


OUTPUTS: dict[str, tuple[Callable[[Tensor, Tensor], Any], tuple[int, ...]]] = {
    "what crosses anyway": (lambda logits, x: (logits, x), (WIDTH, 2, 2)),
    "a view of it": (lambda logits, x: (logits, x.flatten(2)), (WIDTH, 2, 2)),
    "an embedding": (lambda logits, x: (logits, x.mean((2, 3))), (20,)),
    "a number": (lambda logits, x: (x.mean((1, 2, 3)), logits), (17,)),
    "a map": (lambda logits, x: [logits, x.sum(1)], (20,)),
    "a dict": (lambda logits, x: {"logits": logits, "embedding": x.amax((2, 3))}, (20,)),
    "nested": (lambda logits, x: {"all": (logits, [x.sum(1)]), "none": None}, (20,)),
    "a dataclass": (lambda logits, x: Returned(logits, x.mean((2, 3))), (20,)),
    "a named tuple": (lambda logits, x: Pair(logits, x.mean((2, 3))), (20,)),
}
"""What is returned, and the shape of what then crosses."""


@pytest.mark.parametrize("kind", OUTPUTS)
def test_an_output_that_the_fc_part_does_not_read_crosses_as_well(kind: str) -> None:
    torch.manual_seed(0)
    returned, cut_shape = OUTPUTS[kind]
    model = TwoOutputs(returned)
    parts = separate(model, SHAPE)
    assert parts.cut_shape == cut_shape
    assert type(parts.fc(parts.conv(torch.randn(2, *SHAPE)))) is type(
        returned(*[torch.ones(1, 1, 1, 1)] * 2)
    )
    assert_same_values_and_gradients(model, parts)


def test_values_of_two_dtypes_keep_them_across_the_cut() -> None:
    torch.manual_seed(0)
    model = TwoOutputs(OUTPUTS["an embedding"][0], narrow=True)
    assert_same_values_and_gradients(model, separate(model, SHAPE))


# What is refused


class OneByOne(nn.Module):
    """A convolution is the classifier."""

    def __init__(self, *blocks: nn.Module) -> None:
        super().__init__()
        self.conv, self.blocks = nn.Conv2d(3, WIDTH, 3), nn.Sequential(*blocks)
        self.head = nn.Conv2d(WIDTH, 5, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.blocks(self.conv(x))
        return self.head(F.adaptive_avg_pool2d(x, 1)).flatten(1)


class SharedBuffer(nn.Module):
    """One normalisation without parameters on both sides of the cut: its statistics are shared."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.fc = nn.Conv2d(3, WIDTH, 4, stride=4), nn.Linear(16, 16)
        self.norm = nn.BatchNorm1d(16, affine=False)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.norm(self.fc(torch.relu(self.norm(self.conv(x).flatten(1)))))
        return out


class Overwritten(nn.Module):
    """The first head reads what the convolutional part then overwrites."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.early, self.late = nn.Conv2d(3, 4, 3), nn.Linear(144, 5), nn.Linear(100, 5)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        x = self.conv(x)
        early = self.early(F.dropout(x, training=self.training).flatten(1))
        x = F.max_pool2d(F.relu(x, inplace=True), 2, stride=1)
        return self.late(x.flatten(1)), early


class OverwrittenView(nn.Module):
    """The FC part reads a view of what the convolutional part overwrites: before that, or after."""

    def __init__(self, overwrite: Callable[[Tensor], Tensor], first: bool) -> None:
        super().__init__()
        self.conv, self.fc, self.late = nn.Conv2d(3, 4, 4, 4), nn.Linear(16, 5), nn.LazyLinear(5)
        self.overwrite, self.first = overwrite, first

    def forward(self, x: Tensor) -> Tensor:
        view = self.conv(x).flatten(1)
        if self.first:
            late = self.late(self.overwrite(view).flatten(1))
            return late + self.fc(view)
        early = self.fc(view)
        out: Tensor = early + self.late(self.overwrite(view).flatten(1))
        return out


OVERWRITES: dict[str, Callable[[Tensor], Tensor]] = {
    "a module": nn.ReLU(inplace=True),
    "a positional argument": lambda x: F.relu(x, True),
    "a method": lambda x: x.clamp_(min=0),
    "another view": lambda x: x.view(-1, 4, 2, 2).transpose(1, 2).relu_(),
    "a slice": lambda x: x[:, :8].relu_(),
    "a part": lambda x: x.narrow(1, 8, 8).relu_(),
}


@pytest.mark.parametrize("kind", OVERWRITES)
def test_a_value_that_is_overwritten_through_a_view_does_not_cross_unnoticed(kind: str) -> None:
    torch.manual_seed(0)
    with pytest.raises(InputError, match=r"overwrites conv in place \("):
        separate(OverwrittenView(OVERWRITES[kind], first=False), SHAPE)
    model = OverwrittenView(OVERWRITES[kind], first=True)
    assert_same_values_and_gradients(model, separate(model, SHAPE))


@pytest.mark.parametrize(
    ("network", "words"),
    [
        (OneByOne, ["no fully connected layer", "last convolution is head (Conv2d)"]),
        (
            lambda: OneByOne(Excite(JOINS["index"])),
            ["only inside", "mul comes after blocks.0.second (Linear)"],
        ),
        (
            lambda: OneByOne(Next("grid")),
            ["only inside", "add comes after blocks.0.narrow (Linear)"],
        ),
        (SharedBuffer, ["share norm.running_mean"]),
        (Overwritten, ["overwrites conv in place (relu)", "inplace=False"]),
        (lambda: TwoOutputs(lambda logits, x: (logits, x.argmax(1))), ["argmax", "torch.int64"]),
        (lambda: TwoOutputs(lambda logits, x: (logits, x.sum())), ["sum", "no row for every"]),
    ],
)
def test_refuses_by_name(network: Callable[[], nn.Module], words: list[str]) -> None:
    with pytest.raises(InputError) as error:
        separate(network(), SHAPE)
    message = str(error.value)
    assert " cannot be separated: " in message
    assert message.endswith("train it with ddp or ps")
    assert "\n" not in message
    assert all(word in message for word in words), message
