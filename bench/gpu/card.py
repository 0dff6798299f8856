"""What a GPU could do at best: datasheet rates of arithmetic, and the bandwidth that a copy was seen to have."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

# What operands are rounded to, in our spelling, and the setting of `set_float32_matmul_precision` that says so.
PRECISIONS = {"fp32": "highest", "TF32": "high", "bf16": "medium"}
# Operations a second, without sparsity, of H100 and H200 with SXM; those on PCIe and the NVL are slower.
HOPPER = {"fp32": 67e12, "TF32": 495e12, "bf16": 989e12}
CLOCK_RATE = 13  # cudaDevAttrClockRate, kHz


@dataclass(frozen=True)
class Card:
    """A GPU; `bandwidth` in bytes a second, of a large copy, counting those read and those written."""

    name: str
    multiprocessors: int
    mhz: float
    l2: int
    memory: int
    bandwidth: float

    @property
    def peaks(self) -> Mapping[str, float]:
        """Operations a second by precision, where they are known."""
        known = ("H100" in self.name or "H200" in self.name) and "PCIe" not in self.name and "NVL" not in self.name
        return HOPPER if known else {}

    def floor(self, flops: float, bytes: float, precision: str) -> float | None:
        """Milliseconds that no kernel can be faster than: of arithmetic or of memory, whichever takes longer.

        >>> h100 = Card("NVIDIA H100 80GB HBM3", 132, 1980, 50 << 20, 80 << 30, 3e12)
        >>> h100.floor(67e9, 3e6, "fp32"), h100.floor(67e6, 3e9, "fp32")
        (1.0, 1.0)
        """
        if precision not in self.peaks:
            return None
        return max(flops / self.peaks[precision], bytes / self.bandwidth) * 1e3

    def __str__(self) -> str:
        peaks = ", ".join(f"{name} {peak / 1e12:.0f}" for name, peak in self.peaks.items())
        return (
            f"{self.name}, {self.multiprocessors} multiprocessors, up to {self.mhz:.0f} MHz, {self.l2 >> 20} MB of L2; "
            f"a copy moves {self.bandwidth / 1e12:.2f} TB/s (read and written); "
            f"{f'datasheet, TFLOP/s: {peaks}' if peaks else 'its peaks are not known here'}"
        )


def measured(cupy: Any, clock: Any) -> dict[str, Any]:
    """The facts of a `Card`, of the one at hand."""
    facts = cupy.cuda.runtime.getDeviceProperties(cupy.cuda.Device().id)
    values = cupy.asarray(np.random.default_rng().standard_normal(1 << 26, np.float32))
    source = cupy.concatenate([values] * 4)  # 1 GiB
    target = cupy.empty_like(source)

    def copy() -> None:
        target.data.copy_from_device_async(source.data, source.nbytes)

    clock.ms(copy)
    ms = sorted(clock.ms(copy) for _ in range(15))[7]
    return asdict(
        Card(
            facts["name"].decode(), facts["multiProcessorCount"],
            cupy.cuda.runtime.deviceGetAttribute(CLOCK_RATE, cupy.cuda.Device().id) / 1e3, facts["l2CacheSize"],
            facts["totalGlobalMem"], 2 * source.nbytes / ms * 1e3,
        )
    )  # fmt: skip
