"""Inception-V3 of arXiv:1512.00567 (Szegedy et al., 2015), with its auxiliary classifier."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn


class NormalisedConvolution(nn.Module):
    """A convolution without bias, batch normalisation and ReLU.

    Shapes: (samples, channels, h, w) to (samples, width, ...), with the same h and w if it is
    `padded` and its `stride` is 1.
    """

    def __init__(
        self,
        channels: int,
        width: int,
        kernel: tuple[int, int] = (1, 1),
        stride: int = 1,
        padded: bool = True,
    ) -> None:
        super().__init__()
        padding = (kernel[0] // 2, kernel[1] // 2) if padded else (0, 0)
        self.conv = nn.Conv2d(channels, width, kernel, stride, padding, bias=False)
        # This is the epsilon of the published weights. PyTorch's default is 1e-5.
        self.bn = nn.BatchNorm2d(width, eps=0.001)
        self.relu = nn.ReLU(inplace=True)

    def forward(self, images: Tensor) -> Tensor:
        """Map [b, C, H, W] to [b, C', H', W'] by convolution, batch normalisation and ReLU."""
        activation: Tensor = self.relu(self.bn(self.conv(images)))
        return activation


@dataclass(frozen=True)
class Unit:
    """One convolution of a branch: output channels, kernel and stride."""

    width: int
    kernel: tuple[int, int] = (1, 1)
    stride: int = 1

    def build(self, channels: int) -> NormalisedConvolution:
        """Build it for `channels` input channels. A convolution that strides is never padded."""
        return NormalisedConvolution(
            channels, self.width, self.kernel, self.stride, padded=self.stride == 1
        )


@dataclass(frozen=True)
class Branch:
    """A branch of a block: a chain of convolutions, whose end may fork into parallel ones."""

    name: str
    chain: tuple[Unit, ...]
    fork: tuple[Unit, ...] = ()
    """The parallel convolutions, whose outputs are concatenated."""


class Mixed(nn.Module):
    """A block: several branches and a pooling of the same input, concatenated by channel.

    Its modules have the names that the published checkpoints use: a branch of one convolution has
    the branch's name, the steps of a longer one are `name_1`, `name_2`, ..., and a fork at step 3
    is `name_3a` and `name_3b`.

    Shapes: (samples, channels, h, w) to (samples, ..., h, w), or, in a block that strides, to
    (samples, ..., (h - 1) // 2, (w - 1) // 2).
    """

    def __init__(
        self,
        channels: int,
        branches: Sequence[Branch],
        pooling: nn.Module,
        pooled_width: int | None = None,
    ) -> None:
        super().__init__()
        # The names of each branch's chain and of its fork, in the order of concatenation.
        self.paths: list[tuple[list[str], list[str]]] = []
        for branch in branches:
            self.paths.append(self._add_branch(branch, channels))
        self.pooling = pooling
        self.branch_pool: nn.Module = nn.Identity()
        if pooled_width is not None:
            self.branch_pool = NormalisedConvolution(channels, pooled_width)

    def _add_branch(self, branch: Branch, channels: int) -> tuple[list[str], list[str]]:
        """Add a branch's modules, and return the names of its chain and of its fork."""
        steps = len(branch.chain)
        chain = [f"{branch.name}_{step}" for step in range(1, steps + 1)]
        if steps == 1 and not branch.fork:
            chain = [branch.name]
        for name, unit in zip(chain, branch.chain, strict=True):
            self.add_module(name, unit.build(channels))
            channels = unit.width
        fork = [f"{branch.name}_{steps + 1}{letter}" for letter in "ab"[: len(branch.fork)]]
        for name, unit in zip(fork, branch.fork, strict=True):
            self.add_module(name, unit.build(channels))
        return chain, fork

    def forward(self, block_input: Tensor) -> Tensor:
        """Run all branches on [b, C, H, W], and join their outputs along the channels."""
        outputs: list[Tensor] = []
        for chain, fork in self.paths:
            activation = block_input
            for name in chain:
                activation = self.get_submodule(name)(activation)
            outputs += [self.get_submodule(name)(activation) for name in fork] or [activation]
        outputs.append(self.branch_pool(self.pooling(block_input)))
        return torch.cat(outputs, dim=1)


def _average_pooling() -> nn.AvgPool2d:
    """Build a pooling that keeps height and width."""
    return nn.AvgPool2d(kernel_size=3, stride=1, padding=1)


def _halving() -> nn.MaxPool2d:
    """Build a pooling that halves height and width."""
    return nn.MaxPool2d(kernel_size=3, stride=2)


def _mixed_35(channels: int, pooled_width: int) -> Mixed:
    """Build the block at 35 x 35 (arXiv:1512.00567, figure 5), with 224 + pooled_width outputs."""
    branches = [
        Branch("branch1x1", (Unit(64),)),
        # The published weights have 5 x 5 here, where the figure has two 3 x 3.
        Branch("branch5x5", (Unit(48), Unit(64, (5, 5)))),
        Branch("branch3x3dbl", (Unit(64), Unit(96, (3, 3)), Unit(96, (3, 3)))),
    ]
    return Mixed(channels, branches, _average_pooling(), pooled_width)


def _reduction_35_to_17(channels: int) -> Mixed:
    """Build the reduction from 35 to 17 (figure 10), with channels + 480 output channels."""
    branches = [
        Branch("branch3x3", (Unit(384, (3, 3), stride=2),)),
        Branch("branch3x3dbl", (Unit(64), Unit(96, (3, 3)), Unit(96, (3, 3), stride=2))),
    ]
    return Mixed(channels, branches, _halving())


def _mixed_17(channels: int, inner: int) -> Mixed:
    """Build the block at 17 x 17 (figure 6), with 768 output channels.

    A 7 x 7 convolution is made of one of 1 x 7 and one of 7 x 1.
    """
    row, column = (1, 7), (7, 1)
    branches = [
        Branch("branch1x1", (Unit(192),)),
        Branch("branch7x7", (Unit(inner), Unit(inner, row), Unit(192, column))),
        Branch(
            "branch7x7dbl",
            (
                Unit(inner),
                Unit(inner, column),
                Unit(inner, row),
                Unit(inner, column),
                Unit(192, row),
            ),
        ),
    ]
    return Mixed(channels, branches, _average_pooling(), 192)


def _reduction_17_to_8(channels: int) -> Mixed:
    """Build the reduction from 17 to 8, with channels + 512 output channels."""
    branches = [
        Branch("branch3x3", (Unit(192), Unit(320, (3, 3), stride=2))),
        Branch(
            "branch7x7x3",
            (Unit(192), Unit(192, (1, 7)), Unit(192, (7, 1)), Unit(192, (3, 3), stride=2)),
        ),
    ]
    return Mixed(channels, branches, _halving())


def _mixed_8(channels: int) -> Mixed:
    """Build the block at 8 x 8 with forked branches (figure 7), with 2048 output channels."""
    fork = (Unit(384, (1, 3)), Unit(384, (3, 1)))
    branches = [
        Branch("branch1x1", (Unit(320),)),
        Branch("branch3x3", (Unit(384),), fork),
        Branch("branch3x3dbl", (Unit(448), Unit(384, (3, 3))), fork),
    ]
    return Mixed(channels, branches, _average_pooling(), 192)


class AuxiliaryClassifier(nn.Module):
    """The side head that is trained as well (section 4).

    Shapes: (samples, channels, 17, 17) to logits (samples, classes).
    """

    def __init__(self, channels: int, classes: int) -> None:
        super().__init__()
        self.pooling = nn.AvgPool2d(kernel_size=5, stride=3)
        self.conv0 = NormalisedConvolution(channels, 128)
        self.conv1 = NormalisedConvolution(128, 768, (5, 5), padded=False)
        self.avgpool = nn.AdaptiveAvgPool2d((1, 1))
        self.fc = nn.Linear(768, classes)

    def forward(self, activation: Tensor) -> Tensor:
        """Map [b, 768, 17, 17] to auxiliary logits [b, classes]."""
        activation = self.conv1(self.conv0(self.pooling(activation)))
        logits: Tensor = self.fc(self.avgpool(activation).flatten(1))
        return logits


class InceptionOutputs(NamedTuple):
    """The outputs of a network with an auxiliary classifier, in training."""

    logits: Tensor
    """[b, classes]"""
    auxiliary_logits: Tensor
    """[b, classes], from the side head, whose loss counts less."""


class InceptionV3(nn.Module):
    """Inception-V3 with its auxiliary classifier; 27,161,264 parameters.

    Source: "Rethinking the Inception architecture for computer vision", arXiv:1512.00567.

    Shapes, in evaluation: images (samples, 3, h, w), with at least 75 pixels a side, to logits
    (samples, classes). In training: images with at least 299 pixels a side, which the auxiliary
    classifier needs, to InceptionOutputs of two logits (samples, classes).
    """

    def __init__(self, classes: int = 1000) -> None:
        super().__init__()
        self.Conv2d_1a_3x3 = NormalisedConvolution(3, 32, (3, 3), stride=2, padded=False)
        self.Conv2d_2a_3x3 = NormalisedConvolution(32, 32, (3, 3), padded=False)
        self.Conv2d_2b_3x3 = NormalisedConvolution(32, 64, (3, 3))
        self.maxpool1 = _halving()
        self.Conv2d_3b_1x1 = NormalisedConvolution(64, 80)
        self.Conv2d_4a_3x3 = NormalisedConvolution(80, 192, (3, 3), padded=False)
        self.maxpool2 = _halving()
        self.Mixed_5b = _mixed_35(192, pooled_width=32)
        self.Mixed_5c = _mixed_35(256, pooled_width=64)
        self.Mixed_5d = _mixed_35(288, pooled_width=64)
        self.Mixed_6a = _reduction_35_to_17(288)
        self.Mixed_6b = _mixed_17(768, inner=128)
        self.Mixed_6c = _mixed_17(768, inner=160)
        self.Mixed_6d = _mixed_17(768, inner=160)
        self.Mixed_6e = _mixed_17(768, inner=192)
        self.AuxLogits = AuxiliaryClassifier(768, classes)
        self.Mixed_7a = _reduction_17_to_8(768)
        self.Mixed_7b = _mixed_8(1280)
        self.Mixed_7c = _mixed_8(2048)
        self.avgpool = nn.AdaptiveAvgPool2d((1, 1))
        self.dropout = nn.Dropout(0.5)
        self.fc = nn.Linear(2048, classes)

    def forward(self, images: Tensor) -> Tensor | InceptionOutputs:
        """Map images [b, 3, 299, 299] to logits [b, classes]; in training, to auxiliary ones as
        well."""
        activation = self.Conv2d_2b_3x3(self.Conv2d_2a_3x3(self.Conv2d_1a_3x3(images)))
        activation = self.Conv2d_4a_3x3(self.Conv2d_3b_1x1(self.maxpool1(activation)))
        activation = self.Mixed_5d(self.Mixed_5c(self.Mixed_5b(self.maxpool2(activation))))
        activation = self.Mixed_6c(self.Mixed_6b(self.Mixed_6a(activation)))
        activation = self.Mixed_6e(self.Mixed_6d(activation))
        # It comes before the last blocks, so that a trace has it where it branches off.
        auxiliary_logits = self.AuxLogits(activation) if self.training else None
        activation = self.Mixed_7c(self.Mixed_7b(self.Mixed_7a(activation)))
        logits: Tensor = self.fc(self.dropout(self.avgpool(activation)).flatten(1))
        if auxiliary_logits is None:
            return logits
        return InceptionOutputs(logits, auxiliary_logits)
