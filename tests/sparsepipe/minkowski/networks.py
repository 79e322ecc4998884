"""Networks as people write them for MinkowskiEngine: a classifier, a MinkUNet34 and a completion
network. Each is a function of the library, so the very same lines run on it and on ours."""

from importlib import import_module
from typing import Any

import torch
from torch import nn


def classifier(ME: Any) -> nn.Module:
    """Strided convolutions, a gate for each channel, global pooling: one row for each cloud."""

    class Classifier(ME.MinkowskiNetwork):
        def __init__(self, in_channel: int, out_channel: int, D: int = 3) -> None:
            ME.MinkowskiNetwork.__init__(self, D)
            self.mlp = self.rows(in_channel, 6)
            self.conv1 = self.block(6, 8, kernel_size=3, stride=1)
            self.conv2 = self.block(8, 8, kernel_size=3, stride=2)
            self.conv3 = self.block(8, 12, kernel_size=3, stride=2)
            self.gate = nn.Sequential(
                ME.MinkowskiGlobalAvgPooling(), ME.MinkowskiLinear(12, 12), ME.MinkowskiSigmoid()
            )
            self.scale = ME.MinkowskiBroadcastMultiplication()
            self.pool = ME.MinkowskiMaxPooling(kernel_size=3, stride=2, dimension=D)
            self.down = ME.MinkowskiConvolution(12, 12, kernel_size=2, stride=2, dimension=D)
            self.max, self.avg = ME.MinkowskiGlobalMaxPooling(), ME.MinkowskiGlobalAvgPooling()
            self.final = nn.Sequential(
                self.rows(24, 16), ME.MinkowskiDropout(), ME.MinkowskiLinear(16, out_channel)
            )
            for module in self.modules():
                if isinstance(module, ME.MinkowskiConvolution):
                    ME.utils.kaiming_normal_(module.kernel, mode="fan_out", nonlinearity="relu")
                if isinstance(module, ME.MinkowskiBatchNorm):
                    nn.init.constant_(module.bn.weight, 1)
                    nn.init.constant_(module.bn.bias, 0)

        def rows(self, fan_in: int, fan_out: int) -> nn.Module:
            return nn.Sequential(
                ME.MinkowskiLinear(fan_in, fan_out, bias=False),
                ME.MinkowskiBatchNorm(fan_out),
                ME.MinkowskiLeakyReLU(),
            )

        def block(self, fan_in: int, fan_out: int, **sizes: Any) -> nn.Module:
            return nn.Sequential(
                ME.MinkowskiConvolution(fan_in, fan_out, dimension=self.D, **sizes),
                ME.MinkowskiBatchNorm(fan_out),
                ME.MinkowskiELU(),
            )

        def forward(self, x: Any) -> Any:
            y = self.conv3(self.conv2(self.conv1(self.mlp(x))))
            y = self.down(self.pool(self.scale(y, self.gate(y))))
            return self.final(ME.cat(self.max(y), self.avg(y))).F

    return Classifier(3, 5)


