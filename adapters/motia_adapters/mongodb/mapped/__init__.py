"""Mapped storage: a collection of the user's own, whose documents are a stream's items.

| file | what |
|---|---|
| `values.py` | what a BSON value is as JSON, and how JSON goes back without harm |
| `mapping.py` | which document is which item; whether the collection can be mapped |
| `reads.py`, `writes.py` | items out of the collection, and into it |
"""
