"""Run the notebooks from top to bottom and keep what they show: ``python notebooks/execute.py [NAME ...]``."""

from __future__ import annotations

import sys
from pathlib import Path

import nbformat
from nbclient import NotebookClient

FOLDER = Path(__file__).resolve().parent


def execute(path: Path) -> None:
    """Execute one notebook in place; a cell that fails stops it, and the file stays as it was."""
    notebook = nbformat.read(path, as_version=4)
    NotebookClient(notebook, timeout=1200, kernel_name="python3").execute()
    for number, cell in enumerate(notebook.cells):
        cell["id"] = f"cell-{number}"  # the same on every run
        cell.metadata.pop("execution", None)  # times of the day
        for output in cell.get("outputs", []):
            if "image/jpeg" in output.get("data", {}):
                output["data"].pop("image/png", None)  # one encoding is enough: the smaller one
    nbformat.write(notebook, path)


if __name__ == "__main__":
    for found in [FOLDER / f"{name}.ipynb" for name in sys.argv[1:]] or sorted(FOLDER.glob("*.ipynb")):
        sys.stdout.write(f"{found.name}\n")
        execute(found)
