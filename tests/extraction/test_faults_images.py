"""Image files and folders that trap the unwary: each is used rightly, or skipped with its cause."""

import contextlib
import io
import os
import struct
import sys
import time
import unicodedata
import warnings
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageCms

from conceptatlas.extraction import (
    CropSpec,
    FolderSource,
    ImageError,
    Preprocess,
    SourceError,
    as_source,
    decode_image,
    duplicate_files,
    extract,
)


def encoded(image, file_format, **options):
    buffer = io.BytesIO()
    image.save(buffer, file_format, **options)
    return buffer.getvalue()


def cause_of(source):
    with pytest.raises(ImageError) as caught:
        decode_image(source)
    return caught.value.cause


def claimed_png(side):
    """Return a PNG of a few bytes that claims to have ``side ** 2`` pixels."""

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0" * 999)) + chunk(b"IEND", b"")
    )


@contextlib.contextmanager
def grown_by_less_than(megabytes):
    """Assert that the process never needs so much more memory inside."""
    if not sys.platform.startswith("linux"):
        yield
        return
    Path("/proc/self/clear_refs").write_text("5")  # the high-water mark begins anew
    before = _status("VmHWM")
    yield
    assert _status("VmHWM") - before < megabytes * 1024


def _status(field):
    return next(int(line.split()[1]) for line in Path("/proc/self/status").read_text().splitlines() if field in line)


