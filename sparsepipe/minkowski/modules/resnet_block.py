"""The residual blocks of ResNet and of the MinkUNet family (K. He et al., 1512.03385)."""

from typing import Any

from torch import nn

from sparsepipe.engine.layers import ReLU
from sparsepipe.minkowski import layers, rowwise


class _Residual(nn.Module):
    """A chain of convolutions with normalisations, and a shortcut around it."""

    expansion = 1
    depth: int

    def __init__(
        self,
        inplanes: int,
        planes: int,
        stride: Any = 1,
        dilation: Any = 1,
        downsample: nn.Module | None = None,
        bn_momentum: float = 0.1,
        dimension: int = -1,
    ) -> None:
        """`planes` are the channels inside; `downsample` makes the shortcut fit."""
        super().__init__()
        self.downsample, self.relu = downsample, ReLU(inplace=True)
        steps = self.steps(inplanes, planes, stride, dilation)
        for number, (fan_in, fan_out, options) in enumerate(steps, 1):
            convolution = layers.MinkowskiConvolution(
                fan_in, fan_out, dimension=dimension, **options
            )
            norm = rowwise.MinkowskiBatchNorm(fan_out, momentum=bn_momentum)
            self.add_module(f"conv{number}", convolution)
            self.add_module(f"norm{number}", norm)
        self.depth = len(steps)

    def steps(
        self, inplanes: int, planes: int, stride: Any, dilation: Any
    ) -> list[tuple[int, int, dict[str, Any]]]:
        """Input and output channels and the geometry of each convolution."""
        raise NotImplementedError

    def forward(self, x: Any) -> Any:
        """Turn features [N, inplanes] into [M, planes * expansion]."""
        shortcut = x if self.downsample is None else self.downsample(x)
        out = x
        for number in range(1, self.depth + 1):
            out = self.get_submodule(f"norm{number}")(self.get_submodule(f"conv{number}")(out))
            if number < self.depth:
                out = self.relu(out)
        return self.relu(out + shortcut)


class BasicBlock(_Residual):
    """Two convolutions of kernel size 3."""

    def steps(
        self, inplanes: int, planes: int, stride: Any, dilation: Any
    ) -> list[tuple[int, int, dict[str, Any]]]:
        """The first one has the stride."""
        first = {"kernel_size": 3, "stride": stride, "dilation": dilation}
        second = {"kernel_size": 3, "stride": 1, "dilation": dilation}
        return [(inplanes, planes, first), (planes, planes, second)]


class Bottleneck(_Residual):
    """Kernel sizes 1, 3 and 1; the last convolution has four times as many channels."""

    expansion = 4

    def steps(
        self, inplanes: int, planes: int, stride: Any, dilation: Any
    ) -> list[tuple[int, int, dict[str, Any]]]:
        """The second one has the stride."""
        middle = {"kernel_size": 3, "stride": stride, "dilation": dilation}
        narrow = {"kernel_size": 1}
        wide = planes * self.expansion
        return [(inplanes, planes, narrow), (planes, planes, middle), (planes, wide, narrow)]
