"""Colours, ranges, frames and broken ends: the same picture comes out of every file that holds it."""

import io
import struct
import zlib
from pathlib import Path

import numpy as np
import pillow_heif
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageCms, TiffImagePlugin

from raylib.errors import ImageError
from raylib.io.images import decode

LIMIT = 4_000_000
CASES = Path(__file__).parents[1] / "../shared/cases"
P3 = (0.3127, 0.3290, 0.680, 0.320, 0.265, 0.690, 0.150, 0.060)
needs_cases = pytest.mark.skipif(not CASES.is_dir(), reason="needs ../shared/cases")

pillow_heif.register_heif_opener()


@pytest.fixture(scope="module")
def picture() -> np.ndarray:
    """Smooth, asymmetric, unlike in each channel, and bright enough to fill its range."""
    y, x = np.mgrid[0:160, 0:128]
    return np.stack([x * 2, y * 1.6, 255 - x - y * 0.8], axis=-1).clip(0, 255).astype(np.uint8)


def encode(image: Image.Image, file_format: str, **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, file_format, **options)
    return buffer.getvalue()


def rgb(data: bytes) -> np.ndarray:
    return decode(data, LIMIT).rgb.astype(int)


def with_chunks(png: bytes, *chunks: tuple[bytes, bytes]) -> bytes:
    """Puts chunks behind the header of a PNG."""
    made = b"".join(
        struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))
        for name, body in chunks
    )
    return png[:33] + made + png[33:]


def icc(space: bytes, curve: bytes, columns: np.ndarray | None = None, pcs: bytes = b"XYZ ", **more: bytes) -> bytes:
    """A minimal ICC profile, written here and not by the code under test."""
    tags = {"wtpt": b"XYZ \0\0\0\0" + struct.pack(">3i", 63190, 65536, 54061), **more}
    if columns is not None:
        for name, column in zip("rgb", np.asarray(columns).T, strict=True):
            tags[f"{name}XYZ"] = b"XYZ \0\0\0\0" + struct.pack(">3i", *(round(v * 65536) for v in column))
            tags[f"{name}TRC"] = curve
    elif curve:
        tags["kTRC"] = curve
    at, table, bodies = 132 + 12 * len(tags), struct.pack(">I", len(tags)), b""
    for name, body in tags.items():
        table += name.encode() + struct.pack(">II", at + len(bodies), len(body))
        bodies += body + bytes(-len(body) % 4)
    kind = b"prtr" if space == b"CMYK" else b"mntr"
    head = struct.pack(
        ">I4sI4s4s4s12s4s", 128 + len(table) + len(bodies), b"", 0x02400000, kind, space, pcs, b"", b"acsp"
    )
    head += bytes(28) + struct.pack(">3i", 63190, 65536, 54061)
    return head.ljust(128, b"\0") + table + bodies


def gamma_curve(gamma: float) -> bytes:
    return b"curv\0\0\0\0" + struct.pack(">IH", 1, round(gamma * 256))


# Red, green and blue of BT.709 adapted to D50, as columns; swapped they make a profile nobody can overlook.
BT709_D50 = np.array([[0.4361, 0.3851, 0.1431], [0.2225, 0.7169, 0.0606], [0.0139, 0.0971, 0.7141]])
SWAPPED = icc(b"RGB ", gamma_curve(2.2), BT709_D50[:, [2, 0, 1]])
LINEAR = icc(b"RGB ", gamma_curve(1.0), BT709_D50)
GREY_LINEAR = icc(b"GRAY", gamma_curve(1.0))


def srgb_of(linear: np.ndarray) -> np.ndarray:
    return 255 * np.where(linear <= 0.0031308, linear * 12.92, 1.055 * np.maximum(linear, 1e-9) ** (1 / 2.4) - 0.055)


def linear_of(srgb: np.ndarray) -> np.ndarray:
    share = srgb / 255
    return np.where(share <= 0.04045, share / 12.92, ((share + 0.055) / 1.055) ** 2.4)


def from_primaries(linear: np.ndarray, corners) -> np.ndarray:
    """Linear light of other primaries with the white of sRGB, in sRGB, clipped."""

    def matrix(values) -> np.ndarray:
        x, y = np.array(values).reshape(4, 2).T
        xyz = np.stack([x, y, 1 - x - y]) / y
        return xyz[:, 1:] * np.linalg.solve(xyz[:, 1:], xyz[:, 0])

    srgb = (0.3127, 0.3290, 0.64, 0.33, 0.30, 0.60, 0.15, 0.06)
    return srgb_of(np.clip(linear @ np.linalg.solve(matrix(srgb), matrix(corners)).T, 0, 1))


