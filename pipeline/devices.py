"""The device that work is done on unless another is named."""

from __future__ import annotations

import torch

CPU = torch.device("cpu")
