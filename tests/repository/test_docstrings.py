"""The examples in the docstrings run."""

import doctest
import importlib
import warnings
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
FOLDERS = ["extraction", "concepts", "importance", "audit", "viz", "demo"]
MODULES = [
    f"conceptatlas.{f}.{p.stem}" for f in FOLDERS for p in sorted((ROOT / f).glob("*.py")) if p.stem != "__init__"
]


@pytest.mark.parametrize("name", MODULES)
def test_the_examples_of_a_module_run(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = doctest.testmod(
            importlib.import_module(name), optionflags=doctest.NORMALIZE_WHITESPACE | doctest.ELLIPSIS
        )
    assert found.failed == 0