@needs_cases
def test_shared_cases():
    def case(name: str):
        return decode((CASES / name).read_bytes(), LIMIT)

    np.testing.assert_array_equal(case("p3_rgba.png").rgb, case("p3_rgb.png").rgb)
    good, one_over = case("float_good.tif").rgb, case("float_one_pixel_over_1.tif").rgb
    assert (good != one_over).any(axis=2).sum() <= 1 and good.mean() > 100
    cut = case("jpeg_without_eoi.jpg")
    assert cut.warning and "256 of 256 rows" in cut.warning
    face = case("face.pgm")
    assert face.format == "PPM" and face.rgb.std() > 20 and face.warning is None
    for name in ("list.tsv", "binary.parquet", "one.zip"):
        with pytest.raises(ImageError, match="not an image in a known format"):
            case(name)


@needs_cases
@pytest.mark.parametrize("file_format", ["PNG", "TIFF", "WEBP", "AVIF", "HEIF"])
def test_display_p3_with_alpha_is_display_p3(file_format):
    source = Image.open(CASES / "p3_rgb.png")
    profile, image = source.info["icc_profile"], source.convert("RGB")
    options = (
        {"lossless": True} if file_format == "WEBP" else {"quality": 95} if file_format in ("AVIF", "HEIF") else {}
    )
    opaque = rgb(encode(image, file_format, icc_profile=profile, **options))
    image.putalpha(255)
    assert np.abs(rgb(encode(image, file_format, icc_profile=profile, **options)) - opaque).mean() < 1.0


CONTAINERS = [
    ("PNG", {}, 0),
    ("TIFF", {}, 0),
    ("TIFF", {"compression": "tiff_deflate"}, 0),
    ("BMP", {}, 0),
    ("WEBP", {"lossless": True}, 0),
    ("PPM", {}, 0),
    ("TGA", {}, 0),
    ("TGA", {"compression": "tga_rle"}, 0),
    ("TGA", {"orientation": 1}, 0),
    ("JPEG2000", {}, 0),
    ("JPEG2000", {"no_jp2": True}, 0),
    ("JPEG2000", {"irreversible": True, "quality_layers": [8]}, 12),
    ("JPEG", {"quality": 97}, 12),
    ("AVIF", {"quality": 95}, 12),
    ("HEIF", {"quality": 95}, 12),
]


@pytest.mark.parametrize(("file_format", "options", "tolerance"), CONTAINERS)
def test_every_container_gives_the_same_colours(picture, file_format, options, tolerance):
    decoded = decode(encode(Image.fromarray(picture), file_format, **options), LIMIT)
    assert np.abs(decoded.rgb.astype(int) - picture).max() <= tolerance
    assert decoded.format == file_format and decoded.warning is None


@pytest.mark.parametrize("profile", [SWAPPED, LINEAR], ids=["swapped", "linear"])
@pytest.mark.parametrize("file_format", ["PNG", "TIFF", "WEBP", "JPEG", "AVIF", "HEIF"])
def test_a_profile_holds_in_every_container(picture, file_format, profile):
    options = (
        {"lossless": True} if file_format == "WEBP" else {} if file_format in ("PNG", "TIFF") else {"quality": 97}
    )
    got = rgb(encode(Image.fromarray(picture), file_format, icc_profile=profile, **options))
    # In the swapped profile red means blue, green means red, blue means green.
    swapped = srgb_of((picture / 255) ** 2.2)[..., [1, 2, 0]]
    expected = srgb_of(picture / 255) if profile is LINEAR else swapped
    assert np.abs(got - expected).mean() < (1 if file_format in ("PNG", "TIFF", "WEBP") else 5)


