"""torch.nn.functional on features, as `MinkowskiEngine.MinkowskiFunctional` has it: `relu(x)` is a
tensor on the voxels of x. Losses take the features of x, and return what torch's do."""

from typing import Any

import torch
from torch.nn import functional as F

LOSSES = frozenset(
    [
        *(
            "binary_cross_entropy",
            "binary_cross_entropy_with_logits",
            "poisson_nll_loss",
            "cross_entropy",
            "hinge_embedding_loss",
        ),
        *("kl_div", "l1_loss", "mse_loss", "multilabel_margin_loss", "multilabel_soft_margin_loss"),
        *("multi_margin_loss", "nll_loss", "smooth_l1_loss", "soft_margin_loss"),
    ]
)
ROWWISE = frozenset(
    [
        *("threshold", "relu", "hardtanh", "hardswish", "relu6"),
        *("elu", "selu", "celu", "leaky_relu", "prelu"),
        *("rrelu", "glu", "gelu", "logsigmoid", "hardshrink"),
        *("tanhshrink", "softsign", "softplus", "softmin", "softmax"),
        *("softshrink", "gumbel_softmax", "log_softmax", "tanh", "sigmoid"),
        *("hardsigmoid", "silu", "batch_norm", "normalize", "linear"),
        *("dropout", "alpha_dropout"),
    ]
)


def __getattr__(name: str) -> Any:
    """The function of torch of that name, on features."""
    if name not in LOSSES | ROWWISE:
        raise AttributeError(f"MinkowskiFunctional.{name} is not here: take x.replace(f(x.F))")
    function = getattr(F, name, None) or getattr(torch, name)

    def on_features(input: Any, *args: Any, **kwargs: Any) -> Any:
        result = function(input.features, *args, **kwargs)
        return result if name in LOSSES else input.replace(result)

    return on_features
