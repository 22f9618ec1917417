"""Faults of sizes and names that are easy to forget."""

import pytest
from PIL import Image

from conceptatlas.extraction import FolderSource, decode_image
from conceptatlas.extraction.errors import ImageError


def test_fault_06_png_in_the_warning_zone_of_bombs_is_refused(tmp_path):
    path = tmp_path / "large.png"
    Image.new("1", (11_000, 11_000)).save(path)
    with pytest.raises(ImageError) as refused:
        decode_image(path)
    assert refused.value.cause == "bomb"


@pytest.mark.parametrize("name", ["a\nb.png", 'it\'s "quoted".png', "<img src=x onerror=alert(1)>.png"])
def test_fault_26_hostile_file_names_are_read_and_kept_as_they_are(tmp_path, name):
    Image.new("RGB", (9, 7), "red").save(tmp_path / "plain.png")
    (tmp_path / "plain.png").rename(tmp_path / name)
    source = FolderSource(tmp_path)
    assert source.ids == [name]
    assert source[0].image.size == (9, 7)