@pytest.mark.parametrize("file_format", ["PNG", "TIFF", "WEBP", "AVIF", "HEIF"])
def test_conversion_commutes_with_opaque_alpha(picture, file_format):
    options = (
        {"lossless": True} if file_format == "WEBP" else {"quality": 95} if file_format in ("AVIF", "HEIF") else {}
    )
    image = Image.fromarray(picture)
    opaque = rgb(encode(image, file_format, icc_profile=SWAPPED, **options))
    image.putalpha(255)
    with_alpha = rgb(encode(image, file_format, icc_profile=SWAPPED, **options))
    assert np.abs(with_alpha - opaque).mean() < (1.0 if options.get("quality") else 1e-9)
    alpha = Image.fromarray(np.tile(np.linspace(0, 255, 128).astype(np.uint8), (160, 1)))
    image.putalpha(alpha)
    mixed = rgb(encode(image, file_format, icc_profile=SWAPPED, **options))
    share = np.asarray(alpha)[..., None] / 255
    assert np.abs(mixed - (opaque * share + 255 * (1 - share))).mean() < (2.0 if options.get("quality") else 1.0)


def test_a_profile_holds_for_palettes_whole(picture):
    palette = Image.fromarray(picture).quantize(64)
    expected = rgb(encode(palette.convert("RGB"), "PNG", icc_profile=SWAPPED))
    np.testing.assert_array_equal(rgb(encode(palette, "PNG", icc_profile=SWAPPED)), expected)
    np.testing.assert_array_equal(rgb(encode(palette, "TIFF", icc_profile=SWAPPED)), expected)
    index = int(np.asarray(palette)[0, 0])
    got = rgb(encode(palette, "PNG", icc_profile=SWAPPED, transparency=index))
    hidden = np.asarray(palette) == index
    assert (got[hidden] == 255).all()
    np.testing.assert_array_equal(got[~hidden], expected[~hidden])


def test_profiles_of_grey(picture):
    grey = Image.fromarray(picture[..., 0])
    expected = np.repeat(srgb_of(picture[..., :1] / 255), 3, axis=2)
    deep = Image.fromarray(picture[..., 0].astype(np.uint16) * 257)
    for image in (grey, deep):
        for file_format in ("PNG", "TIFF"):
            assert np.abs(rgb(encode(image, file_format, icc_profile=GREY_LINEAR)) - expected).max() <= 1
    with_alpha = grey.convert("LA")
    for file_format in ("PNG", "TIFF"):
        assert np.abs(rgb(encode(with_alpha, file_format, icc_profile=GREY_LINEAR)) - expected).max() <= 1
    # A profile of colours on grey, as scanners write it, and one of grey on colours, which says nothing of them.
    assert np.abs(rgb(encode(grey, "PNG", icc_profile=LINEAR)) - expected).max() <= 1
    decoded = decode(encode(Image.fromarray(picture), "PNG", icc_profile=GREY_LINEAR), LIMIT)
    np.testing.assert_array_equal(decoded.rgb, picture)
    assert decoded.warning and "one of grey" in decoded.warning


def test_cmyk_through_its_profile_also_inverted(picture):
    # Two points a channel: a press on which only black ink prints.
    grid = b"".join(bytes((0 if corner & 1 else 255, 128, 128)) for corner in range(16))
    ramp = bytes(range(256))
    matrix = struct.pack(">9i", 65536, 0, 0, 0, 65536, 0, 0, 0, 65536)
    table = b"mft1\0\0\0\0" + bytes((4, 3, 2, 0)) + matrix + ramp * 4 + grid + ramp * 3
    profile = icc(b"CMYK", b"", None, b"Lab ", A2B0=table)
    inks = np.dstack([picture, picture[..., 0]])
    image = Image.fromarray(inks, "CMYK")
    only_black = decode(encode(image, "TIFF", icc_profile=profile), LIMIT)
    assert only_black.warning is None
    got = only_black.rgb.astype(int)
    assert np.abs(got - got[..., :1]).max() <= 3  # the other inks do not print
    assert (np.diff(got[0, :, 0]) <= 0).all() and got[0, 0, 0] > 250 and got[0, -1, 0] < 10
    jpeg = rgb(encode(image, "JPEG", icc_profile=profile, quality=97))  # Pillow writes Adobe's inverted inks
    assert np.abs(jpeg - got).mean() < 4


def test_lab_with_a_profile_of_something_else(picture):
    lab = ImageCms.profileToProfile(
        Image.fromarray(picture), ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB"), outputMode="LAB"
    )
    assert np.abs(rgb(encode(lab, "TIFF", icc_profile=SWAPPED)) - picture).mean() < 3


