"""SQLite: the default storage, which needs no server."""
