"""Streams in Redis: see README.md beside this file."""
