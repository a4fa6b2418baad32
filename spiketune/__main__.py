"""``python -m spiketune``, and ``torchrun --nproc-per-node 2 -m spiketune tune ...``."""

from __future__ import annotations

from .cli import main

if __name__ == "__main__":
    main()
