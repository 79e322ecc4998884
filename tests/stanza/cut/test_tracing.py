"""What torch.fx cannot follow is refused with the line; what it would forget, too."""

import inspect
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
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


def _counts(self: Any, x: Tensor) -> Any:
    self.calls += 1
    return self.fc(self.conv(x).flatten(1)) * self.calls


def _replaces(self: Any, x: Tensor) -> Any:
    self.seen = self.seen + 1
    return self.fc(self.conv(x).flatten(1)) / self.seen


SIDE_EFFECTS: dict[str, tuple[Callable[[Network, Tensor], Any], str]] = {
    "torch": (lambda self, x: self.fc(self.conv(x).flatten(1) + torch.randn(1)), "random numbers"),
    "skips": (lambda self, x: self.fc(self.conv(x * (torch.rand(1) < 0.5)).flatten(1)), "random"),
    "numpy": (lambda self, x: self.fc(self.conv(x).flatten(1)) * np.random.rand(), "random"),
    "python": (lambda self, x: self.fc(self.conv(x).flatten(1)) * random.random(), "random"),
    "counts": (_counts, "every call replaces calls"),
    "replaces": (_replaces, "every call replaces seen"),
}
"""Forward passes of a network with a counter `calls` and a buffer `seen`, and why they are
refused."""


@pytest.mark.parametrize("name", SIDE_EFFECTS)
def test_what_a_graph_would_keep_at_its_first_value_is_refused(name: str) -> None:
    """And the model, and random numbers, are as they were: it can still be trained whole."""
    forward, reason = SIDE_EFFECTS[name]
    model = type("Own", (Network,), {"forward": forward})()
    model.calls, seen = 3, torch.ones(1)
    model.register_buffer("seen", seen)
    torch.manual_seed(0)
    with pytest.raises(InputError, match=reason):
        separate(model, SHAPE)
    assert model.calls == 3
    assert model.seen is seen
    drawn = torch.rand(1)
    torch.manual_seed(0)
    assert torch.equal(drawn, torch.rand(1))
    assert model(torch.ones(2, *SHAPE)).shape == (2, 5)


class Notes(Network):
    """Keeps what it computes, and a constant that the first call makes."""

    def __init__(self) -> None:
        super().__init__()
        self.grid: Tensor | None = None

    def forward(self, x: Tensor) -> Any:
        if self.grid is None:
            self.grid = torch.arange(16.0)
        self.last = self.conv(x).flatten(1) + self.grid
        return self.fc(self.last)


def test_a_network_may_note_what_it_computes() -> None:
    model, images = Notes(), torch.randn(2, *SHAPE)
    parts = separate(model, SHAPE)
    assert not hasattr(model, "last")
    assert torch.equal(parts.fc(parts.conv(images)), model(images))


def test_hooks_on_gradients_are_kept_or_refused() -> None:
    def triple(module: nn.Module, gradients: Any) -> Any:
        return tuple(3 * gradient for gradient in gradients)

    model, images = Network(), torch.randn(2, *SHAPE)
    model.conv.register_full_backward_pre_hook(triple)
    parts = separate(model, SHAPE)
    model(images).sum().backward()
    expected = model.conv.weight.grad
    assert expected is not None
    model.zero_grad()
    parts.fc(parts.conv(images)).sum().backward()
    found = model.conv.weight.grad
    assert found is not None
    assert torch.equal(found, expected)
    block = nn.Sequential(nn.Sequential(nn.Conv2d(3, 4, 4, 4)), nn.Flatten(), nn.Linear(16, 5))
    block[0].register_full_backward_pre_hook(triple)
    with pytest.raises(InputError, match="forgets the backward hook of 0"):
        separate(block, SHAPE)
