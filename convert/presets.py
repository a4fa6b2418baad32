"""Recipes: what a paper proposed, as settings of this project's methods.

Each is the paper's rule on a network trained without it in mind. Where a paper trains a network of
its own, or leaves a setting open, ``sets`` says what stands here.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from difflib import get_close_matches

from spiketune.snn import Delayed, Harmonic, Membrane, SpiketuneError

from .binary import Binary
from .burst import Burst
from .corrections import BiasCorrection, PotentialCorrection, WeightCalibration
from .graded import Graded
from .method import Method
from .phase import Phase
from .ternary import Ternary
from .thresholds import LTB, Gaussian, Max, Percentile, SpikeInput


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """A method under the name of its paper; ``str(recipe)`` is one line.

    Attributes:
        name: first author or method, and year.
        paper: who, where, when.
        sets: what it sets, in words.
        make: returns the method for a step count.

    Example:
        >>> print(recipes()[0])
        diehl2015        Diehl et al., IJCNN 2015: ...
    """

    name: str
    paper: str
    sets: str
    make: Callable[[int], Method]

    def __str__(self) -> str:
        return f"{self.name:<15}  {self.paper}: {self.sets}"


def recipe(name: str, steps: int) -> Method:
    """Return the method of a paper.

    Args:
        name: one of ``recipes()``.
        steps: step count, ``T``.

    Raises:
        SpiketuneError: on an unknown name, with the nearest ones, or on steps below 1.

    Example:
        >>> recipe("rueckauer2017", steps=32)
        Binary(steps=32, threshold=Percentile(percent=99.9), per='layer', ..., initial=0.0, ...)
    """
    known = {one.name: one for one in RECIPES}
    if name not in known:
        near = get_close_matches(name, known, n=3, cutoff=0.4) or list(known)
        raise SpiketuneError(f"no recipe is called {name!r}; did you mean {', '.join(near)}?")
    return known[name].make(steps)


def recipes() -> tuple[Recipe, ...]:
    """Return all recipes, the oldest first.

    Example:
        >>> [one.name for one in recipes()][:3]
        ['diehl2015', 'rueckauer2017', 'sengupta2019']
    """
    return RECIPES


RECIPES = (
    Recipe(
        name="diehl2015",
        paper="Diehl et al., IJCNN 2015",
        sets="binary, hard reset, threshold max a layer, starts empty",
        make=lambda steps: Binary(
            steps=steps, threshold=Max(), per="layer", initial=0.0, reset="hard"
        ),
    ),
    Recipe(
        name="rueckauer2017",
        paper="Rueckauer et al., Frontiers in Neuroscience 2017",
        sets="binary, soft reset, 99.9 % percentile a layer, starts empty",
        make=lambda steps: Binary(
            steps=steps, threshold=Percentile(percent=99.9), per="layer", initial=0.0
        ),
    ),
    Recipe(
        name="sengupta2019",
        paper="Sengupta et al., Frontiers in Neuroscience 2019",
        sets="binary, hard reset, threshold of the spikes that really arrive, Poisson input",
        make=lambda steps: Binary(
            steps=steps,
            threshold=SpikeInput(percent=100),
            per="layer",
            initial=0.0,
            reset="hard",
            input="poisson",
        ),
    ),
    Recipe(
        name="rmp2020",
        paper="Han et al., CVPR 2020 (RMP-SNN)",
        sets="binary, soft reset, threshold max a layer, starts empty",
        make=lambda steps: Binary(steps=steps, threshold=Max(), per="layer", initial=0.0),
    ),
    Recipe(
        name="rathi2020",
        paper="Rathi et al., ICLR 2020 (hybrid training)",
        sets="sengupta2019 with soft reset, thresholds times 0.7, outputs added up; then hybrid()",
        make=lambda steps: Binary(
            steps=steps,
            threshold=SpikeInput(percent=100, scale=0.7),
            per="layer",
            initial=0.0,
            input="poisson",
            readout=Membrane(),
        ),
    ),
    Recipe(
        name="diet2021",
        paper="Rathi & Roy, TNNLS 2021 (DIET-SNN)",
        sets="constant input, 0.3 times the 99.7 % percentile of currents; then hybrid()",
        make=lambda steps: Binary(
            steps=steps,
            threshold=SpikeInput(percent=99.7, scale=0.3),
            per="layer",
            initial=0.0,
            readout=Membrane(),
        ),
    ),
    Recipe(
        name="li2021",
        paper="Li et al., ICML 2021 (calibration, light)",
        sets="binary, threshold of least squared error a layer, half full, biases corrected",
        make=lambda steps: Binary(steps=steps, per="layer", corrections=(BiasCorrection(),)),
    ),
    Recipe(
        name="li2021_advanced",
        paper="Li et al., ICML 2021 (calibration, advanced)",
        sets="as li2021, but weights refitted layer by layer, then initial potentials corrected",
        make=lambda steps: Binary(
            steps=steps, per="layer", corrections=(WeightCalibration(), PotentialCorrection())
        ),
    ),
    Recipe(
        name="opi2022",
        paper="Bu et al., AAAI 2022 (optimal initial potential)",
        sets="rueckauer2017, but membranes start half full",
        make=lambda steps: Binary(steps=steps, threshold=Percentile(percent=99.9), per="layer"),
    ),
    Recipe(
        name="snm2022",
        paper="Wang et al., IJCAI 2022 (signed neuron with memory)",
        sets="rueckauer2017, but a spike can be taken back",
        make=lambda steps: Ternary(
            steps=steps, threshold=Percentile(percent=99.9), per="layer", initial=0.0, encode=False
        ),
    ),
    Recipe(
        name="burst2022",
        paper="Li & Zeng, IJCAI 2022 (burst spikes)",
        sets="opi2022, but up to five spikes a step",
        make=lambda steps: Burst(
            steps=steps, threshold=Percentile(percent=99.9), per="layer", spread=False
        ),
    ),
    Recipe(
        name="ecmt2024",
        paper="Huang et al., ACM MM 2024 (expectation compensation)",
        sets="graded signed spikes of 8 sizes, rate coding, 99.9 % percentile a channel",
        make=lambda steps: Graded(
            steps=steps,
            coding="rate",
            threshold=Percentile(percent=99.9),
            levels=8,
            spikes_per_step=1,
            headroom=1.0,
            least=0.0,
        ),
    ),
    Recipe(
        name="bu2025",
        paper="Bu et al., CVPR 2025 (local threshold balancing)",
        sets="binary, balanced locally a channel, half full, read with a delay",
        make=lambda steps: Binary(steps=steps, threshold=LTB(), readout=Delayed()),
    ),
    Recipe(
        name="dcgs2025",
        paper="Huang et al., ICML 2025 (differential coding)",
        sets="graded signed spikes of 4 sizes, differential, weights 1/t, Gaussian thresholds",
        make=lambda steps: Graded(
            steps=steps,
            threshold=Gaussian(levels=16 * steps),
            levels=4,
            spikes_per_step=1,
            headroom=1.0,
            least=0.0,
            schedule=Harmonic(),
        ),
    ),
    Recipe(
        name="ternary",
        paper="spiketune",
        sets="signed spikes, threshold of least squared error a channel, half full",
        make=lambda steps: Ternary(steps=steps),
    ),
    Recipe(
        name="ternary_corrected",
        paper="spiketune",
        sets="as ternary, and biases corrected for this budget",
        make=lambda steps: Ternary(steps=steps, corrections=(BiasCorrection(),)),
    ),
    Recipe(
        name="phase",
        paper="spiketune",
        sets="signed spikes whose weight falls by 1.4 a step, layer after layer",
        make=lambda steps: Phase(steps=steps),
    ),
    Recipe(
        name="graded",
        paper="spiketune",
        sets="two graded signed spikes a step of 15 sizes, differential, threshold max a channel",
        make=lambda steps: Graded(steps=steps),
    ),
)
