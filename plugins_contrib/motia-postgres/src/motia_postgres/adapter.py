"""The adapter: the house's SQL objects, reached through asyncpg."""

from __future__ import annotations

from motia_adapters.postgresql.adapter import PostgresqlAdapter

from motia_core.adapter import StorageSettings
from motia_postgres.database import AsyncpgDatabase
from motia_postgres.options import PostgresOptions


class PostgresAdapter(PostgresqlAdapter):
    """Streams in a PostgreSQL database, without Supabase."""

    def __init__(self, settings: StorageSettings, options: PostgresOptions) -> None:
        super().__init__(settings, AsyncpgDatabase(options, settings.timeout), options.mapped)
