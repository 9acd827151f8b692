"""Another program: plain firebase-admin, which knows nothing of motia-core. ``python outsider.py ROOT DEED...``"""

from __future__ import annotations

import datetime
import sys
from collections.abc import Callable
from typing import Any

import firebase_admin
from firebase_admin import firestore
from google.auth.credentials import AnonymousCredentials
from google.cloud.firestore_v1 import GeoPoint


class Anonymous(firebase_admin.credentials.Base):  # type: ignore[misc]
    """What the emulator is content with."""

    def get_credential(self) -> Any:
        anonymous: Any = AnonymousCredentials
        return anonymous()


AT = datetime.datetime(2026, 1, 31, 12, 0, 0, 123456, tzinfo=datetime.UTC)


class Deeds:
    """What it can do to documents at ``ROOT/{group}/documents/{id}``."""

    def __init__(self, client: Any, root: str) -> None:
        self.client = client
        self.root = client.collection(root)

    def _of(self, group: str, id: str) -> Any:
        return self.root.document(group).collection("documents").document(id)

    def insert(self) -> None:
        self._of("g", "x").create({"n": 1, "by": "them"})

    def native(self) -> None:
        """One field of each type that JSON lacks, alone, in a map and in an array."""
        types = {
            "at": AT,
            "who": self.client.document("users/alice"),
            "where": GeoPoint(52.5, 13.4),
            "raw": b"\x00\xff",
            "nan": float("nan"),
        }
        self._of("g", "native").set(
            {**types, "n": 1, "map": {**types, "deep": {"at": AT}}, "list": list(types.values())}
        )

    def update(self) -> None:
        self._of("g", "x").update(
            {"n": firestore.Increment(1), "deep.er": "there", "tags": firestore.ArrayUnion(["a"])}
        )

    def replace(self) -> None:
        self._of("g", "x").set({"n": 10})

    def merge(self) -> None:
        self._of("g", "x").set({"more": {"a": 1}, "stamp": firestore.SERVER_TIMESTAMP}, merge=True)

    def remove(self) -> None:
        self._of("g", "x").delete()

    def batch(self) -> None:
        batch = self.client.batch()
        for number in range(5):
            batch.set(self._of("g", f"batch{number}"), {"n": number})
        batch.delete(self._of("g", "batch-old"))
        batch.commit()

    def transaction(self) -> None:
        @firestore.transactional  # type: ignore[untyped-decorator]
        def move_one(transaction: Any) -> None:
            one, other = self._of("g", "one"), self._of("g", "other")
            (found, held) = (reference.get(transaction=transaction).to_dict() or {"n": 0} for reference in (one, other))
            transaction.set(one, {"n": found["n"] - 1})
            transaction.set(other, {"n": held["n"] + 1})

        for _ in range(3):
            move_one(self.client.transaction())

    def move(self) -> None:
        """To another group: documents cannot move, so it is deleted there and made here in one batch."""
        batch = self.client.batch()
        batch.set(self._of("a", "x"), self._of("g", "x").get().to_dict())
        batch.delete(self._of("g", "x"))
        batch.commit()

    def odd(self) -> None:
        """Documents that can be no items, and one of another path in a collection of the same name."""
        self._of("g", "tab\tid").set({"n": 1})
        self.client.document(f"{self.root.id}/g/archive/a/documents/y").set({"n": 1})
        self._of("g", "ordinary").set({"n": 1})

    def storm(self) -> None:
        """As much as it can."""
        for number in range(150):
            self._of("g", f"{number % 7}").set({"n": number})
            if number % 10 == 9:
                self._of("g", f"{number % 7}").delete()


if __name__ == "__main__":
    app = firebase_admin.initialize_app(Anonymous(), {"projectId": "demo-motia"})
    deeds = Deeds(firestore.client(app), sys.argv[1])
    for name in sys.argv[2:]:
        deed: Callable[[], None] = getattr(deeds, name)
        deed()
