"""A record read as the story of a GAN's training: which network is a D, which are its Gs, whose step a sweep was for.

Roles follow from what is done with the networks, never from their names. The judgements are in `minigan.gan.doctor`.
"""

from __future__ import annotations

from dataclasses import dataclass

from minigan.gan.events import Call, Step, Sweep
from minigan.gan.recorder import Record
from minigan.nn import Module
from minigan.tensor import Tensor


@dataclass(eq=False)
class Update:
    """One step of an optimiser, for one network: the sweeps whose gradients it used."""

    position: int  # among the events
    fresh: list[Sweep]  # since the network's last step
    stale: list[Sweep]  # from before it
    lost: bool  # the last sweep brought a gradient, and the step found none


class Story:
    """A record with its roles: which network is a D, which are its Gs, and whose step each sweep was for."""

    def __init__(self, record: Record, real: Tensor | None = None) -> None:
        self.record, self.real = record, real
        self.Ds = self._discriminators()
        self.Gs = self._generators()
        self.updates = {network: _updates(record, network) for network in (*self.Gs, *self.Ds)}
        self._owners = self._find_owners()

    def _discriminators(self) -> list[Module]:
        """The given D; or those that judge another network's output and feed no network themselves."""
        record = self.record
        if record.D is not None:
            return [record.D]
        fed = {source.network for call in record.calls for source in sources_of(call) if source.network != call.network}
        found = {call.network: None for call in record.calls if call.sweeps and call.network not in fed}
        judges = [D for D in found if any(sources_of(call, D) for call in self.calls(D))]
        trained = [D for D in judges if any(holds(event, D, record) for event in record.events)]
        return trained or judges

    def _generators(self) -> list[Module]:
        """The given G; or those whose output a D judges."""
        if self.record.G is not None:
            return [self.record.G]
        sources = [source for D in self.Ds for call in self.calls(D) for source in sources_of(call, D)]
        return list(dict.fromkeys(source.network for source in sources))

    def _find_owners(self) -> dict[Sweep, set[Module]]:
        """The networks whose steps first used a sweep's gradients, with no other sweep in between."""
        uses: dict[Sweep, list[tuple[int, Module]]] = {}
        for network, updates in self.updates.items():
            for update in updates:
                for sweep in update.fresh:
                    uses.setdefault(sweep, []).append((update.position, network))
        events = self.record.events
        owners = {}
        for sweep, places in uses.items():
            first = min(position for position, _ in places)
            last = next((i for i in range(first, len(events)) if isinstance(events[i], Sweep)), len(events))
            owners[sweep] = {network for position, network in places if position < last}
        return owners

    def calls(self, network: Module) -> list[Call]:
        """Every call of a network."""
        return [call for call in self.record.calls if call.network is network]

    def is_for(self, sweep: Sweep, networks: list[Module]) -> bool:
        """Whether a sweep was for the step of these networks and no others."""
        owners = self._owners.get(sweep, set())
        return bool(owners) and owners <= set(networks)

    def given(self, D: Module, *sources: str) -> list[Call]:
        """D's calls on samples from these sources, those for a penalty only where there are no others."""
        calls = [call for call in self.calls(D) if call.sample.trace.source in sources]
        return [call for call in calls if not call.differentiated] or calls

    def judged(self, D: Module, *sources: str) -> list[Call]:
        """Those of them that D's own step learnt from."""
        return [call for call in self.given(D, *sources) if any(self.is_for(sweep, self.Ds) for sweep in call.sweeps)]

    def name(self, network: Module) -> str:
        """G, D, or what the caller's code calls it."""
        return self.record.name(network)


def sources_of(call: Call, other_than: Module | None = None) -> list[Call]:
    """The calls of networks that a call's sample comes from."""
    return [source for source in call.sample.trace.calls if source.network is not other_than]


def holds(event: Sweep | Step, network: Module, record: Record) -> bool:
    """Whether an event is a step of an optimiser that holds a parameter of the network."""
    return isinstance(event, Step) and any(id(p) in event.held for _, p, _ in record.parameters.get(network, ()))


def _updates(record: Record, network: Module) -> list[Update]:
    """A network's steps, as seen by the parameter that most sweeps reach."""
    sweeps = [event for event in record.events if isinstance(event, Sweep)]
    counts = {id(p): sum(id(p) in sweep.reached for sweep in sweeps) for _, p, _ in record.parameters.get(network, ())}
    witness = max(counts, key=lambda p: counts[p], default=None)
    updates: list[Update] = []
    adding: list[tuple[int, Sweep]] = []  # the sweeps that .grad is the sum of
    last = -1
    for i, event in enumerate(record.events):
        if isinstance(event, Sweep) and witness in event.reached:
            _, was_empty = event.reached[witness]
            adding = [*([] if was_empty else adding), (i, event)]
        elif isinstance(event, Step) and witness in event.held:
            fresh, stale = ([s for j, s in adding if (j > last) == new] for new in (True, False))
            if event.held[witness]:
                updates.append(Update(i, fresh, stale, False))
            else:
                updates.append(Update(i, [], [], bool(fresh) and fresh[-1].reached[witness][0] != 0))
            last = i
    return updates
