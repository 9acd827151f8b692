"""The adapter: the SQL objects of `motia_adapters.postgresql`, reached through supabase-py."""

from __future__ import annotations

from motia_adapters.postgresql.adapter import PostgresqlAdapter
from motia_adapters.supabase.database import SupabaseDatabase
from motia_adapters.supabase.options import SupabaseOptions
from motia_core.adapter import StorageSettings


class SupabaseAdapter(PostgresqlAdapter):
    """Streams in a Supabase project, as this process uses it."""

    supabase = True

    def __init__(self, settings: StorageSettings, options: SupabaseOptions) -> None:
        super().__init__(settings, SupabaseDatabase(options, settings.timeout), options.mapped)
