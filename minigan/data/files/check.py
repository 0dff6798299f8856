"""What is wrong with files, in words: the error that names one, and the report over many."""

from __future__ import annotations

from dataclasses import dataclass, field

SHOWN = 20  # files that a printed report lists; the rest is counted


def one_line(text: object) -> str:
    """The text without line breaks, control characters or broken encodings: file names may hold any of them.

    >>> one_line("a\\nb\\x1b[31m.png")
    'a b?[31m.png'
    """
    return "".join(c if c.isprintable() else "?" for c in " ".join(str(text).split()))


class DataError(ValueError):
    """Data that cannot be used: one line with the file (or name) and what is wrong with it.

    >>> print(DataError("digits.npy", "holds NaN"))
    digits.npy: holds NaN
    """

    def __init__(self, source: object, problem: object) -> None:
        super().__init__(one_line(f"{source}: {problem}"))


@dataclass
class CheckReport:
    """How many samples are kept, which files are left out and why, and what else is worth knowing.

    >>> print(CheckReport("pets", 7, [("cat/3.jpg", "truncated")], ["classes: cat 3, dog 4"]))
    pets: 7 kept, 1 left out
      classes: cat 3, dog 4
      left out:
        cat/3.jpg  truncated
    """

    name: str
    kept: int = 0
    left_out: list[tuple[str, str]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def leave_out(self, file: object, reason: object) -> None:
        """Add a file that is not used."""
        self.left_out.append((one_line(file), one_line(reason)))

    def __str__(self) -> str:
        lines = [f"{self.name}: {self.kept:,} kept, {len(self.left_out):,} left out"]
        lines += [f"  {note}" for note in self.notes]
        if self.left_out:
            shown = self.left_out[:SHOWN]
            width = max(len(file) for file, _ in shown)
            lines += ["  left out:", *(f"    {file:{width}}  {reason}" for file, reason in shown)]
            if len(self.left_out) > SHOWN:
                lines.append(f"    and {len(self.left_out) - SHOWN:,} more")
        return "\n".join(lines)
