"""MinkowskiEngine's layers that look at no neighbours: activations, normalisations, linear ones."""

from typing import Any

import torch
from torch import Tensor, nn

from sparsepipe.engine import layers
from sparsepipe.engine.precision import refuse_mixed_products


class MinkowskiLinear(layers.Linear):
    """See `sparsepipe.engine.layers.Linear`."""


class MinkowskiBatchNorm(layers.BatchNorm):
    """See `sparsepipe.engine.layers.BatchNorm`."""

    def __init__(
        self,
        num_features: int,
        eps: float = 1e-5,
        momentum: float | None = 0.1,
        affine: bool = True,
        track_running_stats: bool = True,
    ) -> None:
        super().__init__(num_features, eps, momentum, affine, track_running_stats)


class MinkowskiSyncBatchNorm(MinkowskiBatchNorm):
    """Batch normalisation over all processes, by nn.SyncBatchNorm."""

    def __init__(self, num_features: int, *args: Any, process_group: Any = None, **kw: Any) -> None:
        super().__init__(num_features, *args, **kw)
        self.bn = nn.SyncBatchNorm.convert_sync_batchnorm(self.bn, process_group)

    @classmethod
    def convert_sync_batchnorm(cls, module: nn.Module, process_group: Any = None) -> nn.Module:
        """Convert all batch normalisations in a network, which is changed."""
        converted: nn.Module = nn.SyncBatchNorm.convert_sync_batchnorm(module, process_group)
        return converted


class MinkowskiInstanceNorm(layers.InstanceNorm):
    """See `sparsepipe.engine.layers.InstanceNorm`."""

    def __init__(self, num_features: int) -> None:
        super().__init__(num_features)


class MinkowskiStableInstanceNorm(layers.InstanceNorm):
    """The same with a larger eps."""

    def __init__(self, num_features: int) -> None:
        super().__init__(num_features, eps=1e-6)


class MinkowskiSinusoidal(nn.Module):
    """sin(x W + b) * c of every row x [Cin]."""

    def __init__(self, in_channel: int, out_channel: int) -> None:
        super().__init__()
        self.kernel = nn.Parameter(torch.rand(in_channel, out_channel))
        self.bias = nn.Parameter(torch.rand(1, out_channel))
        self.coef = nn.Parameter(torch.rand(1, out_channel))

    def forward(self, input: Any) -> Any:
        """Turn features [N, Cin] into [N, Cout]."""
        refuse_mixed_products(input.features, self.kernel, "kernel")
        return input.replace(torch.sin(input.features.mm(self.kernel) + self.bias) * self.coef)


class MinkowskiToFeature(nn.Module):
    """The features of a tensor, [N, C]."""

    def forward(self, x: Any) -> Tensor:
        """Take them."""
        features: Tensor = x.features
        return features


class MinkowskiNetwork(nn.Module):
    """The base of networks, which knows the number of axes."""

    def __init__(self, D: int) -> None:
        super().__init__()
        self.D = D


_ELEMENTWISE = [
    *("ELU", "Hardshrink", "Hardsigmoid", "Hardtanh", "Hardswish"),
    *("LeakyReLU", "LogSigmoid", "PReLU", "ReLU", "ReLU6"),
    *("RReLU", "SELU", "CELU", "GELU", "Sigmoid"),
    *("SiLU", "Softplus", "Softshrink", "Softsign", "Tanh"),
    *("Tanhshrink", "Threshold", "Softmin", "Softmax", "LogSoftmax"),
    *("Dropout", "AlphaDropout"),
]
"""The modules of torch.nn that MinkowskiEngine wraps, each as Minkowski and its name."""


def _elementwise(name: str) -> type[layers.Elementwise]:
    """The layer that makes and wraps a module of torch.nn."""
    module = getattr(nn, name)

    def __init__(self: layers.Elementwise, *args: Any, **kwargs: Any) -> None:
        layers.Elementwise.__init__(self, module(*args, **kwargs))

    body = {"__init__": __init__, "__module__": __name__, "__doc__": f"nn.{name} on every row."}
    return type(f"Minkowski{name}", (layers.Elementwise,), body)


ELEMENTWISE = {f"Minkowski{name}": _elementwise(name) for name in _ELEMENTWISE}
"""The layers by name. `sparsepipe.engine.layers.Elementwise` takes any other module of torch."""
