"""What is different between a time and now, for readers who were told by another process, or too long ago."""

from __future__ import annotations

from motia_adapters.firestore.connection import Connection
from motia_adapters.firestore.failures import is_out_of_reach
from motia_adapters.firestore.mapped.changes import Told, delete_of, events_of, placed, state_of, typed
from motia_adapters.firestore.mapped.departures import Life, ends_of, values_at
from motia_adapters.firestore.mapped.documents import Documents
from motia_adapters.firestore.mapped.events import Events
from motia_adapters.firestore.mapped.layout import MappedLayout
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

    async def since(self, after: str, time: int) -> tuple[list[Change], str]:
        """What is different between a time and as far as we have listened, whatever this process told in between."""
        states, layout = self._states, self._layout
        # Who stands amid the changes of one time has some of what was so before, and some of what was so then.
        amid = after < layout.position(time)
        old: dict[str, int] = {}
        try:
            for at in (time, time - 1) if amid else (time,):
                old |= {document.name: at async for document in self._documents.all(timestamp(at), names_only=True)}
        except BackendError as error:
            if is_out_of_reach(error):
                raise self._places.expired(after, "is too long ago for this database") from error
            raise
        time -= amid
        until, known, past = states.time, dict(states.known), dict(states.past)
        kept: dict[str, list[Told]] = {}
        for change, created in states.kept.deletes_after(after):
            name = layout.name((change.group_id, change.id or ""))
            end = delete_of(name, layout, layout.time_of(change.position), change.json or b"{}", created)
            kept.setdefault(name, []).append(end)
        new = await values_at(self._connection, [n for n, one in known.items() if one.updated > time], until)
        told = [state_of(document, layout) for document in new.values()]
        lives = [Life(n, old[n], known[n].created - 1) for n in new if n in old and known[n].created > old[n]]
        entries = await self._events.since(time, timestamp(until))
        told += events_of(entries)
        noted = {
            name: [delete_of(name, layout, note.time, note.json, note.was)]
            for name, note in past.items()
            if note.deleted and note.json and note.time > time
        }
        ends = noted | kept
        gone = {*old, *ends} - known.keys()
        deletes: dict[tuple[str, int], Told] = {}
        for name in gone:
            their = ends.get(name, [])
            # Whoever stands between the first and the last goes on from there another time.
            deletes |= {(name, end.time): end for end in [*(their[:1] if name in old else ()), *their[-1:]]}
            if name in old and not (their and 0 < their[0].created <= old[name]):
                # It may be another document of the name that went then.
                lives.append(Life(name, old[name], their[0].time if their else until))
        told += deletes.values()
        found = await ends_of(self._connection, layout, lives, {change.time for change in told})
        told += [end for end in found if (end.name, end.time) not in deletes]
        changes = [change for change, _ in placed(typed(told, old), layout, self._name) if change.position > after]
        return changes, layout.position(until)
