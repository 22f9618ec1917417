"""The cache: asked once, answered for ever, never with another encoder's or another picture's embedding."""

import numpy as np
import pytest
from PIL import Image

from conceptatlas.concepts.embeddings import CachedEncoder
from conceptatlas.concepts.encoders import TextImageEncoder
from conceptatlas.extraction.errors import UserError


class Counting:
    """Embeds a picture as its first pixel and a text as its length, and counts what it was asked."""

    dim = 3

    def __init__(self, name="counting"):
        self.id, self.asked = name, 0

    def encode_images(self, images):
        self.asked += len(images)
        return np.array([image.getpixel((0, 0)) for image in images], dtype=np.float32)

    def encode_texts(self, texts):
        self.asked += len(texts)
        return np.array([[len(text), 0, 0] for text in texts], dtype=np.float32)


def _picture(red, size=(4, 4)):
    return Image.new("RGB", size, (red, 0, 0))


def test_each_picture_and_text_is_asked_for_once_across_runs(tmp_path):
    inner = Counting()
    first = CachedEncoder(inner, tmp_path)
    pictures = [_picture(1), _picture(2), _picture(1)]
    expected = [[1, 0, 0], [2, 0, 0], [1, 0, 0]]
    assert first.encode_images(pictures).tolist() == expected
    assert first.encode_texts(["a", "bb"]).tolist() == [[1, 0, 0], [2, 0, 0]]
    assert inner.asked == first.misses == 4
    again = CachedEncoder(inner, tmp_path)
    assert again.encode_images(pictures).tolist() == expected
    assert again.encode_texts(["bb", "ccc"]).tolist() == [[2, 0, 0], [3, 0, 0]]
    assert inner.asked == 5
    assert isinstance(again, TextImageEncoder)


def test_pictures_of_the_same_bytes_but_another_shape_are_not_mixed_up(tmp_path):
    encoder = CachedEncoder(Counting(), tmp_path)
    encoder.encode_images([_picture(1, (2, 8)), _picture(1, (8, 2)), _picture(1, (4, 4))])
    assert encoder.misses == 3


def test_another_encoder_starts_afresh_in_the_same_folder(tmp_path):
    CachedEncoder(Counting(), tmp_path).encode_texts(["a"])
    other = Counting("other")
    CachedEncoder(other, tmp_path).encode_texts(["a"])
    assert other.asked == 1


def test_a_torn_file_is_passed_over_and_computed_again(tmp_path, caplog):
    CachedEncoder(Counting(), tmp_path).encode_texts(["a"])
    (file,) = tmp_path.rglob("*.safetensors")
    file.write_bytes(file.read_bytes()[:-2])
    inner = Counting()
    assert CachedEncoder(inner, tmp_path).encode_texts(["a"]).tolist() == [[1, 0, 0]]
    assert inner.asked == 1
    assert "torn" in caplog.text


def test_nothing_is_asked_for_nothing(tmp_path):
    encoder = CachedEncoder(Counting(), tmp_path)
    assert encoder.encode_images([]).shape == (0, 3)
    assert encoder.misses == 0


def test_a_folder_that_cannot_be_made_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="file"):
        CachedEncoder(Counting(), tmp_path / "file")


def test_a_full_disk_costs_the_cache_and_not_the_run(tmp_path, monkeypatch, caplog):
    from conceptatlas.concepts import embeddings

    encoder = CachedEncoder(Counting(), tmp_path)

    def full(*args, **options):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(embeddings.tempfile, "mkstemp", full)
    assert encoder.encode_texts(["a"]).tolist() == [[1, 0, 0]]
    assert "No space" in caplog.text
