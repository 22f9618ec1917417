"""What decode_image returns for every kind of file that it accepts."""

import io
import struct

import numpy as np
import pytest
from PIL import Image

from conceptatlas.extraction import ImageError, decode_image
from conceptatlas.extraction.decode import DRAFT_PIXELS, MAX_PIXELS


def encoded(image, file_format, **options):
    buffer = io.BytesIO()
    image.save(buffer, file_format, **options)
    return buffer.getvalue()


def test_png_comes_back_pixel_for_pixel(picture):
    image = picture(30, 20)
    assert np.array_equal(decode_image(encoded(image, "PNG")), image)


def test_path_bytes_file_and_image_give_the_same_pixels(picture, tmp_path):
    path = tmp_path / "a.png"
    picture(30, 20).save(path)
    with path.open("rb") as file, Image.open(path) as opened:
        results = [decode_image(source) for source in (path, str(path), path.read_bytes(), file, opened)]
    assert all(np.array_equal(result, results[0]) for result in results)


def test_given_image_is_left_as_it_was():
    image = Image.new("RGBA", (4, 4), (10, 20, 30, 0))
    decoded = decode_image(image)
    assert image.mode == "RGBA"
    decoded.putpixel((0, 0), (1, 2, 3))
    assert image.getpixel((0, 0)) == (10, 20, 30, 0)


def test_rgb_image_is_copied():
    image = Image.new("RGB", (4, 4))
    decode_image(image).putpixel((0, 0), (9, 9, 9))
    assert image.getpixel((0, 0)) == (0, 0, 0)


def test_half_transparent_black_is_mid_grey_on_white():
    assert decode_image(Image.new("RGBA", (2, 2), (0, 0, 0, 128))).getpixel((0, 0)) == (127, 127, 127)


@pytest.mark.parametrize(
    ("values", "expected"),
    [(np.linspace(0, 1, 256), 255), (np.arange(256.0), 255), (np.linspace(0, 65535, 256), 255)],
)
def test_float_tiff_is_scaled_by_its_range(values, expected):
    data = encoded(Image.fromarray(values.reshape(16, 16).astype(np.float32)), "TIFF")
    decoded = np.asarray(decode_image(data))[..., 0]
    assert decoded.max() == expected
    assert abs(decoded.mean() - 127.5) < 1


@pytest.mark.parametrize("values", [np.array([[-1.0, 2]]), np.array([[0.0, np.nan]]), np.array([[0.0, 1e6]])])
def test_float_tiff_without_a_known_range_is_refused(values):
    with pytest.raises(ImageError) as caught:
        decode_image(encoded(Image.fromarray(values.astype(np.float32)), "TIFF"))
    assert caught.value.cause == "range"


@pytest.mark.parametrize(
    ("kind", "largest"),
    [
        *((np.float32, largest) for largest in (1.02, 4, 31, 300, 4095)),
        *((np.int32, largest) for largest in (300, 4095)),
    ],
)
def test_deep_greys_are_never_all_black_in_silence(kind, largest):
    values = np.linspace(0, largest, 256).reshape(16, 16).astype(kind)
    with pytest.raises(ImageError, match="all but black") as caught:
        decode_image(encoded(Image.fromarray(values), "TIFF"))
    assert caught.value.cause == "range"


def test_sixteen_bit_greys_of_which_zero_is_white():
    ramp = np.linspace(0, 65535, 256).reshape(16, 16).astype(np.uint16)
    data = encoded(Image.fromarray(ramp), "TIFF", tiffinfo={262: 0})
    with Image.open(io.BytesIO(data)) as plain:
        assert plain.tag_v2[262] == 0
    assert np.array_equal(np.asarray(decode_image(data))[..., 0], np.rint(255 - ramp / 257))


def test_sixteen_bit_grey_that_stands_for_transparent_is_white():
    values = np.array([[1000, 1001], [0, 65535]], np.uint16)
    image = Image.fromarray(values)
    image.info["transparency"] = 1000
    assert np.asarray(decode_image(image))[..., 0].tolist() == [[255, 4], [0, 255]]


def test_tiff_that_pillow_does_not_know_says_so():
    tags = [(256, 4), (257, 4), (258, 64), (259, 1), (262, 1), (273, 256), (277, 1), (278, 4), (279, 128), (339, 3)]
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags)
    data = b"II*\0" + struct.pack("<IH", 8, len(tags)) + entries + bytes(4)
    with pytest.raises(ImageError, match="a kind that Pillow does not read") as caught:
        decode_image(data.ljust(512, b"\0"))
    assert caught.value.cause == "unsupported"


def test_premultiplied_grey_is_composited():
    assert decode_image(Image.new("LA", (2, 2), (0, 128)).convert("La")).getpixel((0, 0)) == (127, 127, 127)


def test_32_bit_grey_of_sixteen_bits_is_scaled():
    decoded = decode_image(Image.fromarray(np.full((4, 4), 257 * 100, np.int32)))
    assert decoded.getpixel((0, 0)) == (100, 100, 100)


def test_32_bit_grey_beyond_sixteen_bits_is_refused():
    with pytest.raises(ImageError) as caught:
        decode_image(Image.fromarray(np.full((4, 4), 70000, np.int32)))
    assert caught.value.cause == "range"


def test_jpeg_above_the_draft_limit_is_decoded_at_half_size():
    side = int(DRAFT_PIXELS**0.5) + 10
    data = encoded(Image.new("RGB", (side, side), (200, 30, 40)), "JPEG")
    decoded = decode_image(data)
    assert decoded.size == ((side + 1) // 2, (side + 1) // 2)
    assert decoded.info["notes"] == (f"decoded at 1/2 of {side} x {side}",)
    assert np.abs(np.asarray(decoded.getpixel((9, 9))) - (200, 30, 40)).max() <= 3


def test_jpeg_below_the_draft_limit_is_decoded_whole(picture):
    data = encoded(picture(1000, 700), "JPEG", quality=95)
    with Image.open(io.BytesIO(data)) as plain:
        assert np.array_equal(decode_image(data), plain.convert("RGB"))


def test_image_in_memory_that_is_too_large_is_refused():
    image = Image.new("1", (MAX_PIXELS // 1000 + 1, 1000))
    with pytest.raises(ImageError) as caught:
        decode_image(image)
    assert caught.value.cause == "bomb"


def test_error_names_the_file_and_the_exception(tmp_path):
    with pytest.raises(ImageError, match=r"a\.jpg: missing \(FileNotFoundError"):
        decode_image(tmp_path / "a.jpg")


def test_load_truncated_images_is_switched_off(picture, monkeypatch, caplog):
    from PIL import ImageFile

    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", True)
    data = encoded(picture(300, 300), "JPEG")
    with pytest.raises(ImageError) as caught:
        decode_image(data[: len(data) // 2])
    assert caught.value.cause == "truncated"
    assert "switching it off" in caplog.text
