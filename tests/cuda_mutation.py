"""Takes each barrier, fence and wait for what is asynchronous out of every kernel in turn: is every one missed?

    python tests/cuda_mutation.py [file ...]

Each changed file is run by its part of `cuda_exercises`, whose results are compared with NumPy's while the emulator
looks for races. What nobody notices is either listed in REDUNDANT, with the reason, or an error.
"""

from __future__ import annotations

import re
import sys
import time
from typing import Any

import cuda_exercises

from minigan.kernels.cuda import source
from minigan.kernels.emulator import EmulatedDevice, EmulatorError

launching: Any = sys.modules["minigan.kernels.emulator.run"]  # the module; the package has its function by that name
WAIT = re.compile(
    r"__sync(?:threads|warp)\([^)]*\);|await_(?:copies|products)<[^>]*>\(\);"
    r"|(?<!:)(?:begin_products|commit_products|show_to_tensor_cores)\(\);"
)
REDUNDANT: dict[str, str] = {}  # "file:line": why its removal changes nothing


def sites(text: str) -> list[tuple[int, int, str]]:
    """Every wait of a text: where it begins and ends, and its "file:line"."""
    found, name, line, at = [], "", 0, 0
    for row in text.split("\n"):
        marker = re.match(r'#line (\d+) "([^"]+)"', row)
        if marker:
            line, name = int(marker[1]) - 1, marker[2]
        code = row.partition("//")[0]
        found += [(at + m.start(), at + m.end(), f"{name}:{line}") for m in WAIT.finditer(code)]
        at += len(row) + 1
        line += 1
    return found


def noticed(name: str, text: str) -> str:
    """What is said of a file whose text is this one; "" if nothing is wrong with it."""
    launching.read = lambda file: text if file == name else source.read(file)
    try:
        cuda_exercises.EXERCISES[name](EmulatedDevice(watch="races"))
    except (AssertionError, EmulatorError) as error:
        return str(error).strip().splitlines()[0] or "another result"
    finally:
        launching.read = source.read
    return ""


def main(names: list[str]) -> int:
    missed: dict[str, bool] = {}  # by place, whether somebody has missed it: what files share, one of them is to miss
    began = time.perf_counter()
    for name in names or [*cuda_exercises.EXERCISES]:
        text = source.read(name)
        wrong = noticed(name, text)
        assert not wrong, f"{name}.cu as it is: {wrong}"
        for start, stop, where in sites(text):
            if where in REDUNDANT or missed.get(where):
                continue
            said = noticed(name, text[:start] + text[stop:])
            missed[where] = bool(said)
            print(f"{name:16} {where:24} {text[start:stop]:20} {said[:100] or 'not missed'}", flush=True)
    unnoticed = [where for where, found in missed.items() if not found]
    print(f"{len(missed)} taken out in {time.perf_counter() - began:.0f} s; missed by nobody: {unnoticed or 'none'}")
    return len(unnoticed)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