def test_gamma_and_chromaticities_of_png(picture):
    png = encode(Image.fromarray(picture), "PNG")
    gama = {g: (b"gAMA", struct.pack(">I", round(g * 100_000))) for g in (1.0, 0.45455, 0.55, 0.0)}
    chrm = (b"cHRM", struct.pack(">8I", *(round(v * 100_000) for v in P3)))
    assert np.abs(rgb(with_chunks(png, gama[1.0])) - srgb_of(picture / 255)).max() <= 1.5
    np.testing.assert_array_equal(rgb(with_chunks(png, gama[0.45455])), picture)
    assert np.abs(rgb(with_chunks(png, gama[0.55])) - srgb_of((picture / 255) ** (1 / 0.55))).max() <= 2
    wide = rgb(with_chunks(png, gama[0.45455], chrm))
    assert np.abs(wide - from_primaries(linear_of(picture), P3)).max() <= 3
    # cICP before iCCP before sRGB before gAMA and cHRM.
    srgb, cicp = (b"sRGB", b"\0"), (b"cICP", bytes((12, 13, 0, 1)))
    np.testing.assert_array_equal(rgb(with_chunks(png, gama[1.0], chrm, srgb)), picture)
    profiled = encode(Image.fromarray(picture), "PNG", icc_profile=SWAPPED)
    np.testing.assert_array_equal(rgb(with_chunks(profiled, gama[1.0], chrm, srgb)), rgb(profiled))
    np.testing.assert_array_equal(rgb(with_chunks(profiled, gama[1.0], srgb, cicp)), rgb(with_chunks(png, cicp)))
    broken = decode(with_chunks(png, gama[0.0]), LIMIT)
    np.testing.assert_array_equal(broken.rgb, picture)
    assert broken.warning and "gamma" in broken.warning
    grey = encode(Image.fromarray(picture[..., 0].astype(np.uint16) * 257), "PNG")
    assert np.abs(rgb(with_chunks(grey, gama[1.0]))[..., 0] - srgb_of(picture[..., 0] / 255)).max() <= 1.5


def test_code_points_of_png(picture):
    png = encode(Image.fromarray(picture), "PNG")

    def coded(primaries: int, transfer: int, full: int = 1) -> np.ndarray:
        return rgb(with_chunks(png, (b"cICP", bytes((primaries, transfer, 0, full)))))

    np.testing.assert_array_equal(coded(1, 13), picture)
    assert np.abs(coded(12, 13) - from_primaries(linear_of(picture), P3)).max() <= 3
    bt2020 = (0.3127, 0.3290, 0.708, 0.292, 0.170, 0.797, 0.131, 0.046)
    assert np.abs(coded(9, 8) - from_primaries(picture / 255, bt2020)).max() <= 3
    # PQ: 203 nits are at a signal of 0.58, HLG: at 0.75; both are white then, darker is darker, brighter stays white.
    ramp = np.repeat(np.arange(256, dtype=np.uint8)[None, :, None], 3, axis=2).repeat(4, axis=0)
    for transfer, white in ((16, 0.581), (18, 0.75)):
        data = with_chunks(encode(Image.fromarray(ramp), "PNG"), (b"cICP", bytes((9, transfer, 0, 1))))
        got = rgb(data)[0]
        assert np.abs(got - got[:, :1]).max() <= 1 and (np.diff(got[:, 0]) >= 0).all()
        first_white = int(np.argmax(got[:, 0] >= 254))
        assert abs(first_white / 255 - white) < 0.02
        assert got[int(first_white * 0.7), 0] < 200
    narrow = with_chunks(encode(Image.fromarray(ramp), "PNG"), (b"cICP", bytes((1, 13, 0, 0))))
    got = rgb(narrow)[0, :, 0]
    assert got[16] <= 1 and got[235] >= 254 and got[125] == pytest.approx(127, abs=2)


@pytest.mark.parametrize("file_format", ["AVIF", "HEIF"])
def test_code_points_of_avif_and_heif(picture, file_format):
    image = Image.fromarray(picture)
    plain = encode(image, file_format, quality=95)
    if file_format == "HEIF":
        coded = encode(image, file_format, quality=95, color_primaries=12, transfer_characteristics=13)
    else:
        at = plain.index(b"colrnclx") + 8
        coded = plain[:at] + struct.pack(">HH", 12, 13) + plain[at + 4 :]
    assert np.abs(rgb(plain) - picture).mean() < 3
    assert np.abs(rgb(coded) - from_primaries(linear_of(rgb(plain)), P3)).mean() < 2


