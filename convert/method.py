"""The seam between the verb ``to_snn`` and the conversion methods, one a file."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, is_dataclass
from typing import Literal, TypeVar, get_args

from torch import Tensor
from torch.fx import GraphModule

from spiketune.snn import Delayed, Mean, Neuron, Readout, Row, SpiketuneError
from spiketune.snn.network import check_steps

from .corrections import Correction
from .thresholds import MSE, Threshold

M = TypeVar("M", bound="Method")
# (settings, θ, floor, ceiling) -> the neuron for clamp(x, floor, ceiling), None if it has none
Ceiling = Tensor | float | None
Build = Callable[[M, Tensor, float | None, Ceiling], Neuron | None]
Granularity = Literal["layer", "channel"]
Input = Literal["constant", "poisson"]
_BUILDERS: dict[type[Method], Build[Method]] = {}


@dataclass(frozen=True, kw_only=True)
class Method:
    """What every conversion method has; subclasses say which neuron stands for an activation.

    Attributes:
        steps: step count that the network is made for, ``T``; any other may still be simulated.
        threshold: rule that balances the thresholds.
        per: one threshold a ``channel`` or a ``layer``.
        calibration_images: how many of the images given are used, at most.
        drive: steps during which image and biases act, None for always.
        input: ``constant``, the image as a current at every step; or ``poisson``, as random
            spikes. One-shot input is differential coding's.
        readout: how the answer is read off the outputs.
        corrections: what is corrected after balancing, in this order.
        equalise: whether the ranges of channels are evened out across layers first.

    Raises:
        SpiketuneError: on a value out of its range.

    Example:
        >>> import spiketune as st
        >>> st.Ternary(steps=8).per
        'channel'
    """

    steps: int = 16
    threshold: Threshold = MSE()  # noqa: RUF009
    per: Granularity = "channel"
    calibration_images: int = 1024
    drive: int | None = None
    input: Input = "constant"
    readout: Readout = Mean()  # noqa: RUF009
    corrections: tuple[Correction, ...] = ()
    equalise: bool = False

    spikes = "spikes"

    @property
    def levels_told(self) -> int:
        """How many spikes a neuron can send while it is driven: the levels that it tells apart."""
        return self.drive or self.steps

    def place(self, net: GraphModule) -> list[Row]:
        """Put neurons where activations stand that are this method's alone; nothing here.

        Args:
            net: the graph before ReLU-like activations become neurons; changed in place.

        Returns:
            The report's rows.
        """
        return []

    def arrange(self, neurons: Sequence[Neuron]) -> None:
        """Settle what depends on a neuron's place among all, first to last; nothing here."""

    def __post_init__(self) -> None:
        check_steps(self.steps)
        check_steps(self.calibration_images, "calibration_images")
        if self.drive is not None:
            check_steps(self.drive, "drive")
        if not isinstance(self.threshold, Threshold):
            raise SpiketuneError(
                f"threshold must be a rule such as MSE() or Max(), not {self.threshold!r}"
            )
        strange = [c for c in self.corrections if not isinstance(c, Correction)]
        if strange or not isinstance(self.corrections, tuple):
            raise SpiketuneError(
                "corrections must be a tuple of corrections such as (BiasCorrection(),), not "
                f"{self.corrections!r}"
            )
        if self.input not in get_args(Input):
            raise SpiketuneError(f"input must be 'constant' or 'poisson', not {self.input!r}")
        if self.per not in get_args(Granularity):
            raise SpiketuneError(f"per must be 'layer' or 'channel', not {self.per!r}")
        if self.input == "poisson" and self.drive == 1:
            raise SpiketuneError(
                "Poisson input sends spikes at every step, and with drive=1 only the first would "
                "count; take input='constant', or rate coding"
            )
        if isinstance(self.readout, Delayed) and self.drive is not None:
            raise SpiketuneError(
                "a delayed readout needs an image that acts at every step; use readout=Mean(), or "
                "leave the drive out"
            )


@dataclass(frozen=True, kw_only=True)
class Integrating(Method):
    """What methods have whose neurons add up their current in a membrane and floor.

    Attributes:
        initial: membrane at the start in thresholds; 0.5 makes the first spike round. Signed
            neurons in front of weights, which send the nearest value anyhow, start at zero.

    Raises:
        SpiketuneError: if it lies outside [0, 1).

    Example:
        >>> import spiketune as st
        >>> st.Binary().initial
        0.5
    """

    initial: float = 0.5

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.initial < 1:
            raise SpiketuneError(f"initial must lie in [0, 1), not {self.initial}")


def at_every_step(method: Method) -> None:
    """Refuse a drive: without it the spikes sent too early are never taken back.

    Raises:
        SpiketuneError: if the image is to act for some steps only.

    Example:
        >>> import spiketune as st
        >>> at_every_step(st.Binary())
    """
    if method.drive is not None:
        raise SpiketuneError(
            f"{type(method).__name__} cannot take spikes back and never comes to rest; leave "
            f"drive={method.drive} out, or use Ternary()"
        )


def only_once(method: Method) -> None:
    """Settle that image and biases act in the first step alone, as differential coding needs it.

    Raises:
        SpiketuneError: if the method says otherwise.

    Example:
        >>> import spiketune as st
        >>> st.Phase().drive
        1
    """
    if method.drive not in (None, 1):
        raise SpiketuneError(
            f"with differential coding the image acts once; leave drive={method.drive} out"
        )
    object.__setattr__(method, "drive", 1)  # frozen, but not made yet


def register_method(method: type[M]) -> Callable[[Build[M]], Build[M]]:
    """Register the function that builds a method's neuron.

    It gets ``(settings, θ, floor, ceiling)`` and returns the neuron for ``clamp(x, floor,
    ceiling)``, or None where the method has none: the activation then stays a function, and the
    weights behind it dense.

    Example:
        >>> from spiketune.convert import Binary
        >>> neuron = builder_of(Binary())(Binary(), __import__("torch").ones(()), 0.0, None)
        >>> type(neuron).__name__
        'IF'
    """

    def register(build: Build[M]) -> Build[M]:
        _BUILDERS[method] = build  # type: ignore[assignment]
        return build

    return register


def builder_of(method: Method) -> Build[Method]:
    """Return the function registered for the type of ``method``.

    Raises:
        SpiketuneError: if there is none.
    """
    if isinstance(method, str):
        raise SpiketuneError(
            f"{method!r} is no conversion method; a paper's is st.recipe({method!r}, steps=T)"
        )
    if isinstance(method, type):
        raise SpiketuneError(f"give an object, {method.__name__}(), not the class itself")
    if type(method) not in _BUILDERS:
        known = ", ".join(sorted(cls.__name__ for cls in _BUILDERS))
        raise SpiketuneError(f"{type(method).__name__} is no conversion method; use one of {known}")
    return _BUILDERS[type(method)]


def brief(settings: object) -> str:
    """Return the settings in one line: steps, rules, and whatever is not at its default.

    Example:
        >>> from spiketune.convert import Max, Ternary
        >>> brief(Ternary(steps=8, threshold=Max(), per="layer"))
        "Ternary(steps=8, threshold=Max(), per='layer')"
    """
    if not is_dataclass(settings) or isinstance(settings, type):
        return repr(settings)
    shown = [
        f"{field.name}={brief(getattr(settings, field.name))}"
        for field in fields(settings)
        if (field.name in ("steps", "threshold") and field.repr)
        or getattr(settings, field.name) != field.default
    ]
    return f"{type(settings).__name__}({', '.join(shown)})"
