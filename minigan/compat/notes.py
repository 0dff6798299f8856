"""One line, once, to a script's user, about something that its author may not expect."""

from __future__ import annotations

import sys

_said: set[str] = set()


def note(message: str) -> None:
    """Print the message to stderr, unless this run has said it already."""
    if message not in _said:
        _said.add(message)
        print(f"minigan: {message}", file=sys.stderr)


def forget() -> None:
    """Begin another run."""
    _said.clear()
