"""Pictures in requests: their size by their first bytes, and their pixels, or why not."""

import base64
import contextlib
import io
import zlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchpilot.serving.pictures.headers import side_for, side_of_part, size_of


def chunk(kind, data):
    return len(data).to_bytes(4, "big") + kind + data + zlib.crc32(kind + data).to_bytes(4, "big")


def png(width, height, *, claimed=None, shade=0):
    """A grey PNG; its header may claim another size."""
    shown = claimed or (width, height)
    header = shown[0].to_bytes(4, "big") + shown[1].to_bytes(4, "big") + bytes([8, 0, 0, 0, 0])
    rows = (b"\0" + bytes([shade]) * width) * height
    parts = (chunk(b"IHDR", header), chunk(b"IDAT", zlib.compress(rows)), chunk(b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def url_of(data, kind="image/png"):
    return f"data:{kind};base64,{base64.b64encode(data).decode()}"


def jpeg(width, height, **options):
    image = pytest.importorskip("PIL.Image", reason="Pillow comes with the extra images")
    buffer = io.BytesIO()
    image.new("RGB", (width, height), (200, 30, 30)).save(buffer, "JPEG", **options)
    return buffer.getvalue()


def decode(url, detail=None):
    pytest.importorskip("PIL", reason="Pillow comes with the extra images")
    from batchpilot.serving.pictures.decoding import decode

    return decode(url, detail)


def refusal(url):
    from batchpilot.serving.pictures.decoding import PictureError

    with pytest.raises(PictureError) as told:
        decode(url)
    return str(told.value)


@given(st.integers(1, 5000), st.integers(1, 5000))
def test_a_png_says_its_size_in_its_first_bytes(width, height):
    assert size_of(png(1, 1, claimed=(width, height))[:24]) == (width, height)


@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"exif": b"Exif\0\0" + b"x" * 60_000}])
def test_a_jpeg_says_its_size_behind_its_remarks(options):
    assert size_of(jpeg(321, 123, **options)) == (321, 123)


@given(st.binary(max_size=200))
def test_what_is_no_picture_has_no_size_and_does_no_harm(data):
    for head in (b"", b"\xff\xd8", b"\xff\xd8\xff\xe0", b"\x89PNG\r\n\x1a\n"):
        size = size_of(head + data)
        assert size is None or min(size) >= 0


@pytest.mark.parametrize(
    ("size", "detail", "side"),
    [
        ((100, 224), None, 224),
        ((225, 10), "auto", 336),
        ((337, 10), None, 448),
        ((4000, 3000), None, 448),
        ((4000, 3000), "low", 224),
        ((10, 10), "high", 448),
        (None, None, 336),
    ],
)
def test_a_picture_is_brought_to_the_smallest_side_that_loses_no_pixel_or_to_what_is_asked(size, detail, side):
    assert side_for(size, detail) == side


def test_a_part_of_a_message_tells_the_side_without_being_decoded():
    small = {"type": "image_url", "image_url": {"url": url_of(png(1, 1, claimed=(200, 200)))}}
    assert side_of_part(small) == 224
    assert side_of_part({"type": "input_image", "image_url": url_of(png(300, 300)), "detail": "auto"}) == 336
    assert side_of_part({"type": "image_url", "image_url": {"url": "https://x/y.png", "detail": "high"}}) == 448
    for wrong in ({}, {"image_url": None}, {"image_url": {"url": 3, "detail": []}}, {"image_url": "data:,%%%"}):
        assert side_of_part(wrong) == 336


def test_a_picture_is_decoded_whole_with_black_beside_what_is_no_square():
    picture = decode(url_of(png(300, 150, shade=255)))
    pixels = np.frombuffer(picture.pixels, np.uint8).reshape(336, 336, 3)
    assert picture.side_px == 336
    assert pixels[168].min() == 255
    assert pixels[0].max() == pixels[-1].max() == 0
    assert decode(url_of(jpeg(1000, 1000), "image/jpeg")).side_px == 448
    assert len(decode(url_of(png(10, 10)), "low").pixels) == 3 * 224 * 224


def test_equal_pictures_have_equal_pixels_however_they_are_written():
    assert decode(url_of(png(50, 50, shade=7))) == decode(url_of(png(50, 50, shade=7)).replace("data:", "DATA:"))
    assert decode(url_of(png(50, 50, shade=7))) != decode(url_of(png(50, 50, shade=8)))


def test_a_picture_that_claims_more_pixels_than_are_taken_is_refused_before_it_is_decoded():
    assert "100000 x 100000 pixels; at most 16,777,216" in refusal(url_of(png(1, 1, claimed=(100_000, 100_000))))
    assert "20000 x 2 pixels" in refusal(url_of(png(1, 1, claimed=(20_000, 2))))
    assert "0 x 5 pixels" in refusal(url_of(png(1, 1, claimed=(0, 5))))


@pytest.mark.parametrize(
    ("url", "told"),
    [
        ("https://example.org/cat.png", "this server fetches nothing, so send the image itself"),
        ("file:///etc/passwd", "fetches nothing"),
        ("", "fetches nothing"),
        ("data:image/gif;base64,AAAA", "must begin with data:image/png;base64, or image/jpeg"),
        ("data:image/png,AAAA", "must begin with data:image/png;base64,"),
        ("data:image/png;base64", "must begin with data:image/png;base64,"),
        ("data:image/png;base64,!!!", "no base64"),
        ("data:image/png;base64,é", "no base64"),
        ("data:image/png;base64,AAAA", "neither PNG nor JPEG"),
        (url_of(b"\xff\xd8\xff\xc0"), "neither PNG nor JPEG, or ends before it says its size"),
        (url_of(png(9, 9)[:45]), "cannot be read as PNG or JPEG"),
        (url_of(png(9, 9, claimed=(90, 90))), "cannot be read as PNG or JPEG"),
    ],
)
def test_what_is_no_picture_is_refused_in_words(url, told):
    assert told in refusal(url)


def test_more_bytes_than_are_taken_are_refused():
    assert "bytes; at most 8,388,608" in refusal("data:image/png;base64," + "A" * (12 * 2**20))


@given(st.binary(max_size=300), st.integers(0, 60))
def test_a_damaged_picture_is_read_or_refused_and_nothing_else(noise, place):
    from batchpilot.serving.pictures.decoding import PictureError

    data = png(20, 20, shade=3)
    damaged = data[: 8 + place] + noise + data[8 + place + len(noise) :]
    with contextlib.suppress(PictureError):
        assert decode(url_of(damaged)).side_px in (224, 336, 448)
