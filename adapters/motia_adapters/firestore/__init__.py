"""Firestore for motia-core: streams in the database of a Firebase application."""