def test_fault_01_truncated_jpeg(picture):
    data = encoded(picture(300, 200), "JPEG")
    assert cause_of(data[: len(data) // 2]) == "truncated"


def test_fault_02_zero_bytes():
    assert cause_of(b"") == "empty"


@pytest.mark.parametrize("text", [b"<!doctype html><html>not found</html>", b"hello"])
def test_fault_03_text_saved_as_jpg(text):
    assert cause_of(text) == "not_an_image"


def test_fault_04_png_with_a_flipped_checksum(picture):
    data = bytearray(encoded(picture(60, 40), "PNG"))
    data[data.index(b"IDAT") + 10] ^= 0xFF
    assert cause_of(bytes(data)) in ("corrupt", "truncated")


@pytest.mark.parametrize("side", [20_000, 11_000], ids=["fault_05", "fault_06"])
@pytest.mark.parametrize("action", ["ignore", "error"])
def test_fault_05_06_png_that_claims_too_many_pixels(side, action):
    with warnings.catch_warnings(), grown_by_less_than(100):
        warnings.simplefilter(action)
        assert cause_of(claimed_png(side)) == "bomb"


def test_fault_07_big_jpeg_is_decoded_at_a_bounded_size():
    data = encoded(Image.new("RGB", (8000, 6000), (10, 200, 30)), "JPEG")
    with grown_by_less_than(120):  # 144 MB at full size, 36 MB at half
        image = decode_image(data)
    assert image.size == (4000, 3000)
    assert Preprocess((64, 64)).view(image).size == (64, 64)


def test_fault_08_cmyk_jpeg_has_its_colours():
    image = Image.new("RGB", (16, 16), (255, 0, 0)).convert("CMYK")
    red, green, blue = decode_image(encoded(image, "JPEG", quality=95)).getpixel((8, 8))
    assert red > 240
    assert green < 20
    assert blue < 20


def test_fault_09_sixteen_bit_png():
    ramp = np.linspace(0, 255, 64 * 64).reshape(64, 64)
    twin = ramp.round().astype(np.uint8)
    deep = encoded(Image.fromarray((ramp * 257).round().astype(np.uint16)), "PNG")
    decoded = np.asarray(decode_image(deep))
    assert decoded.shape == (64, 64, 3)
    assert abs(decoded.mean() - twin.mean()) < 1
    assert np.abs(decoded[..., 0].astype(int) - twin).max() <= 1


def test_fault_10_float_tiff_is_not_black():
    ramp = np.linspace(0, 1, 256, dtype=np.float32).reshape(16, 16)
    assert abs(np.asarray(decode_image(encoded(Image.fromarray(ramp), "TIFF"))).mean() - 127.5) < 1


@pytest.mark.parametrize("largest", [1.0001, 5, 255, 600, 65535])
def test_fault_10_float_tiff_beyond_one_is_bright_or_skipped(largest):
    data = encoded(Image.fromarray(np.linspace(0, largest, 256, dtype=np.float32).reshape(16, 16)), "TIFF")
    if largest in (1.0001, 5, 600):
        assert cause_of(data) == "range"
    else:
        assert np.asarray(decode_image(data)).max() == 255


@pytest.mark.parametrize("mode", ["L", "LA", "1"])
def test_fault_11_grey_alpha_and_one_bit(mode):
    image = Image.new("L", (8, 8), 255).convert(mode)
    image.paste(0, (0, 0, 4, 8))
    if mode == "LA":
        image.putalpha(255)
    decoded = decode_image(encoded(image, "PNG"))
    assert decoded.mode == "RGB"
    assert [decoded.getpixel((x, 0)) for x in (0, 7)] == [(0, 0, 0), (255, 255, 255)]


@pytest.mark.parametrize("kind", ["RGBA", "P", "L"])
def test_fault_12_transparency_is_white_in_view_and_model_input(kind):
    if kind == "RGBA":
        data = encoded(Image.new("RGBA", (40, 40), (0, 0, 0, 0)), "PNG")
    elif kind == "P":
        image = Image.new("P", (40, 40), 3)
        image.putpalette([value for index in range(256) for value in (index, 0, 0)])
        data = encoded(image, "PNG", transparency=3)
    else:
        data = encoded(Image.new("L", (40, 40), 0), "PNG", transparency=0)
    image, preprocess = decode_image(data), Preprocess((32, 32), mean=(0, 0, 0), std=(1, 1, 1))
    assert np.asarray(image).min() == 255
    assert np.asarray(preprocess.view(image)).min() == 255
    assert preprocess(image).min() == 1


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("file_format", ["JPEG", "PNG", "TIFF", "WEBP"])
def test_fault_13_exif_orientation(orientation, file_format):
    upright = Image.new("RGB", (60, 40), "white")
    upright.paste((255, 0, 0), (0, 0, 20, 15))
    back = {2: 2, 3: 3, 4: 4, 5: 5, 6: 8, 7: 7, 8: 6}
    from conceptatlas.extraction.decode import _TRANSPOSE

    stored = upright if orientation == 1 else upright.transpose(_TRANSPOSE[back[orientation]])
    exif = Image.Exif()
    exif[0x0112] = orientation
    decoded = decode_image(encoded(stored, file_format, exif=exif))
    assert decoded.size == (60, 40)
    assert np.abs(np.asarray(decoded).astype(int) - np.asarray(upright)).mean() < 8
    assert decoded.getpixel((5, 5))[1] < 100


@pytest.mark.parametrize("file_format", ["GIF", "WEBP", "TIFF"])
def test_fault_14_first_of_several_frames(file_format):
    frames = [Image.new("RGB", (20, 20), colour) for colour in ((255, 0, 0), (0, 255, 0), (0, 0, 255))]
    decoded = decode_image(encoded(frames[0], file_format, save_all=True, append_images=frames[1:]))
    assert decoded.getpixel((9, 9))[0] > 240
    assert decoded.info["notes"] == ("first of 3 frames",)


def test_fault_15_wrong_and_upper_case_endings(picture, tmp_path):
    picture(20, 20).save(tmp_path / "a.png", "JPEG")
    picture(20, 20).save(tmp_path / "B.JPG", "PNG")
    assert [sample.image.size for sample in FolderSource(tmp_path)] == [(20, 20), (20, 20)]


@pytest.mark.parametrize("size", [(1, 1), (4000, 1), (1, 4000), (2, 3)])
def test_fault_16_one_pixel_and_sliver(size):
    image = decode_image(encoded(Image.new("RGB", size, (9, 9, 9)), "PNG"))
    for preprocess in (Preprocess((224, 224)), Preprocess((64, 96), 1.0), Preprocess((64, 64), crop_mode="border")):
        with grown_by_less_than(100):
            view = preprocess.view(image)
        assert view.size == preprocess.size[::-1]
        CropSpec().boxes(preprocess.size)
    CropSpec().boxes(image.size)


@pytest.mark.parametrize("name", ["._a.jpg", ".DS_Store", "Thumbs.db", ".hidden.jpg", "__MACOSX/a.jpg"])
def test_fault_17_files_of_the_system_are_ignored(name, image_folder):
    root = image_folder(ants=1)
    (root / name).parent.mkdir(exist_ok=True)
    (root / name).write_bytes(b"\0\5\x16\7")
    source = FolderSource(root)
    assert source.ids == ["ants/0.jpg"]
    assert name.split("/")[0] in source.ignored


@pytest.mark.parametrize(
    ("data", "remedy"),
    [
        (b'<svg xmlns="http://www.w3.org/2000/svg"/>', "PNG"),
        (b'<?xml version="1.0"?><svg/>', "PNG"),
        (b"\0\0\0\x18ftypheic\0\0\0\0mif1heic", "pillow-heif"),
    ],
)
def test_fault_18_format_without_a_decoder(data, remedy):
    with pytest.raises(ImageError, match=remedy) as caught:
        decode_image(data)
    assert caught.value.cause == "unsupported"


def test_fault_19_profile_and_progressive_jpeg(picture):
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    image = picture(60, 40)
    plain = encoded(image, "JPEG", quality=95)
    other = encoded(image, "JPEG", quality=95, progressive=True, icc_profile=profile)
    assert np.array_equal(decode_image(plain), decode_image(other))


@pytest.mark.parametrize("action", ["ignore", "error"])
def test_fault_20_corrupt_exif_costs_no_pixel(picture, action):
    image = picture(60, 40)
    exif = b"Exif\0\0II*\0\x08\0\0\0\xff\xff" + b"\xaa" * 40
    with warnings.catch_warnings():
        warnings.simplefilter(action)
        decoded = decode_image(encoded(image, "JPEG", quality=95, exif=exif))
    assert np.array_equal(decoded, decode_image(encoded(image, "JPEG", quality=95)))


def test_fault_21_symlink_loop(image_folder):
    root = image_folder(ants=3, bees=2)
    (root / "ants" / "loop").symlink_to(root)
    (root / "self").symlink_to(root / "self")
    (root / "up").symlink_to(root)
    (root / "self.jpg").symlink_to(root / "self.jpg")
    source = FolderSource(root)
    assert source.ids == ["ants/0.jpg", "ants/1.jpg", "ants/2.jpg", "bees/0.jpg", "bees/1.jpg", "self.jpg"]
    assert cause_of(source.paths[-1]) == "unreadable"
    assert source.ignored["ants/loop"] == "link to a folder that was read"
    assert source.class_counts == {"ants": 3, "bees": 2}


def test_fault_22_dangling_link_folder_and_fifo(image_folder):
    root = image_folder(ants=1)
    (root / "ants" / "dangling.jpg").symlink_to(root / "nowhere.jpg")
    (root / "ants" / "folder.jpg").mkdir()
    os.mkfifo(root / "ants" / "fifo.jpg")
    source = FolderSource(root)
    causes = {}
    with ThreadPoolExecutor(1) as pool:
        for index, name in enumerate(source.ids):
            try:
                pool.submit(source.__getitem__, index).result(timeout=20)
            except ImageError as error:
                causes[name] = error.cause
    assert causes == {
        "ants/dangling.jpg": "missing",
        "ants/folder.jpg": "not_a_file",
        "ants/fifo.jpg": "not_a_file",
    }


def test_fault_23_unreadable_file(image_folder, monkeypatch):
    path = image_folder(ants=1) / "ants" / "0.jpg"
    path.chmod(0)
    if os.access(path, os.R_OK):  # root reads everything

        def refuse(*args):
            raise PermissionError(13, "Permission denied")

        monkeypatch.setattr(os, "open", refuse)
    assert cause_of(path) == "permission"


def test_fault_24_file_deleted_after_the_scan(image_folder, tiny_split, small_input, tmp_path):
    source = FolderSource(image_folder(ants=4))
    Path(source.paths[1]).unlink()
    result = extract(tiny_split(), source, small_input, tmp_path / "s")
    assert [(entry.sample_id, entry.cause) for entry in result.skipped] == [("ants/1.jpg", "missing")]


AWKWARD = ["Ä b", "😀", "100%", "a#b?c=d", 'quo"te', "new\nline", "<img src=x onerror=alert(1)>", "CON", "x" * 200]


@pytest.mark.parametrize("name", AWKWARD)
def test_fault_25_26_awkward_names(name, picture, tiny_split, small_input, tmp_path):
    for folder in ("class", name):
        (tmp_path / "set" / folder).mkdir(parents=True)
        picture(20, 20).save(tmp_path / "set" / folder / f"{name}.png")
    source = FolderSource(tmp_path / "set")
    result = extract(tiny_split(), source, small_input, tmp_path / "s")
    assert result.store.sample_ids == sorted([f"class/{name}.png", f"{name}/{name}.png"])
    assert set(result.store.labels) == {"class", name}


def test_fault_25_composed_and_decomposed_names_stay_two(picture, tmp_path):
    for form in ("NFC", "NFD"):
        picture(20, 20).save(tmp_path / unicodedata.normalize(form, "é.png"))
    source = FolderSource(tmp_path)
    assert len(set(source.ids)) == len(list(tmp_path.iterdir()))
    assert all(sample.image.size == (20, 20) for sample in source)


def test_fault_25_name_that_is_not_utf8(picture, tiny_split, small_input, tmp_path):
    data = encoded(picture(20, 20), "PNG")
    try:
        (tmp_path / os.fsdecode(b"caf\xe9.png")).write_bytes(data)
    except OSError:
        pytest.skip("this file system takes UTF-8 names only")
    result = extract(tiny_split(), tmp_path, small_input, tmp_path / "s")
    assert result.store.sample_ids == ["caf\\xe9.png"]
    result.store.sample_ids[0].encode("utf-8")


def test_fault_27_odd_class_folders_stay_apart(picture, tmp_path):
    names = ["con", "a_b", "a b", "A b", "a%2Fb", "y" * 250]
    for name in names:
        (tmp_path / name).mkdir()
        picture(8, 8).save(tmp_path / name / "1.png")
    source = FolderSource(tmp_path)
    assert source.labels == sorted(names)
    assert len(set(source.ids)) == len(names)


def test_fault_28_same_name_in_two_classes(image_folder):
    assert FolderSource(image_folder(ants=1, bees=1)).ids == ["ants/0.jpg", "bees/0.jpg"]


def test_fault_29_same_content_in_two_classes_is_reported(image_folder):
    root = image_folder(ants=2, bees=1)
    (root / "bees" / "copy.jpg").write_bytes((root / "ants" / "1.jpg").read_bytes())
    assert duplicate_files(FolderSource(root).paths) == [(str(root / "ants/1.jpg"), str(root / "bees/copy.jpg"))]


@pytest.mark.parametrize("images", [[], "folder"])
def test_fault_30_empty_dataset_is_refused_before_the_model_runs(images, tiny_split, small_input, tmp_path):
    (tmp_path / "folder").mkdir()
    halves = tiny_split()
    with pytest.raises(SourceError, match="empty|no image"):
        extract(halves, tmp_path / "folder" if images else [], small_input, tmp_path / "s")
    assert halves.batches == []
    assert not (tmp_path / "s").exists()


def test_fault_31_class_without_images_is_listed(image_folder):
    root = image_folder(ants=1)
    (root / "wasps").mkdir()
    source = as_source(root)
    assert source.class_counts == {"ants": 1, "wasps": 0}
    assert len(source) == 1


def test_scan_of_a_deep_loop_is_quick(image_folder):
    root = image_folder(ants=2)
    for number in range(5):
        (root / "ants" / f"loop{number}").symlink_to(root / "ants")
    start = time.perf_counter()
    assert len(FolderSource(root)) == 2
    assert time.perf_counter() - start < 2
