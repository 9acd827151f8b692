"""Streams in PostgreSQL: SQL objects and the code that calls them, whatever the way to the database.

This is not an adapter. A way to the database (`database.Database`: how functions are
called, how news comes in, what the driver's errors mean) makes one of it:

    class MyAdapter(PostgresqlAdapter):
        def __init__(self, settings, options):
            super().__init__(settings, MyDatabase(settings, options), options)

The Supabase adapter is one; `plugins_contrib/motia-postgres` is another, in a distribution
of its own. Both use the same SQL files (`sql/`).
"""
