"""Hybrid training: convert, then fine-tune for a few epochs, under the name of the paper.

The conversion is ``st.recipe(name, steps)``, the training ``st.hybrid(name, epochs)``:

    ``snn = st.to_snn(ann, images, st.recipe("rathi2020", steps=8))``
    ``rule, training = st.hybrid("rathi2020", epochs=3)``
    ``st.tune(snn, loader, rule, steps=8, epochs=3, training=training)``

Both papers train an ANN of their own without BatchNorm and biases, with average pooling and with
dropout, whose mask then stays the same over all steps of an image; here any network is converted,
and dropout is gone.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from difflib import get_close_matches
from typing import NamedTuple

from .diet import DIET
from .errors import TuneError
from .rules import Rule
from .stdb import STDB
from .training import Training


class Half(NamedTuple):
    """The training half of a hybrid, for ``tune``.

    Attributes:
        rule: the training rule.
        training: optimizer, rates, loss.

    Example:
        >>> hybrid("diet2021", epochs=10).rule
        DIET(surrogate=Linear(height=0.3), pack_spikes=False)
    """

    rule: Rule
    training: Training


@dataclass(frozen=True, kw_only=True)
class Hybrid:
    """A training after a conversion, under the name of its paper; ``str(hybrid)`` is one line.

    Attributes:
        name: of the paper, and of its conversion in ``recipes()``.
        paper: who, where, when.
        sets: what it sets, in words.
        make: returns rule and training for a number of epochs.

    Example:
        >>> print(hybrids()[0])
        rathi2020  Rathi et al., ICLR 2020 ...: ...
    """

    name: str
    paper: str
    sets: str
    make: Callable[[int], Half]

    def __str__(self) -> str:
        return f"{self.name:<9}  {self.paper}: {self.sets}"


def hybrid(name: str, epochs: int) -> Half:
    """Return the training rule and settings of a paper that fine-tunes what it converted.

    The rate is divided by five or ten after 60, 80 and 90 % of the epochs.

    Args:
        name: one of ``hybrids()``; ``recipe(name, steps)`` is the conversion.
        epochs: epochs to train for, to be given to ``tune`` too.

    Raises:
        TuneError: on an unknown name, with the nearest ones, or on epochs below 1.

    Example:
        >>> rule, training = hybrid("rathi2020", epochs=10)
        >>> training.optimizer, training.learning_rate, training.schedule_options
        ('adam', 0.0001, {'decay_milestones': (6.0, 8.0, 9.0), 'decay_rate': 0.2})
    """
    known = {one.name: one for one in HYBRIDS}
    if name not in known:
        near = get_close_matches(name, known, n=3, cutoff=0.4) or list(known)
        raise TuneError(f"no hybrid is called {name!r}; did you mean {', '.join(near)}?")
    if epochs < 1:
        raise TuneError(f"epochs must be at least 1, not {epochs}")
    return known[name].make(epochs)


def hybrids() -> tuple[Hybrid, ...]:
    """Return all hybrids, the oldest first.

    Example:
        >>> [one.name for one in hybrids()]
        ['rathi2020', 'diet2021']
    """
    return HYBRIDS


def _training(epochs: int, *, amsgrad: bool, weight_decay: float, decay_rate: float) -> Training:
    return Training(
        optimizer="adam",
        optimizer_options={"amsgrad": amsgrad},
        learning_rate=1e-4,
        schedule="multistep",
        schedule_options={
            "decay_milestones": tuple(epochs * tenths / 10 for tenths in (6, 8, 9)),
            "decay_rate": decay_rate,
        },
        weight_decay=weight_decay,
        warmup=0.0,
        clip_grad=None,
    )


HYBRIDS = (
    Hybrid(
        name="rathi2020",
        paper="Rathi et al., ICLR 2020 (STDB)",
        sets="STDB with the linear slope of the authors' program, Adam (amsgrad) at 1e-4",
        make=lambda epochs: Half(
            STDB(),
            _training(epochs, amsgrad=True, weight_decay=5e-4, decay_rate=0.2),
        ),
    ),
    Hybrid(
        name="diet2021",
        paper="Rathi & Roy, TNNLS 2021 (DIET-SNN)",
        sets="thresholds and leaks train too, Adam at 1e-4, weights do not decay",
        make=lambda epochs: Half(
            DIET(),
            _training(epochs, amsgrad=False, weight_decay=0.0, decay_rate=0.1),
        ),
    ),
)
