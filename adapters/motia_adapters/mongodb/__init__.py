"""Streams on MongoDB: collections of our own, or one of yours, read through change streams."""
