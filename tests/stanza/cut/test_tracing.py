"""What torch.fx cannot follow is refused with the line; what it would forget, too."""

import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, fx, nn

from stanza.cut.separate import separate
from stanza.cut.tracing import trace
from systems.schema import InputError

SHAPE = (3, 8, 8)


class Network(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.fc = nn.Conv2d(3, 4, 4, stride=4), nn.Linear(16, 5)

    def forward(self, x: Tensor) -> Any:
        return self.fc(self.conv(x).flatten(1))


class Optional(Network):
    """Arguments with defaults, of every kind."""

    def forward(
        self,
        x: Tensor,
        scale: Tensor | None = None,
        *more: Tensor,
        flip: bool = False,
        power: int = 2,
        **named: Tensor,
    ) -> Any:
        x = self.conv(x) ** power
        for other in (*more, *named.values()):
            x = x + other
        if flip:
            x = x.flip(-1)
        return self.fc((x if scale is None else x * scale).flatten(1))


def hooked() -> nn.Module:
    """The hooks of the network itself, which its forward does not show."""
    model = Network()
    model.register_forward_pre_hook(lambda module, inputs: (inputs[0] * 2,))
    model.register_forward_hook(lambda module, inputs, outputs: outputs + 1)
    return model


def patched() -> nn.Module:
    """A forward of its own, as decorated and wrapped models have."""
    model = Network()
    plain = model.forward
    model.forward = lambda x: plain(x) * 3  # type: ignore[method-assign]
    return model


@pytest.mark.parametrize("network", [Optional, hooked, patched])
def test_the_parts_are_the_network_as_it_is_called(network: Callable[[], nn.Module]) -> None:
    model = network()
    parts = separate(model, SHAPE)
    images = torch.randn(2, *SHAPE)
    assert torch.equal(parts.fc(parts.conv(images)), model(images))


class Needs(Network):
    def forward(self, x: Tensor, mask: Tensor, *, scale: float) -> Any:  # type: ignore[override]
        return self.fc((self.conv(x) * mask * scale).flatten(1))


class ByShape(Network):
    def forward(self, x: Tensor) -> Any:
        if x.shape[-1] > 4:  # here
            x = x * 2
        return super().forward(x)


class ByValue(Network):
    def forward(self, x: Tensor) -> Any:
        while x.sum() > 1:  # here
            x = x / 2
        return super().forward(x)


class Checks(Network):
    def forward(self, x: Tensor) -> Any:
        assert x.shape[1] == 3  # here
        return super().forward(x)


class Loops(Network):
    def forward(self, x: Tensor) -> Any:
        return super().forward(torch.stack([x[i] for i in range(x.size(0))]))  # here


class Inside(Network):
    """The line is a part's, deep inside."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.ReLU(), ByShape())

    def forward(self, x: Tensor) -> Any:
        return self.body(x)


class Frozen(Network):
    def forward(self, x: Tensor) -> Any:
        with torch.no_grad():
            x = self.conv(x)  # here
        return self.fc(x.flatten(1))


class Narrow(Network):
    def forward(self, x: Tensor) -> Any:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            x = self.conv(x)  # here
        return self.fc(x.float().flatten(1))


def line_of(network: type[nn.Module]) -> str:
    source, start = inspect.getsourcelines(network)
    return f"line {start + next(n for n, line in enumerate(source) if '# here' in line)} of "


@pytest.mark.parametrize(
    ("network", "reason", "where"),
    [
        (ByShape, "control flow", ByShape),
        (ByValue, "control flow", ByValue),
        (Checks, "control flow", Checks),
        (Loops, "cannot be interpreted as an integer", Loops),
        (Inside, "control flow", ByShape),
        (Frozen, "a graph forgets torch.no_grad", Frozen),
        (Narrow, "a graph forgets torch.no_grad and torch.autocast", Narrow),
    ],
)
def test_code_that_cannot_be_traced_is_named_with_its_line(
    network: type[nn.Module], reason: str, where: type[nn.Module]
) -> None:
    with pytest.raises(InputError) as error:
        separate(network(), SHAPE)
    message = str(error.value)
    assert f"{network.__name__} cannot be separated: torch.fx cannot trace it ({reason}" in (
        message.replace("(symbolically traced variables cannot be used as inputs to ", "(").replace(
            "('Proxy' object ", "("
        )
    )
    assert line_of(where) + Path(__file__).name in message
    assert "\n" not in message


def test_arguments_that_are_needed_are_named() -> None:
    with pytest.raises(InputError, match="besides the images its forward needs mask, scale; give"):
        separate(Needs(), SHAPE)


def test_the_callers_own_modes_are_no_obstacle() -> None:
    with torch.no_grad():
        separate(Network(), SHAPE)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        separate(Network(), SHAPE)


class Counting(nn.Module):
    """Computes with a buffer alone."""

    def __init__(self) -> None:
        super().__init__()
        self.runs: Tensor
        self.register_buffer("runs", torch.zeros(3))

    def forward(self, x: Tensor) -> Tensor:
        self.runs.add_(1)
        return x + self.runs.mean() * self.runs.shape[0]


def test_what_is_computed_from_buffers_is_computed_in_every_run() -> None:
    model = Counting()
    network = fx.GraphModule(model, trace(model))
    assert model.runs.tolist() == [0, 0, 0]
    assert [float(network(torch.zeros(()))) for _ in range(2)] == [3, 6]
