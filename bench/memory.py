"""Peak memory of a DCGAN-64 training step, batch 64, beside PyTorch's: python -m bench.memory

Each in a process of its own, in turn; the peak is the process's resident memory (VmHWM), in MB. PyTorch needs
to be installed (`pip install torch==2.13.0`, a CPU build).
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys


def measure(which: str, batch: int = 64, steps: int = 3) -> dict:
    """One run of bench.dcgan64 in a fresh process."""
    command = [sys.executable, "-m", "bench.dcgan64", which, str(batch), str(steps)]
    return json.loads(subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout)


def main() -> None:
    """Three rounds in turn; print the median of each."""
    names = ["minigan", "torch", "torch-channels-last"]
    rounds = [[measure(name) for name in names] for _ in range(3)]
    print(f"{'':22}{'peak MB':>9}{'after import':>14}{'step ms':>9}")
    for i, name in enumerate(names):
        runs = [r[i] for r in rounds]
        peak, imported = (statistics.median(r[key] for r in runs) for key in ("peak", "imported"))
        print(f"{name:22}{peak:9.0f}{imported:14.0f}{statistics.median(sum((r['ms'] for r in runs), [])):9.0f}")


if __name__ == "__main__":
    main()
