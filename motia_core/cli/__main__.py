"""``python -m motia_core.cli``: the same as ``motia-core``."""

from motia_core.cli import main

main()