def test_profile_of_jpeg_2000(picture):
    data = encode(Image.fromarray(picture), "JPEG2000")
    at = data.index(b"colr") - 4
    (size,) = struct.unpack_from(">I", data, at)
    box = struct.pack(">I", 11 + len(LINEAR)) + b"colr\2\0\0" + LINEAR
    header = data.index(b"jp2h") - 4
    (length,) = struct.unpack_from(">I", data, header)
    grown = struct.pack(">I", length + len(box) - size)
    data = data[:header] + grown + data[header + 4 : at] + box + data[at + size :]
    assert np.abs(rgb(data) - srgb_of(picture / 255)).max() <= 1.5


def test_adobe_rgb_by_exif(picture):
    ifds = ((0x8769, 4, 1, struct.pack("<I", 26)), (0xA005, 4, 1, struct.pack("<I", 44)), (1, 2, 4, b"R03\0"))
    exif = b"Exif\0\0II*\0" + struct.pack("<I", 8)
    for tag, kind, count, value in ifds:
        exif += struct.pack("<HHHI", 1, tag, kind, count) + value + bytes(4)
    got = rgb(encode(Image.fromarray(picture), "JPEG", quality=97, exif=exif))
    adobe = (0.3127, 0.3290, 0.64, 0.33, 0.21, 0.71, 0.15, 0.06)
    assert np.abs(got - from_primaries((picture / 255) ** (563 / 256), adobe)).mean() < 4


@pytest.mark.parametrize("bits", [8, 10, 12, 14, 16])
@pytest.mark.parametrize("file_format", ["PNG", "TIFF", "PPM"])
def test_fewer_bits_in_sixteen_are_as_bright(picture, file_format, bits):
    values = np.round(picture[..., 0] / 255.0 * (2**bits - 1)).astype(np.uint16)
    values[3, 5] = 2**bits - 1
    got = rgb(encode(Image.fromarray(values), file_format))[..., 0]
    assert np.abs(got - picture[..., 0])[values != 2**bits - 1].max() <= 1
    values[7, 7] = 65535  # a hot pixel changes no other
    again = rgb(encode(Image.fromarray(values), file_format))[..., 0]
    assert (again != got).sum() <= 1


@pytest.mark.parametrize("bits", [10, 12, 16])
def test_fewer_bits_in_sixteen_of_colours(picture, bits):
    values = np.round(picture / 255.0 * (2**bits - 1)).astype(">u2")
    height, width = values.shape[:2]
    rows = b"".join(b"\0" + row.tobytes() for row in values)
    header = (b"IHDR", struct.pack(">IIBBBBB", width, height, 16, 2, 0, 0, 0))
    png = with_chunks(b"\x89PNG\r\n\x1a\n".ljust(33), header, (b"IDAT", zlib.compress(rows)), (b"IEND", b""))
    png = png[:8] + png[33:]
    assert np.abs(rgb(png) - picture).max() <= 1
    info = TiffImagePlugin.ImageFileDirectory_v2()
    info[258] = (16, 16, 16)
    eight = encode(Image.fromarray(picture.repeat(2, axis=1)), "TIFF")  # room for twice the bytes
    with Image.open(io.BytesIO(eight)) as opened:
        start = opened.tag_v2[273][0]
    raw = bytearray(eight)
    raw[start : start + values.nbytes] = values.astype("<u2").tobytes()
    for tag, value in ((256, width), (258, 16)):
        entry = bytes(raw).index(struct.pack("<H", tag), 8)
        if tag == 256:
            raw[entry + 8 : entry + 12] = struct.pack("<I", value)
        else:
            (place,) = struct.unpack_from("<I", raw, entry + 8)
            raw[place : place + 6] = struct.pack("<3H", 16, 16, 16)
    assert np.abs(rgb(bytes(raw)) - picture).max() <= 1


