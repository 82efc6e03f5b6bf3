"""Every picture a folder may hold comes out upright and in the right colours, or as an error with a reason."""

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image, ImageCms, TiffImagePlugin

from raylib.errors import ImageError
from raylib.io.images import decode

LIMIT = 4_000_000


@pytest.fixture(scope="module")
def picture() -> np.ndarray:
    """Smooth, asymmetric in both axes, different in each channel: orientation and colour mistakes show."""
    y, x = np.mgrid[0:48, 0:64]
    return np.stack([x * 4, y * 5, 255 - x * 2 - y * 2], axis=-1).clip(0, 255).astype(np.uint8)


def encode(image: Image.Image, file_format: str, **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, file_format, **options)
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("file_format", "options", "tolerance"),
    [
        ("PNG", {}, 0),
        ("BMP", {}, 0),
        ("TIFF", {}, 0),
        ("TIFF", {"compression": "tiff_lzw"}, 0),
        ("WEBP", {"lossless": True}, 0),
        ("JPEG", {"quality": 97}, 12),
        ("AVIF", {"quality": 95}, 12),
        ("HEIF", {"quality": 95}, 12),
        ("GIF", {}, 40),
    ],
)
def test_formats_keep_the_pixels(picture, file_format, options, tolerance):
    import pillow_heif

    pillow_heif.register_heif_opener()
    got = decode(encode(Image.fromarray(picture), file_format, **options), LIMIT).rgb
    assert got.shape == picture.shape and got.dtype == np.uint8
    assert np.abs(got.astype(int) - picture).max() <= tolerance


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_turns_the_picture_upright(picture, orientation):
    stored = {
        1: lambda a: a,
        2: lambda a: a[:, ::-1],
        3: lambda a: a[::-1, ::-1],
        4: lambda a: a[::-1],
        5: lambda a: a.transpose(1, 0, 2),
        6: lambda a: np.rot90(a, 1),
        7: lambda a: a[::-1, ::-1].transpose(1, 0, 2),
        8: lambda a: np.rot90(a, -1),
    }[orientation](picture)
    exif = Image.Exif()
    exif[0x0112] = orientation
    got = decode(encode(Image.fromarray(np.ascontiguousarray(stored)), "PNG", exif=exif), LIMIT).rgb
    np.testing.assert_array_equal(got, picture)


def test_grey_palette_bilevel_and_alpha(picture):
    grey = Image.fromarray(picture).convert("L")
    got = decode(encode(grey, "PNG"), LIMIT).rgb
    np.testing.assert_array_equal(got, np.repeat(np.asarray(grey)[..., None], 3, axis=-1))
    palette = Image.fromarray(picture).quantize(32)
    np.testing.assert_array_equal(decode(encode(palette, "PNG"), LIMIT).rgb, np.asarray(palette.convert("RGB")))
    assert set(np.unique(decode(encode(grey.convert("1"), "PNG"), LIMIT).rgb)) == {0, 255}
    rgba = np.dstack([picture, np.full(picture.shape[:2], 255, np.uint8)])
    rgba[:, :10, 3] = 0
    got = decode(encode(Image.fromarray(rgba), "PNG"), LIMIT).rgb
    assert (got[:, :10] == 255).all()
    np.testing.assert_array_equal(got[:, 10:], picture[:, 10:])


def test_sixteen_bits_keep_the_range(picture):
    grey = picture[..., 0].astype(np.uint16) * 257
    for file_format in ("PNG", "TIFF"):
        got = decode(encode(Image.fromarray(grey), file_format), LIMIT).rgb
        np.testing.assert_array_equal(got[..., 0], picture[..., 0])
    unit = Image.fromarray(picture[..., 0].astype(np.float32) / 255)
    assert np.abs(decode(encode(unit, "TIFF"), LIMIT).rgb[..., 0].astype(int) - picture[..., 0]).max() <= 1
    assert decode(_png_rgb16(picture), LIMIT).rgb.tolist() == picture.tolist()


def _png_rgb16(picture: np.ndarray) -> bytes:
    height, width = picture.shape[:2]
    rows = (picture.astype(">u2") * 257).astype(">u2").reshape(height, -1)
    raw = b"".join(b"\0" + row.tobytes() for row in rows)

    def chunk(name: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 16, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(raw)) + chunk(b"IEND", b"")


