"""What a listener says of the user's documents, cut into moments at which it is whole.

Between two such moments documents come one by one, and a call that ends in between leaves
half of a moment behind. So what was heard counts only when the moment is complete; when
the call ends, what is not complete is forgotten, and the listener goes on from the last
complete moment, or from the start.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

from motia_adapters.firestore.listener import Target
from motia_adapters.firestore.mapped.documents import query_below
from motia_adapters.firestore.mapped.layout import MappedLayout

_log = logging.getLogger(__name__)


class Moment(NamedTuple):
    """What has changed since the moment before: documents by name, ``None`` for one that is gone."""

    at: Any
    """The time of the moment; ``None``: nothing is complete yet."""
    documents: dict[str, Any]


class Moments(Target):
    """All documents of one template.

    ``is_bell``: only `on_news` is told, as Google's emulator never says at what time
    what it tells was so. It tells all that a query finds anew at each commit, before it
    answers the writer, and runs out of memory over what is not read as fast (the writer is
    then told UNKNOWN): one document is enough for a bell.
    """

    def __init__(self, layout: MappedLayout, on_news: Callable[[], None], *, is_bell: bool) -> None:
        query = query_below(layout.documents, layout.template, limit=1 if is_bell else None)
        super().__init__(layout.documents, query)
        self._layout = layout
        self._on_news = on_news
        self._is_bell = is_bell
        self._held: set[str] = set()
        """What the listener held at the last complete moment."""
        self._sure_token = b""
        self._unsure: dict[str, Any] = {}
        self._anew: dict[str, Any] | None = {}
        """All documents, while they are told anew."""
        self._sure: dict[str, Any] = {}
        self._at: Any = None
        self.outside: set[str] = set()
        """Documents whose group or id no item may have."""

    def take(self) -> Moment:
        """What has changed up to the last complete moment, since this was last asked."""
        taken, self._sure = Moment(self._at, self._sure), {}
        return taken

    def give_back(self, moment: Moment) -> None:
        """It could not be handled: the next `take` brings it again."""
        self._sure = {**moment.documents, **self._sure}

    def leave_out(self, names: Iterable[str]) -> None:
        """Documents at the path that are no items."""
        for name in names:
            if name not in self.outside:
                _log.warning("firestore: %s is left out: its group or id is none that an item may have", name)
                self.outside.add(name)

    # -- what the listener says --------------------------------------------------------

    def heard(self, document: Any) -> None:
        """A document was created or changed, or is told anew."""
        if self._is_bell:
            return
        ours = self._layout.key(document.name) is not None
        if not ours and self._layout.is_at_path(document.name):
            self.leave_out([document.name])
        heard = self._unsure if self._anew is None else self._anew
        heard[document.name] = document if ours else None

    def gone(self, name: str) -> None:
        """A document was removed."""
        if self._is_bell:
            return
        self.outside.discard(name)
        if self._anew is None:
            self._unsure[name] = None
        else:
            self._anew.pop(name, None)

    def settled(self, at: Any) -> None:
        """All up to this time has been heard."""
        if not self._is_bell:
            if self._anew is not None:
                self._sure |= dict.fromkeys(self._held - self._anew.keys())
                self._sure |= self._anew
            self._sure |= self._unsure
            self._held = set(self.members)
            self._unsure, self._anew = {}, None
            self._sure_token = self.token
            self._at = at
        self._on_news()

    def doubtful(self, *, whole: bool) -> None:
        """Forget what is not complete. If all documents follow, what is not among them is gone."""
        self._unsure = {}
        if whole:
            self.token = self._sure_token = b""
        elif not self._is_bell:
            self.token = self._sure_token
            self.members = set(self._held)
        if not self.token:
            self.members.clear()
            self._anew = {}
        if not whole:
            self._on_news()
