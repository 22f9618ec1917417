"""The built package holds every folder, and imports where there is no checkout."""

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ["extraction", "concepts", "importance", "audit", "viz", "demo"]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"
    tracked = subprocess.run(
        ["git", "ls-files", "-co", "--exclude-standard"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    for name in tracked.stdout.splitlines():
        if (ROOT / name).is_file() and not name.startswith(("tests/", "notebooks/", "benchmarks/")):
            target = source / name
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes((ROOT / name).read_bytes())
    command = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--quiet", "-w", str(folder), str(source)]
    subprocess.run(command, check=True, capture_output=True, text=True)
    return next(folder.glob("conceptatlas-*.whl"))


def test_the_wheel_holds_every_module_and_data_file_and_nothing_else(wheel):
    held = {n for n in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in n}
    expected = {f"conceptatlas/{p.name}" for p in (ROOT / "conceptatlas").glob("*.py")} | {"conceptatlas/py.typed"}
    for package in PACKAGES:
        expected |= {f"conceptatlas/{package}/{p.name}" for p in (ROOT / package).glob("*.py")}
    expected |= {f"conceptatlas/concepts/{p.name}" for p in (ROOT / "concepts").glob("*.tsv")}
    expected |= {f"conceptatlas/viz/templates/{p.name}" for p in (ROOT / "viz" / "templates").iterdir() if p.is_file()}
    weights = ROOT / "demo" / "weights"
    expected |= {f"conceptatlas/demo/weights/{p.relative_to(weights)}" for p in weights.rglob("*") if p.is_file()}
    expected |= {f"conceptatlas/demo/{p.name}" for p in (ROOT / "demo").glob("*.md")}
    assert held == expected


def test_the_wheel_imports_in_another_directory_without_the_checkout(wheel, tmp_path):
    site = tmp_path / "site"
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(site)
    code = (
        "import conceptatlas as ca, conceptatlas.viz, conceptatlas.demo, pathlib;"
        "home = pathlib.Path(ca.__file__).resolve().parent;"
        f"assert home == pathlib.Path({str(site)!r}).resolve() / 'conceptatlas', home;"
        "assert callable(ca.audit) and ca.Atlas.__name__ == 'Atlas';"
        "print('imported')"
    )
    run = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env={"PYTHONPATH": str(site), "PATH": "/usr/bin:/bin"},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert run.stdout.strip() == "imported", run.stderr