def test_cmyk_lab_and_colour_profiles(picture):
    image = Image.fromarray(picture)
    got = decode(encode(image.convert("CMYK"), "JPEG", quality=98), LIMIT).rgb
    assert np.abs(got.astype(int) - picture).mean() < 4
    lab = ImageCms.profileToProfile(
        image, ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB"), outputMode="LAB"
    )
    assert np.abs(decode(encode(lab, "TIFF"), LIMIT).rgb.astype(int) - picture).mean() < 3
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    assert np.abs(decode(encode(image, "PNG", icc_profile=srgb), LIMIT).rgb.astype(int) - picture).max() <= 2
    broken = decode(encode(image, "PNG", icc_profile=b"no profile at all"), LIMIT).rgb
    np.testing.assert_array_equal(broken, picture)


def test_first_frame_of_an_animation(picture):
    frames = [Image.fromarray(picture), Image.fromarray(255 - picture)]
    data = encode(frames[0], "GIF", save_all=True, append_images=frames[1:])
    assert np.abs(decode(data, LIMIT).rgb.astype(int) - picture).mean() < 20


def test_focal_length_from_exif(picture):
    exif = Image.Exif()
    exif.get_ifd(0x8769)[0xA405] = 50
    image = decode(encode(Image.fromarray(picture), "JPEG", exif=exif), LIMIT)
    assert image.focal_px == pytest.approx(50 / 43.2666 * np.hypot(48, 64), rel=1e-4)
    assert decode(encode(Image.fromarray(picture), "JPEG"), LIMIT).focal_px is None


def test_broken_exif_is_ignored(picture):
    data = encode(Image.fromarray(picture), "JPEG", exif=b"Exif\0\0MM\0*\0\0\0\x08\xff\xff garbage")
    assert decode(data, LIMIT).rgb.shape == picture.shape


def test_a_bomb_is_refused_by_its_header():
    header = struct.pack(">IIBBBBB", 30_000, 30_000, 8, 2, 0, 0, 0)
    chunk = struct.pack(">I", 13) + b"IHDR" + header + struct.pack(">I", zlib.crc32(b"IHDR" + header))
    bomb = b"\x89PNG\r\n\x1a\n" + chunk + struct.pack(">I", 0) + b"IDAT" + struct.pack(">I", zlib.crc32(b"IDAT"))
    with pytest.raises(ImageError) as caught:
        decode(bomb, LIMIT)
    assert caught.value.status == "too_large" and "30000 x 30000" in caught.value.message


@pytest.mark.parametrize("share", [0.01, 0.1, 0.3, 0.7])
@pytest.mark.parametrize("file_format", ["PNG", "JPEG", "WEBP", "TIFF", "BMP"])
def test_truncated_files_are_decode_errors(picture, file_format, share):
    data = encode(Image.fromarray(picture), file_format)
    with pytest.raises(ImageError) as caught:
        decode(data[: max(1, int(share * len(data)))], LIMIT)
    assert caught.value.status == "decode_error"
    assert "0x" not in caught.value.message  # an address would make two runs differ


@pytest.mark.parametrize("data", [b"", b"just text", b"%PDF-1.4 not a picture", b"\x89PNG\r\n\x1a\n"])
def test_what_is_no_image_is_a_decode_error(data):
    with pytest.raises(ImageError) as caught:
        decode(data, LIMIT)
    assert caught.value.status == "decode_error" and caught.value.message


def test_image_errors_survive_pickling():
    import pickle

    error = pickle.loads(pickle.dumps(ImageError("too_large", "why")))
    assert (error.status, error.message) == ("too_large", "why")


def test_tiff_with_a_strange_bit_depth_is_no_crash(picture):
    info = TiffImagePlugin.ImageFileDirectory_v2()
    info[258] = (3, 3, 3)
    data = encode(Image.fromarray(picture), "TIFF", tiffinfo=info)
    try:
        decode(data, LIMIT)
    except ImageError as error:
        assert error.status == "decode_error"
