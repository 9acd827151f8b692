"""Live streams in the database you already run."""
