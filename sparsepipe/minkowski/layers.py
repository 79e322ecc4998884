"""MinkowskiEngine's layers that look at voxels: this package's, with that library's arguments."""

from typing import Any

from sparsepipe.engine import layers
from sparsepipe.minkowski.places import RegionType, shape_from
from sparsepipe.minkowski.tensors import SparseTensor, tensor_at
from systems.schema import InputError


class KernelGenerator:
    """The geometry of a kernel, to give to several layers."""

    def __init__(
        self,
        kernel_size: Any = -1,
        stride: Any = 1,
        dilation: Any = 1,
        is_transpose: bool = False,
        region_type: Any = RegionType.HYPER_CUBE,
        region_offsets: Any = None,
        expand_coordinates: bool = False,
        axis_types: Any = None,
        dimension: int = -1,
    ) -> None:
        """The arguments are those of the layers; `region_offsets` are int [K, D]."""
        if axis_types is not None:
            raise InputError("axis_types are not here: give region_offsets, with CUSTOM")
        self.kernel_size, self.kernel_stride = kernel_size, stride
        self.kernel_dilation, self.dimension = dilation, dimension
        self.region_type, self.region_offsets = region_type, region_offsets
        self.expand_coordinates = expand_coordinates

    @property
    def geometry(self) -> dict[str, Any]:
        """The arguments of this package's layers."""
        shape = shape_from(self.region_type, self.region_offsets)
        if self.kernel_size == -1 and not isinstance(shape, tuple):
            raise InputError("a layer without kernel_size: give one")
        if self.dimension is None or self.dimension < 1:
            raise InputError("a layer without dimension: give 3 for (x, y, z)")
        return {
            "kernel_size": 1 if self.kernel_size == -1 else self.kernel_size,
            "stride": self.kernel_stride,
            "dilation": self.kernel_dilation,
            "shape": shape,
            "dimension": self.dimension,
        }


def _voxels(layer: Any, tensor: SparseTensor, coordinates: Any) -> Any:
    """The tensor at whose voxels a layer puts its outputs, or None: those that it makes itself."""
    if coordinates is None:
        return None
    return tensor_at(tensor, coordinates, layer.stride_of_output(tensor))


def _refuse_expansion(expand_coordinates: bool) -> None:
    """Raise InputError if a layer that keeps to existing voxels is to make new ones."""
    if expand_coordinates:
        raise InputError(
            "expand_coordinates is not here: take MinkowskiGenerativeConvolutionTranspose"
        )


class _Convolution:
    """What the convolutions share: their arguments, and outputs at given coordinates."""

    makes_voxels = False

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Any = -1,
        stride: Any = 1,
        dilation: Any = 1,
        bias: bool = False,
        kernel_generator: KernelGenerator | None = None,
        expand_coordinates: bool = False,
        convolution_mode: Any = None,
        dimension: Any = None,
    ) -> None:
        """A kernel generator replaces sizes, strides and dilations. The mode has no effect."""
        generator = kernel_generator or KernelGenerator(
            kernel_size, stride, dilation, dimension=dimension or -1
        )
        if not self.makes_voxels:
            _refuse_expansion(generator.expand_coordinates or expand_coordinates)
        super().__init__(in_channels, out_channels, bias=bias, **generator.geometry)  # type: ignore[call-arg]
        self.kernel_generator = generator

    def forward(self, input: SparseTensor, coordinates: Any = None) -> Any:
        """Convolve; with `coordinates`, a tensor, a key or int [N, D + 1], to these."""
        return super().forward(input, _voxels(self, input, coordinates))  # type: ignore[misc]


class MinkowskiConvolution(_Convolution, layers.Convolution):  # type: ignore[misc]
    """See `sparsepipe.engine.layers.Convolution`."""


class MinkowskiConvolutionTranspose(_Convolution, layers.ConvolutionTranspose):  # type: ignore[misc]
    """See `sparsepipe.engine.layers.ConvolutionTranspose`."""


class MinkowskiGenerativeConvolutionTranspose(_Convolution, layers.GenerativeConvolutionTranspose):  # type: ignore[misc]
    """See `sparsepipe.engine.layers.GenerativeConvolutionTranspose`."""

    makes_voxels = True


class MinkowskiChannelwiseConvolution(layers.ChannelwiseConvolution):
    """See `sparsepipe.engine.layers.ChannelwiseConvolution`."""

    def __init__(
        self,
        in_channels: int,
        kernel_size: Any = -1,
        stride: Any = 1,
        dilation: Any = 1,
        bias: bool = False,
        kernel_generator: KernelGenerator | None = None,
        dimension: int = -1,
    ) -> None:
        generator = kernel_generator or KernelGenerator(
            kernel_size, stride, dilation, dimension=dimension
        )
        _refuse_expansion(generator.expand_coordinates)
        super().__init__(in_channels, bias=bias, **generator.geometry)
        self.in_channels, self.kernel_generator = in_channels, generator