def test_a_file_that_names_its_range_is_believed(picture):
    dark = (picture[..., 0] // 4).astype(np.uint16) * 16  # a dark picture of 12 bits
    expected = np.round(dark / 4095 * 255)
    for tag in (281, 341):
        info = TiffImagePlugin.ImageFileDirectory_v2()
        info[tag] = 4095
        info.tagtype[tag] = 3
        assert np.abs(rgb(encode(Image.fromarray(dark), "TIFF", tiffinfo=info))[..., 0] - expected).max() <= 1
    pgm = b"P5\n# a comment\n128 160\n4095\n" + dark.astype(">u2").tobytes()
    assert np.abs(rgb(pgm)[..., 0] - expected).max() <= 1
    plain = b"P2 128 160 4095\n" + b" ".join(str(v).encode() for v in dark.ravel())
    assert np.abs(rgb(plain)[..., 0] - expected).max() <= 1


OUTLIERS = [1.02, 40.0, 1e30, np.inf, -np.inf, np.nan, -5.0]


@pytest.mark.parametrize("scale", [1.0, 255.0, 65535.0])
def test_outliers_do_not_darken_a_float_picture(picture, scale):
    values = picture[..., 0].astype(np.float32) / 255 * np.float32(scale)
    clean = rgb(encode(Image.fromarray(values), "TIFF"))[..., 0]
    assert np.abs(clean - picture[..., 0]).max() <= 1
    values.ravel()[: len(OUTLIERS)] = np.array(OUTLIERS) * scale
    for file_format in ("TIFF", "PPM"):
        got = rgb(encode(Image.fromarray(values), file_format))[..., 0]
        np.testing.assert_array_equal(got.ravel()[len(OUTLIERS) :], clean.ravel()[len(OUTLIERS) :])
        assert got.ravel()[3] == 255 and got.ravel()[5] == 0


@given(st.floats(0.4, 1.0), st.sampled_from([1.0, 255.0, 65535.0]))
@settings(max_examples=25, deadline=None)
def test_scaling_a_float_picture_scales_its_brightness(factor, scale):
    ramp = np.tile(np.linspace(0, 1, 256, dtype=np.float32), (8, 1))
    got = rgb(encode(Image.fromarray(ramp * np.float32(scale * factor)), "TIFF"))[..., 0]
    assert np.abs(got - ramp * factor * 255).max() <= 1


def test_integers_of_32_bits(picture):
    grey = picture[..., 0]
    for factor in (1, 257, 2**23):
        got = rgb(encode(Image.fromarray(grey.astype(np.int32) * factor), "TIFF"))[..., 0]
        assert np.abs(got - grey * (255 / grey.max() if factor == 2**23 else 1)).max() <= 1
    nothing = rgb(encode(Image.fromarray(np.full((8, 8), np.nan, np.float32)), "TIFF"))
    assert (nothing == 0).all()


@pytest.mark.parametrize("file_format", ["WEBP", "PNG", "GIF"])
def test_empty_first_frames_are_passed_over(picture, file_format):
    shown = Image.fromarray(picture).convert("RGBA")
    empty = Image.new("RGBA", shown.size, (0, 0, 0, 0))
    black = Image.new("RGBA", shown.size, (0, 0, 0, 255))
    options = {"lossless": True} if file_format == "WEBP" else {}
    for before in ([empty], [empty, black], [black]):
        frames = [*before, shown, Image.fromarray(255 - picture).convert("RGBA")]
        data = encode(frames[0], file_format, save_all=True, append_images=frames[1:], duration=50, **options)
        decoded = decode(data, LIMIT)
        assert np.abs(decoded.rgb.astype(int) - picture).mean() < (20 if file_format == "GIF" else 1)
        assert decoded.warning and f"frame {len(before) + 1}" in decoded.warning
    frames = [shown, empty]
    data = encode(shown, file_format, save_all=True, append_images=frames[1:], duration=50, **options)
    assert decode(data, LIMIT).warning is None
    nothing = encode(empty, file_format, save_all=True, append_images=[black], duration=50, **options)
    assert decode(nothing, LIMIT).warning is None


def noisy(height: int = 640, width: int = 480) -> np.ndarray:
    y, x = np.mgrid[0:height, 0:width]
    smooth = np.stack([x * 0.5, y * 0.38, 255 - x * 0.2 - y * 0.2], axis=-1)
    return (smooth + np.random.default_rng(0).normal(0, 6, smooth.shape)).clip(0, 255).astype(np.uint8)


BREAKING = [
    ("JPEG", {}),
    ("JPEG", {"progressive": True}),
    ("JPEG", {"restart_marker_rows": 1}),
    ("JPEG", {"subsampling": 0}),
    ("PNG", {}),
    ("TIFF", {}),
    ("BMP", {}),
    ("WEBP", {}),
    ("WEBP", {"lossless": True}),
    ("GIF", {}),
    ("TGA", {}),
    ("TGA", {"compression": "tga_rle"}),
    ("PPM", {}),
    ("AVIF", {}),
    ("HEIF", {}),
]


@pytest.mark.parametrize(("file_format", "options"), BREAKING)
def test_what_lacks_its_end_is_used_by_its_rows(file_format, options):
    data = encode(Image.fromarray(noisy()), file_format, **options)
    whole = rgb(data)
    for share in (0.99, 0.8):
        try:
            decoded = decode(data[: int(share * len(data))], LIMIT)
        except ImageError as error:
            assert error.status == "decode_error" and "640 rows" in error.message and "95%" in error.message
            assert share == 0.8 or file_format in ("AVIF", "HEIF")  # their blocks are 64 rows high
            continue
        assert decoded.warning and decoded.rgb.shape == whole.shape
        if "without the last scans" in decoded.warning:
            assert np.abs(decoded.rgb - whole).mean() < 8
            continue
        assert share == 0.99
        rows = int(decoded.warning.split("off: ")[1].split(" of")[0])
        same = (decoded.rgb == whole).all(axis=(1, 2)).sum()
        assert 0.95 * 640 <= rows <= same + 16  # never more than are there, but for the filter at the seam


@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"restart_marker_rows": 1}, {"quality": 30}])
def test_a_jpeg_without_its_end_marker_has_every_pixel(options):
    data = encode(Image.fromarray(noisy()), "JPEG", **options)
    for broken in (data[:-2], data[:-2] + bytes(500), data[:-1]):
        decoded = decode(broken, LIMIT)
        np.testing.assert_array_equal(decoded.rgb, rgb(data))
        assert decoded.warning and "640 of 640 rows" in decoded.warning
    # A film behind the photograph, as telephones append it, may hold any bytes.
    for behind in (b"trailing bytes", b"\xff\xda\0\0" * 9, bytes(900)):
        assert decode(data + behind, LIMIT).warning is None


