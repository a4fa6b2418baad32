"""What a training run adds to the account of how a network was made."""

from __future__ import annotations

from .history import History
from .rules import Rule
from .training import Training

About = dict[str, str | int | float]


def tuned(about: About, history: History, rule: Rule, *, steps: int, training: Training) -> About:
    """Return ``about`` of before the run with the whole run added to it.

    ``method`` gets the run appended; ``seconds`` and ``epochs`` grow by those of all its epochs,
    the ones before a resume included; ``rule``, ``tuned_steps`` and ``training_images`` are those
    of this run.

    Example:
        >>> from spiketune.finetune import Epoch, SurrogateBPTT
        >>> epoch = Epoch(
        ...     epoch=1, images=9, loss=0.5, accuracy=0.8, learning_rate=1e-3, seconds=2.0
        ... )
        >>> made: About = {"method": "Ternary(steps=8)", "seconds": 0.5}
        >>> rule = SurrogateBPTT()
        >>> again = tuned(made, History((epoch,)), rule, steps=4, training=Training())
        >>> again["method"], again["seconds"], again["epochs"]
        ('Ternary(steps=8) + SurrogateBPTT(T=4, 1 epoch, lr 0.001)', 2.5, 1)
    """
    name, epochs = type(rule).__name__, len(history.epochs)
    plural = "s" * (epochs != 1)
    run = f"{name}(T={steps}, {epochs} epoch{plural}, lr {training.learning_rate:g})"
    seconds = sum(epoch.seconds for epoch in history.epochs)
    return {
        **about,
        "method": f"{about['method']} + {run}" if about.get("method") else run,
        "seconds": round(_number(about, "seconds") + seconds, 3),
        "rule": name,
        "tuned_steps": steps,
        "epochs": int(_number(about, "epochs")) + epochs,
        "training_images": history.epochs[-1].images,
    }


def _number(about: About, key: str) -> float:
    value = about.get(key, 0)
    return value if isinstance(value, int | float) else 0
