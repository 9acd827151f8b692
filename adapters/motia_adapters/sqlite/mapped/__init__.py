"""Mapped storage: a table of the user's own, whose rows are a stream's items.

| file | what |
|---|---|
| `cells.py` | what a cell is as JSON, and what a column can hold |
| `table.py`, `describe.py` | what is known of the table, and whether it can be mapped |
| `capture.py` | the triggers and side tables; making, checking and removing them |
| `reads.py`, `queries.py`, `writes.py` | items and changes out of the table, and into it |
"""