def test_a_progressive_jpeg_that_lacks_whole_scans_is_an_error():
    data = encode(Image.fromarray(noisy()), "JPEG", progressive=True)
    with pytest.raises(ImageError, match="0 of 640 rows"):
        decode(data[: len(data) // 12], LIMIT)


def test_a_jpeg_2000_without_its_end_marker(picture):
    for options in ({}, {"no_jp2": True}, {"tile_size": (64, 64)}):
        data = encode(Image.fromarray(picture), "JPEG2000", **options)
        decoded = decode(data[:-2], LIMIT)
        np.testing.assert_array_equal(decoded.rgb, picture)
        assert decoded.warning
        with pytest.raises(ImageError, match="rows"):
            decode(data[: len(data) * 2 // 3], LIMIT)


def test_what_is_broken_beside_the_pixels_is_said(picture):
    image = Image.fromarray(picture)
    exif = decode(encode(image, "JPEG", exif=b"Exif\0\0MM\0*\0\0\0\x08\xff\xff garbage"), LIMIT)
    assert exif.warning and "EXIF" in exif.warning
    good = Image.Exif()
    good[0x0112] = 1
    assert decode(encode(image, "JPEG", exif=good), LIMIT).warning is None
    for profile in (b"no profile at all", SWAPPED[:90], SWAPPED[:150], icc(b"CMYK", b"")):
        for file_format in ("PNG", "TIFF", "WEBP"):
            options = {"lossless": True} if file_format == "WEBP" else {}
            decoded = decode(encode(image, file_format, icc_profile=profile, **options), LIMIT)
            np.testing.assert_array_equal(decoded.rgb, picture)
            assert decoded.warning and "profile" in decoded.warning


TEXTS = [
    b"<!DOCTYPE html><html><body>Not found</body></html>" * 20,
    "<html>utf-16 \n\n\n\n page          </html>".encode("utf-16") * 20,
    b"\0\0\1\0\1\0\x20\x20\0\0\1\0\x18\0" + bytes(500),  # an icon
    b"\0\0\0\x18ftypmp42" + bytes(500),
    b"PK\3\4" + bytes(500),
    bytes(1000),
    b"\n" * 1000,
    b"P5 is no picture but a sentence",
    b"P7\nWIDTH 4\n",
    b"\0\0\2"
    + bytes(9)
    + struct.pack("<HHBB", 3000, 3000, 24, 0)
    + bytes(5000),  # a TGA of which nearly all is missing
    b"\0\0\2\1" + bytes(8) + struct.pack("<HHBB", 4, 4, 24, 0) + bytes(48),
]


@pytest.mark.parametrize("data", TEXTS, ids=range(len(TEXTS)))
def test_foreign_bytes_are_not_taken_for_a_picture(data):
    with pytest.raises(ImageError) as caught:
        decode(data, LIMIT)
    assert caught.value.status == "decode_error" and "0x" not in caught.value.message


def test_random_bytes_are_hardly_ever_a_tga():
    draw = np.random.default_rng(3)
    taken = 0
    for _ in range(3000):
        try:
            decode(draw.bytes(600), LIMIT)
            taken += 1
        except ImageError:
            pass
    assert taken == 0


def test_bombs_of_the_new_formats_are_refused_by_their_headers(picture):
    jp2 = encode(Image.fromarray(picture), "JPEG2000")
    siz = jp2.index(b"\xff\x4f\xff\x51") + 8
    bombs = [
        b"P6 60000 60000 255\n" + bytes(100),
        b"\0\0\2" + bytes(9) + struct.pack("<HHBB", 3000, 3000, 24, 0) + bytes(3000 * 3000 * 3),
        jp2[:siz] + struct.pack(">II", 60000, 60000) + jp2[siz + 8 :],  # only the codestream tells
    ]
    for bomb in bombs:
        with pytest.raises(ImageError) as caught:
            decode(bomb, LIMIT)
        assert caught.value.status == "too_large"


def test_tga_alpha_that_its_writer_left_unused(picture):
    rgba = np.dstack([picture, np.zeros(picture.shape[:2], np.uint8)])
    data = bytearray(encode(Image.fromarray(rgba), "TGA"))
    np.testing.assert_array_equal(rgb(bytes(data)), picture)
    rgba[:, :, 3] = 255
    rgba[:40, :, 3] = 0
    half = rgb(encode(Image.fromarray(rgba), "TGA"))
    assert (half[:40] == 255).all()
    np.testing.assert_array_equal(half[40:], picture[40:])


def test_nothing_reaches_the_terminal(picture, capfd):
    info = TiffImagePlugin.ImageFileDirectory_v2()
    info[277] = 900
    image = Image.fromarray(picture)
    files = [encode(image, f) for f in ("JPEG", "PNG", "TIFF", "WEBP", "GIF", "JPEG2000", "AVIF", "HEIF")]
    files += [encode(image, "TIFF", compression=c) for c in ("tiff_lzw", "tiff_deflate", "jpeg")]
    files += [encode(image, "TIFF", tiffinfo=info), encode(image, "JPEG", exif=b"Exif\0\0II*\0\x08\0\0\0\1\0garbage")]
    draw = np.random.default_rng(0)
    for data in files:
        for _ in range(6):
            broken = bytearray(data)
            for at in draw.integers(0, len(broken), 8):
                broken[at] = draw.integers(256)
            try:
                decode(bytes(broken[: draw.integers(len(broken) // 2, len(broken))]), LIMIT)
            except ImageError:
                continue
    captured = capfd.readouterr()
    assert captured.err == "" and captured.out == ""


FUZZED = [(f, o) for f, o, _ in CONTAINERS] + [("GIF", {}), ("JPEG", {"progressive": True}), ("WEBP", {})]


@pytest.mark.parametrize(("file_format", "options"), FUZZED)
def test_mutations_raise_nothing_but_image_errors(picture, file_format, options):
    data = encode(Image.fromarray(picture[:64, :64]), file_format, **options)
    draw = np.random.default_rng(7)
    for n in range(300):
        broken = bytearray(data)
        if n % 2:
            reach = len(broken) if n % 4 == 1 else min(200, len(broken))
            for at in draw.integers(0, reach, draw.integers(1, 9)):
                broken[at] = draw.integers(256)
        if n % 3 == 0:
            broken = broken[: draw.integers(1, len(broken))]
        try:
            decoded = decode(bytes(broken), LIMIT)
        except ImageError as error:
            assert error.message and "0x" not in error.message
        else:
            assert decoded.rgb.dtype == np.uint8 and decoded.rgb.ndim == 3
