"""One thread for every test: the nets are tiny, and a busy second core would cost minutes."""

from __future__ import annotations

import torch

torch.set_num_threads(1)
