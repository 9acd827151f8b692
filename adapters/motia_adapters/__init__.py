"""Adapters that map motia-core's streams onto stores. They never import each other."""
