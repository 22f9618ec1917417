"""``python -m conceptatlas``."""

from conceptatlas.cli import main

main()
