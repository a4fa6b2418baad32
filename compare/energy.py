"""What one operation costs, for an estimate of energy that is never a measurement."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class EnergyModel:
    """Picojoules of one operation in 45 nm silicon: ``E = mac_pj · MAC + ac_pj · AC``.

    Source: Horowitz 2014 ("Computing's energy problem"), multiply and add taken apart: an
    accumulate is the add alone.

    Attributes:
        name: the number format, as shown beside every estimate.
        mac_pj: one multiply-accumulate.
        ac_pj: one accumulate.

    Example:
        >>> FP32.nanojoules(macs=1000, accumulates=1000)
        5.5
    """

    name: str
    mac_pj: float
    ac_pj: float

    def nanojoules(self, *, macs: float, accumulates: float) -> float:
        """Return the estimate for so many operations.

        Example:
            >>> INT8.nanojoules(macs=1e6, accumulates=0)
            230.0
        """
        return (self.mac_pj * macs + self.ac_pj * accumulates) / 1000

    def __str__(self) -> str:
        return f"{self.name}: {self.mac_pj:g} pJ a MAC, {self.ac_pj:g} pJ an AC"


FP32 = EnergyModel(name="fp32", mac_pj=4.6, ac_pj=0.9)
FP16 = EnergyModel(name="fp16", mac_pj=1.5, ac_pj=0.4)
INT8 = EnergyModel(name="int8", mac_pj=0.23, ac_pj=0.03)

CAVEATS = (
    "Energy is an estimate from operation counts, not a measurement: 45 nm constants of "
    f"Horowitz 2014 ({FP32}; {FP16}; {INT8}).",
    "Memory traffic, which dominates on real chips, is left out, and so are the reads and writes "
    "of the membranes at every step.",
    "A signed or graded spike counts as one event, though it needs a wider one than a binary "
    "spike.",
    "A quantised ANN is the harder rival: one int8 MAC (0.23 pJ) costs less than one fp32 "
    "accumulate (0.9 pJ).",
    "Every step is counted, the first ones included; what depends on the image alone is computed "
    "once an image, everything else that spikes do not feed at every step.",
)