class _Pooling:
    """What the poolings share: their arguments, and outputs at given coordinates."""

    def __init__(
        self,
        kernel_size: Any,
        stride: Any = 1,
        dilation: Any = 1,
        kernel_generator: KernelGenerator | None = None,
        dimension: Any = None,
    ) -> None:
        generator = kernel_generator or KernelGenerator(
            kernel_size, stride, dilation, dimension=dimension or -1
        )
        _refuse_expansion(generator.expand_coordinates)
        super().__init__(**generator.geometry)
        self.kernel_generator = generator

    def forward(self, input: SparseTensor, coordinates: Any = None) -> Any:
        """Pool; with `coordinates`, a tensor, a key or int [N, D + 1], to these."""
        return super().forward(input, _voxels(self, input, coordinates))  # type: ignore[misc]


class MinkowskiMaxPooling(_Pooling, layers.MaxPooling):  # type: ignore[misc]
    """See `sparsepipe.engine.layers.MaxPooling`."""


class MinkowskiAvgPooling(_Pooling, layers.AveragePooling):  # type: ignore[misc]
    """See `sparsepipe.engine.layers.AveragePooling`."""


class MinkowskiSumPooling(_Pooling, layers.SumPooling):  # type: ignore[misc]
    """See `sparsepipe.engine.layers.SumPooling`."""


class MinkowskiPoolingTranspose(_Pooling, layers.PoolingTranspose):  # type: ignore[misc]
    """See `sparsepipe.engine.layers.PoolingTranspose`."""


class _Global:
    """Global poolings take a mode, whose algorithm has no effect, and no coordinates."""

    kind: str

    def __init__(self, mode: Any = None) -> None:
        others = {"AVG", "MAX", "SUM"} - {self.kind}
        if any(kind in str(mode).upper() for kind in others):
            raise InputError(
                f"mode {mode} of a pooling by {self.kind}: take the layer of that name"
            )
        super().__init__()

    def forward(self, input: SparseTensor, coordinates: Any = None) -> Any:
        """Pool [N, C] to [batch size, C]; rows are in the order of the batch."""
        if coordinates is not None:
            raise InputError("global pooling to coordinates is not here: leave them out")
        return super().forward(input)  # type: ignore[misc]


class MinkowskiGlobalMaxPooling(_Global, layers.GlobalMaxPooling):  # type: ignore[misc]
    """See `sparsepipe.engine.layers.GlobalMaxPooling`."""

    kind = "MAX"


class MinkowskiGlobalAvgPooling(_Global, layers.GlobalAveragePooling):  # type: ignore[misc]
    """See `sparsepipe.engine.layers.GlobalAveragePooling`."""

    kind = "AVG"


class MinkowskiGlobalSumPooling(_Global, layers.GlobalSumPooling):  # type: ignore[misc]
    """See `sparsepipe.engine.layers.GlobalSumPooling`."""

    kind = "SUM"


MinkowskiGlobalPooling = MinkowskiGlobalAvgPooling
"""MinkowskiEngine's pools by the mean unless its mode says otherwise, which is refused here."""


class MinkowskiBroadcast(layers.Broadcast):
    """See `sparsepipe.engine.layers.Broadcast`."""


class MinkowskiBroadcastAddition(layers.BroadcastAddition):
    """See `sparsepipe.engine.layers.BroadcastAddition`."""


class MinkowskiBroadcastMultiplication(layers.BroadcastMultiplication):
    """See `sparsepipe.engine.layers.BroadcastMultiplication`."""


class MinkowskiBroadcastConcatenation(layers.BroadcastConcatenation):
    """See `sparsepipe.engine.layers.BroadcastConcatenation`."""


class MinkowskiPruning(layers.Pruning):
    """See `sparsepipe.engine.layers.Pruning`."""


class MinkowskiUnion(layers.Union):
    """See `sparsepipe.engine.layers.Union`."""


class MinkowskiInterpolation(layers.Interpolation):
    """See `sparsepipe.engine.layers.Interpolation`."""

    def __init__(self, return_kernel_map: bool = False, return_weights: bool = False) -> None:
        if return_kernel_map or return_weights:
            raise InputError("interpolation returns features alone: leave return_... out")
        super().__init__()