def minkunet34(ME: Any) -> nn.Module:
    """Four levels of residual blocks (2, 3, 4, 6, then 2 each), narrow."""
    resnet_block = import_module(f"{ME.__name__}.modules.resnet_block")
    counts, planes = (2, 3, 4, 6, 2, 2, 2, 2), (2, 3, 3, 4, 4, 3, 3, 2)

    class MinkUNet34(nn.Module):
        def __init__(self, in_channels: int, out_channels: int, D: int = 3) -> None:
            super().__init__()
            self.D, self.inplanes = D, 2
            self.stem = ME.MinkowskiConvolution(in_channels, 2, kernel_size=5, dimension=D)
            self.stem_norm = ME.MinkowskiBatchNorm(2)
            self.downs, self.ups = nn.ModuleList(), nn.ModuleList()
            self.encoders, self.decoders = nn.ModuleList(), nn.ModuleList()
            skips = [2]
            for level in range(4):
                here = self.inplanes
                self.downs.append(
                    nn.Sequential(
                        ME.MinkowskiConvolution(here, here, kernel_size=2, stride=2, dimension=D),
                        ME.MinkowskiBatchNorm(here),
                        ME.MinkowskiReLU(inplace=True),
                    )
                )
                self.encoders.append(self.group(planes[level], counts[level]))
                skips.append(self.inplanes)
            for level in range(4, 8):
                self.ups.append(
                    nn.Sequential(
                        ME.MinkowskiConvolutionTranspose(
                            self.inplanes, planes[level], kernel_size=2, stride=2, dimension=D
                        ),
                        ME.MinkowskiBatchNorm(planes[level]),
                        ME.MinkowskiReLU(inplace=True),
                    )
                )
                self.inplanes = planes[level] + skips[7 - level]
                self.decoders.append(self.group(planes[level], counts[level]))
            self.final = ME.MinkowskiConvolution(
                self.inplanes, out_channels, kernel_size=1, bias=True, dimension=D
            )
            self.relu = ME.MinkowskiReLU(inplace=True)

        def group(self, width: int, count: int) -> nn.Module:
            downsample = None
            if self.inplanes != width:
                downsample = nn.Sequential(
                    ME.MinkowskiConvolution(self.inplanes, width, kernel_size=1, dimension=self.D),
                    ME.MinkowskiBatchNorm(width),
                )
            block = resnet_block.BasicBlock
            first = block(self.inplanes, width, downsample=downsample, dimension=self.D)
            self.inplanes = width
            rest = [block(width, width, dimension=self.D) for _ in range(count - 1)]
            return nn.Sequential(first, *rest)

        def forward(self, x: Any) -> Any:
            out = self.relu(self.stem_norm(self.stem(x)))
            skips = [out]
            for down, encoder in zip(self.downs, self.encoders, strict=True):
                out = encoder(down(out))
                skips.append(out)
            for number, (up, decoder) in enumerate(zip(self.ups, self.decoders, strict=True)):
                out = decoder(ME.cat(up(out), skips[3 - number]))
            return self.final(out)

    return MinkUNet34(3, 4)


def completion(ME: Any) -> nn.Module:
    """Down twice; up by layers that make their own voxels, of which a classifier keeps some."""

    class Completion(nn.Module):
        def __init__(self, width: int = 6, D: int = 3) -> None:
            super().__init__()
            self.first = self.block(ME.MinkowskiConvolution, 3, width, 3, 1)
            self.down1 = self.block(ME.MinkowskiConvolution, width, width, 2, 2)
            self.down2 = self.block(ME.MinkowskiConvolution, width, width, 2, 2)
            up = ME.MinkowskiGenerativeConvolutionTranspose
            self.up1 = self.block(up, width, width, 4, 2)
            self.up2 = self.block(up, width, width, 2, 2)
            self.seen1 = ME.MinkowskiConvolution(width, 1, kernel_size=1, bias=True, dimension=3)
            self.seen2 = ME.MinkowskiConvolution(width, 1, kernel_size=1, bias=True, dimension=3)
            self.pruning = ME.MinkowskiPruning()

        def block(self, kind: Any, fan_in: int, fan_out: int, size: int, stride: int) -> nn.Module:
            return nn.Sequential(
                kind(fan_in, fan_out, kernel_size=size, stride=stride, dimension=3),
                ME.MinkowskiBatchNorm(fan_out),
                ME.MinkowskiELU(),
                ME.MinkowskiConvolution(fan_out, fan_out, kernel_size=3, dimension=3),
                ME.MinkowskiBatchNorm(fan_out),
                ME.MinkowskiELU(),
            )

        def target(self, out: Any, target_key: Any) -> torch.Tensor:
            with torch.no_grad():
                wanted = torch.zeros(len(out), dtype=torch.bool, device=out.device)
                manager = out.coordinate_manager
                strided = manager.stride(target_key, out.tensor_stride[0])
                pairs = manager.kernel_map(
                    out.coordinate_map_key, strided, kernel_size=1, region_type=1
                )
                for rows in pairs.values():
                    wanted[rows[0].long()] = True
            return wanted

        def forward(self, x: Any, target_key: Any) -> Any:
            fine = self.first(x)
            middle = self.down1(fine)
            coarse = self.down2(middle)
            scores, wanted = [], []
            out = self.up1(coarse) + middle
            for classify, following in ((self.seen1, self.up2), (self.seen2, None)):
                seen = classify(out)
                target = self.target(out, target_key)
                scores.append(seen)
                wanted.append(target)
                keep = (seen.F > 0).squeeze()
                keep += target
                out = self.pruning(out, keep)
                if following is not None:
                    out = following(out) + fine
            return out, scores, wanted

    return Completion()
