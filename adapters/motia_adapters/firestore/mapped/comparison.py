"""What is different between a time and now, for readers who were told by another process, or too long ago."""

from __future__ import annotations

from motia_adapters.firestore.connection import Connection
from motia_adapters.firestore.failures import is_out_of_reach
from motia_adapters.firestore.mapped.changes import events_of, placed, state_of, typed
from motia_adapters.firestore.mapped.departures import ends_of, values_at
from motia_adapters.firestore.mapped.documents import Documents
from motia_adapters.firestore.mapped.events import Events
from motia_adapters.firestore.mapped.layout import MappedLayout, Place, time_of
from motia_adapters.firestore.mapped.notes import Life
from motia_adapters.firestore.mapped.places import Places
from motia_adapters.firestore.mapped.states import States
from motia_adapters.firestore.wire import timestamp
from motia_core.errors import BackendError
from motia_core.model import Change


class Comparison:
    """Reads the names of all documents as of a time, and what has become of them."""

    def __init__(
        self,
        connection: Connection,
        layout: MappedLayout,
        documents: Documents,
        events: Events,
        states: States,
        places: Places,
        name: str,
    ) -> None:
        self._connection = connection
        self._layout = layout
        self._documents = documents
        self._events = events
        self._states = states
        self._places = places
        self._name = name

    async def since(self, after: str, place: Place) -> tuple[list[Change], str]:
        """What is different between a place and as far as we have listened, whatever this process told in between."""
        states, layout = self._states, self._layout
        time = place.time
        try:
            there = await self._names(time)
            before = await self._names(place.since) if place.since < time else there
        except BackendError as error:
            if is_out_of_reach(error):
                raise self._places.expired(after, "is too long ago for this database") from error
            raise
        old = dict.fromkeys(there, time)
        had, missed = there, list[Life]()
        if place.since < time:
            # Who stands amid the changes of a time has of those that went until then some yet.
            behind = {name for name in before | there if layout.rank(name) > place.key}
            had = before & behind | there - behind
            missed = [Life(name, place.since, time) for name in (before - there) & behind]
            time -= 1
        deletes = await ends_of(self._connection, layout, missed, ())
        until, known = states.time, dict(states.known)
        ends = {
            name: [Life(name, note.time - 1, note.time, note.json, note.was)]
            for name, note in states.past.items()
            if note.deleted and note.json and note.time > time
        }
        for change, created, seen in states.kept.deletes_after(after):
            name, gone = layout.name((change.group_id, change.id or "")), time_of(change.position)
            life = Life(name, gone - 1 if seen is None else seen, gone, change.json or b"{}", created)
            ends.setdefault(name, []).append(life)
        new = await values_at(self._connection, [n for n, one in known.items() if one.updated > time], until)
        told = [state_of(document, layout) for document in new.values()]
        told += events_of(await self._events.since(time, timestamp(until)))
        lives = [Life(n, old[n], known[n].created - 1) for n in new if n in old and known[n].created > old[n]]
        for name in {*old, *ends} - known.keys():
            their = ends.get(name, [])
            # Whoever stands between the first and the last goes on from there another time.
            lives += {*(their[:1] if name in old else ()), *their[-1:]}
            if name in old and not (their and 0 < their[0].created <= old[name]):
                # It may be another document of the name that went then.
                lives.append(Life(name, old[name], their[0].gone if their else until))
        deletes += await ends_of(self._connection, layout, lives, [change.time for change in told], place.time)
        told += {(end.name, end.time): end for end in deletes}.values()
        new_to_it = [one for one in told if not one.name or (one.time, layout.rank(one.name)) > (place.time, place.key)]
        changes = [change for change, _, _ in placed(typed(new_to_it, had, layout), layout, self._name)]
        return [change for change in changes if change.position > after], layout.position(until)

    async def _names(self, time: int) -> set[str]:
        return {document.name async for document in self._documents.all(timestamp(time), names_only=True)}
