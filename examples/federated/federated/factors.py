"""Who likes which film: matrix factorisation, whose parameters are a row of every user and film."""

import torch
from torch import Tensor, nn

DEVIATION = 0.1


class Factors(nn.Module):
    """The score u . v + b_u + b_v of a user and a film; a row is b, then u or v."""

    def __init__(self, *shapes: tuple[int, ...]) -> None:
        """Draw the rows of users and of films, of which there are so many, so long."""
        super().__init__()
        self.rows = nn.ParameterList(DEVIATION * torch.randn(shape) for shape in shapes)

    def forward(self, pairs: Tensor) -> Tensor:
        """The logits of not liking and of liking, [b, 2], of pairs [b, 2]."""
        user, film = (rows[i] for rows, i in zip(self.rows, pairs.long().T, strict=True))
        score = (user[:, 1:] * film[:, 1:]).sum(1) + user[:, 0] + film[:, 0]
        return torch.stack([-score, score], dim=1) / 2
