"""The command line: quick to answer, one sentence for a mistake, exit code 2."""

import os
import pickle
import resource
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


def run(*arguments, **options):
    command = [sys.executable, "-m", "conceptatlas", *arguments]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.run(command, capture_output=True, text=True, check=False, env=environment, **options)


def test_help_answers_without_importing_torch():
    code = (
        "import sys\nfrom conceptatlas.cli import main\n"
        "try:\n    main(['--help'])\nexcept SystemExit:\n    pass\n"
        "heavy = {'torch', 'timm', 'sklearn', 'pandas', 'plotly', 'numpy'} & set(sys.modules)\n"
        "sys.exit(len(heavy))"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, check=False).returncode == 0


@pytest.mark.parametrize(("given", "expected"), [(None, "PASSIVE"), ("ACTIVE", "ACTIVE")])
def test_threads_that_wait_leave_the_processor_to_others_unless_told_not_to(given, expected):
    code = (
        "import os, sys\nfrom conceptatlas.cli import main\n"
        "try:\n    main(['--help'])\nexcept SystemExit:\n    pass\n"
        "print(os.environ['OMP_WAIT_POLICY'], 'torch' in sys.modules)"
    )
    env = {name: value for name, value in os.environ.items() if name != "OMP_WAIT_POLICY"}
    env |= {"OMP_WAIT_POLICY": given} if given else {}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=env)
    assert done.stdout.split()[-2:] == [expected, "False"]


def test_help_takes_less_than_a_second_of_cpu():
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert run("--help").returncode == 0
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert (after.ru_utime + after.ru_stime) - (before.ru_utime + before.ru_stime) < 1.0


KNOWN = ["audit", "--model", "test_resnet", "--checkpoint", "weights.safetensors"]
MISTAKES = {
    "a pickle for a checkpoint": (
        ["audit", "--model", "test_resnet", "--checkpoint", "bomb.pth", "--images", "images", "--out", "run"],
        "bomb.pth",
    ),
    "a checkpoint that does not fit": (
        ["audit", "--model", "test_vit", "--checkpoint", "weights.safetensors", "--images", "images", "--out", "run"],
        "weights.safetensors",
    ),
    "missing folder": (
        ["audit", "--model", "test_resnet", "--images", "no/such/folder", "--out", "run"],
        "no/such/folder",
    ),
    "unknown model": (["audit", "--model", "test_resnett", "--images", "images", "--out", "run"], "test_resnet"),
    "unknown layer": (
        [*KNOWN, "--images", "images", "--out", "run", "--layer", "layer9"],
        "layer",
    ),
    "no image that can be read": ([*KNOWN, "--images", "broken", "--out", "run"], "read"),
    "empty folder": ([*KNOWN, "--images", "empty", "--out", "run"], "empty"),
    "checkpoint missing": (
        ["audit", "--model", "test_resnet", "--images", "images", "--out", "run", "--checkpoint", "w.safetensors"],
        "w.safetensors",
    ),
    "no run": (["site", "nothing-here", "out"], "nothing-here"),
    "search in no run": (["search", "nothing-here", "stripes"], "nothing-here"),
    "bad grade": (["audit", "--model", "m", "--images", "images", "--out", "run", "--fail-on", "E"], "--fail-on"),
    "layers of an unknown model": (["layers", "resnet1888"], "resnet1888"),
}


@pytest.fixture(scope="module")
def workplace(tmp_path_factory):
    import numpy as np
    import timm
    from PIL import Image
    from safetensors.torch import save_file

    root = tmp_path_factory.mktemp("cli")
    (root / "images").mkdir()
    (root / "broken").mkdir()
    (root / "empty").mkdir()
    network = timm.create_model("test_resnet")
    save_file(network.state_dict(), root / "weights.safetensors")
    (root / "bomb.pth").write_bytes(pickle.dumps(subprocess.Popen))
    rng = np.random.default_rng(0)
    for i in range(3):
        Image.fromarray(rng.integers(0, 255, (40, 40, 3), dtype=np.uint8)).save(root / "images" / f"{i}.png")
        (root / "broken" / f"{i}.jpg").write_bytes(b"<html>not an image</html>")
    return root


