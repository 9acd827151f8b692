"""motia-core streams on Postgres."""
