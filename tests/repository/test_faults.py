"""The catalogue of faults: each of the cases that the toolkit must survive has a test that carries its number."""

import ast
from functools import cache
from pathlib import Path

import pytest

TESTS = Path(__file__).parents[1]

CASES = {
    1: "truncated JPEG",
    2: "file without a byte",
    3: "HTML saved as an image",
    4: "PNG with a flipped checksum",
    5: "PNG that claims 20 000 pixels a side",
    6: "PNG that claims 11 000 pixels a side",
    7: "valid image of 48 megapixels",
    8: "CMYK",
    9: "16-bit grey",
    10: "TIFF of floating-point numbers",
    11: "grey, grey with alpha, one bit",
    12: "palette and alpha on white",
    13: "EXIF orientation",
    14: "animations and several pages",
    15: "wrong ending",
    16: "one pixel, or a sliver",
    17: "files of the operating system",
    18: "format without a decoder",
    19: "colour profile, progressive",
    20: "damaged EXIF block",
    21: "loop of links",
    22: "dangling link, folder or FIFO named as an image",
    23: "file that may not be read",
    24: "file that goes while it is wanted",
    25: "names beyond ASCII",
    26: "names that are markup",
    27: "class names that are paths",
    28: "one name in two classes",
    29: "one image in two classes",
    30: "no image",
    31: "class without images",
    32: "class with a single image",
    33: "class with two or three images",
    34: "disk full",
    35: "folder that cannot be written",
    36: "folder of another run",
    37: "activations that are not a number",
    38: "overflow",
    39: "signed layer given to NMF",
    40: "dead layer",
    41: "more concepts than rows",
    42: "constant activations",
    43: "models that return something else",
    44: "single output, or none",
    45: "layer that does not exist or runs twice",
    46: "model in training mode",
    47: "hooks left behind",
    48: "gradient flags of the user",
    49: "layouts of positions",
    50: "other input sizes",
    51: "classes out of range",
    52: "graphics memory exhausted",
    53: "mixed devices",
    54: "checkpoint that runs code",
    55: "torn or absurd header",
    56: "manifest that leads out of its run",
    57: "killed while writing a shard",
    58: "killed between shard and record",
    59: "flipped byte in a shard",
    60: "two processes in one folder",
    61: "interrupted or terminated",
    62: "worker that reads images killed",
    63: "Ray worker or driver killed",
    64: "Ray with two CPUs",
    65: "seeds, threads and order of files",
    66: "markup in any text of a page",
    67: "pages without a network, cells that are formulas",
    68: "size of pages",
}


@cache
def numbered_tests():
    """Return number -> names of the test functions that carry it."""
    found = {number: [] for number in CASES}
    for path in sorted(TESTS.rglob("test_*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.FunctionDef) and node.name.startswith("test_fault_"):
                found.setdefault(int(node.name.split("_")[2]), []).append(node)
    return found


@pytest.mark.parametrize("number", CASES)
def test_every_case_has_a_test(number):
    assert numbered_tests()[number], f"no test_fault_{number:02d}_... for: {CASES[number]}"


def test_no_test_carries_an_unknown_number():
    assert set(numbered_tests()) == set(range(1, 69)) == set(CASES)


def test_no_numbered_test_is_empty():
    for nodes in numbered_tests().values():
        for node in nodes:
            assert any(isinstance(part, (ast.Assert, ast.With, ast.Call)) for part in ast.walk(node)), node.name