def main_in(folder, monkeypatch, *arguments):
    """Run the command line in this process, in a folder; return its exit code."""
    import logging

    from conceptatlas.cli import main

    monkeypatch.chdir(folder)
    monkeypatch.setattr(logging, "basicConfig", lambda **_: None)
    monkeypatch.setattr("signal.signal", lambda *_: None)
    with pytest.raises(SystemExit) as stop:
        main(list(arguments))
    return stop.value.code


@pytest.mark.parametrize("case", MISTAKES)
def test_a_mistake_gets_one_sentence_and_exit_code_2(case, workplace, monkeypatch, capsys):
    arguments, mentioned = MISTAKES[case]
    code = main_in(workplace, monkeypatch, *arguments)
    said = capsys.readouterr().err
    assert code == 2, said
    assert said.count("Error:") == 1
    assert mentioned in said
    assert "Traceback" not in said


def test_nothing_is_left_behind_by_a_mistake(workplace, monkeypatch):
    for arguments, _ in MISTAKES.values():
        main_in(workplace, monkeypatch, *[a if a != "run" else "never" for a in arguments])
    assert not (workplace / "never").exists()


def test_an_unknown_option_is_a_usage_error(workplace, monkeypatch, capsys):
    assert main_in(workplace, monkeypatch, "audit", "--colour", "blue") == 2
    assert "--colour" in capsys.readouterr().err


def test_layers_lists_the_places_and_marks_the_one_that_is_taken(workplace, monkeypatch, capsys):
    assert main_in(workplace, monkeypatch, "layers", "test_vit", "--size", "160") == 0
    printed = capsys.readouterr().out
    assert "blocks.0" in printed
    assert "*" in printed


def test_an_audit_and_its_site_run_from_the_command_line(workplace, monkeypatch, capsys):
    options = [*KNOWN, "--images", "images", "--out", "run", "--min-images", "2", "--n-concepts", "2", "--quiet"]
    assert main_in(workplace, monkeypatch, *options) == 0
    assert "3 of 3 images used" in capsys.readouterr().out
    assert main_in(workplace, monkeypatch, "site", "run", "pages") == 0
    assert (workplace / "pages" / "index.html").is_file()


def test_two_runs_are_compared_from_the_command_line(workplace, monkeypatch, capsys):
    import numpy as np
    from PIL import Image

    (workplace / "more").mkdir()
    for i, level in enumerate(np.linspace(0, 200, 24).astype(np.uint8)):
        Image.new("RGB", (40, 40), (level, 90, 255 - level)).save(workplace / "more" / f"{i}.png")
    for layer in ("layer3", "layer4"):
        options = [*KNOWN, "--images", "more", "--out", f"run-{layer}", "--min-images", "4", "--n-concepts", "2"]
        assert main_in(workplace, monkeypatch, *options, "--layer", layer, "--quiet") == 0
    capsys.readouterr()
    assert main_in(workplace, monkeypatch, "compare", "run-layer3", "run-layer4", "--out", "compared") == 0
    printed = capsys.readouterr().out
    assert "Concepts: " in printed
    assert "comparison.html" in printed
    assert (workplace / "compared" / "comparison.html").is_file()
    assert (workplace / "compared" / "index.html").is_file()


def test_a_search_lists_concepts_as_plain_text(workplace, monkeypatch, capsys):
    import pandas as pd

    from conceptatlas.audit import Atlas

    row = {"class": "[red]ant[/red]", "concept": 3, "label": "stripes?", "score": 0.5, "z": 2.0}
    monkeypatch.setattr(Atlas, "load", lambda _: type("Found", (), {"search": lambda *_, **__: pd.DataFrame([row])})())
    assert main_in(workplace, monkeypatch, "search", "run", "stripes", "dots") == 0
    printed = capsys.readouterr().out
    assert "[red]ant[/red]" in printed
    assert "0.500" in printed


def test_a_comparison_with_no_run_is_refused_in_one_sentence(workplace, monkeypatch, capsys):
    assert main_in(workplace, monkeypatch, "compare", "nothing-here", "run") == 2
    assert "nothing-here" in capsys.readouterr().err
