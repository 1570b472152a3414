"""Where the pictures of a training lie: mapped from disk on a CPU, on the device of a GPU."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from trainer.data.dataset import Part


class Pixels:
    """A part's pictures and masks where training runs: mapped from disk, or resident on a GPU."""

    def __init__(self, part: Part, device: torch.device) -> None:
        self.part = part
        self.resident: tuple[Tensor, Tensor] | None = None
        if device.type == "cuda":
            self.resident = (
                torch.from_numpy(np.array(part.images)).to(device),
                torch.from_numpy(np.array(part.masks)).to(device),
            )

    def batch(self, indices: Tensor) -> tuple[Tensor, Tensor]:
        """uint8 [B, S, S, 3] and uint8 [B, S, S] of int64 [B], which lies on the same device."""
        if self.resident is not None:
            return self.resident[0][indices], self.resident[1][indices]
        rows = indices.numpy()
        return torch.from_numpy(self.part.images[rows]), torch.from_numpy(self.part.masks[rows])
