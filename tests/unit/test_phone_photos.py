"""Photos as phones, cameras and programs leave them: depths, transparent colours, metadata, kinds, pipes and linked folders."""

from __future__ import annotations

import json
import os
import socket
import struct
import subprocess
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from grace.data.images import check_images, read_image
from grace.data.listing import ENDINGS, RAW, READABLE, image_files, listing_digest
from grace.system.errors import GraceError
from tests.unit.photos import picture


def chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def png(samples: np.ndarray, bits: int, clear: tuple[int, ...] | None = None, more: bytes = b"") -> bytes:
    """A PNG of grey (samples [H, W]) or colour ([H, W, 3]) with so many bits, and a transparent colour."""
    height, width, colour = *samples.shape[:2], samples.ndim == 3
    rows = []
    for row in samples.reshape(height, -1):
        if bits == 16:
            rows.append(row.astype(">u2").tobytes())
        elif bits == 8:
            rows.append(row.astype(np.uint8).tobytes())
        else:
            ones = (row[:, None] >> np.arange(bits - 1, -1, -1)) & 1
            rows.append(np.packbits(ones.astype(np.uint8).reshape(-1)).tobytes())
    header = struct.pack(">IIBBBBB", width, height, bits, 2 if colour else 0, 0, 0, 0)
    trns = chunk(b"tRNS", struct.pack(f">{len(clear)}H", *clear)) if clear is not None else b""
    data = zlib.compress(b"".join(b"\0" + row for row in rows))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + more + trns + chunk(b"IDAT", data) + chunk(b"IEND", b"")


def pixels(path: Path) -> np.ndarray:
    image = read_image(path)
    assert image.mode == "RGB"
    return np.asarray(image).astype(int)


@pytest.mark.parametrize(("clear", "first"), [((0,), 255), ((7,), 0), (None, 0)])
def test_sixteen_bit_grey_with_a_transparent_colour(tmp_path, clear, first) -> None:
    (tmp_path / "a.png").write_bytes(png(np.array([[0, 0x4000, 0x8000, 0xC000]]), 16, clear))
    assert pixels(tmp_path / "a.png")[0, :, 0].tolist() == [first, 64, 128, 192]


@settings(max_examples=150, deadline=None)
@given(
    bits=st.sampled_from([1, 2, 4, 8, 16]), colour=st.booleans(), seed=st.integers(0, 2**32 - 1),
    clear=st.sampled_from(["one of them", "another", "none"]),
)  # fmt: skip
def test_every_depth_of_png(tmp_path_factory, bits: int, colour: bool, seed: int, clear: str) -> None:
    bits = max(bits, 8) if colour else bits
    rng, most = np.random.default_rng(seed), 2**bits - 1
    samples = rng.integers(0, most + 1, size=(3, 5, 3) if colour else (3, 5))
    chosen = (
        None
        if clear == "none"
        else samples[1, 2]
        if clear == "one of them"
        else rng.integers(0, most + 1, samples[0, 0].shape)
    )
    path = tmp_path_factory.mktemp("png") / "a.png"
    path.write_bytes(png(samples, bits, None if chosen is None else tuple(np.atleast_1d(chosen).tolist())))
    wanted = samples >> 8 if bits == 16 else samples * 255 // most
    if chosen is not None:
        # of 16-bit colours Pillow keeps the high bytes: those are compared
        same = (samples >> 8 == chosen >> 8) if colour and bits == 16 else samples == chosen
        wanted = np.where(same.all(-1, keepdims=True) if colour else same, 255, wanted)
    found = pixels(path)
    assert (found == (wanted if colour else wanted[..., None])).all()


def test_tiff_of_twelve_and_sixteen_bits_and_of_white_zero(tmp_path) -> None:
    grey = np.array([[0, 0x4000, 0x8000, 0xC000]], dtype=np.uint16)
    Image.fromarray(grey).save(tmp_path / "a.tif")
    assert pixels(tmp_path / "a.tif")[0, :, 0].tolist() == [0, 64, 128, 192]
    Image.fromarray(grey).save(tmp_path / "b.tif", tiffinfo={262: 0})
    assert pixels(tmp_path / "b.tif")[0, :, 0].tolist() == [255, 191, 127, 63]


def test_a_png_with_large_metadata_is_sound(tmp_path) -> None:
    samples = np.array([[10, 20], [30, 40]])
    large = os.urandom(1000) * 5000
    profile = chunk(b"iCCP", b"name\0\0" + zlib.compress(large))
    text = chunk(b"zTXt", b"Comment\0\0" + zlib.compress(b"a" * (70 << 20)))
    for name, more in (("profile.png", profile), ("text.png", text), ("both.png", profile + text)):
        (tmp_path / name).write_bytes(png(samples, 8, more=more))
        assert pixels(tmp_path / name)[..., 0].tolist() == samples.tolist()
    assert [verdict.reason for verdict in check_images(tmp_path, ["profile.png", "text.png", "both.png"])] == [
        "",
        "",
        "",
    ]
    (tmp_path / "cut.png").write_bytes(png(samples, 8, more=profile)[:-30])
    assert check_images(tmp_path, ["cut.png"])[0].reason == "broken"


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("a.jp2", b"\0\0\0\x0cjP  \r\n\x87\n" + bytes(50), "JPEG 2000"),
        ("a.ppm", b"P6\n1 1\n255\n\0\0\0", "PNM"),
        ("a.ico", b"\0\0\x01\0\x01\0" + bytes(50), "an icon"),
        ("a.tga", bytes(18) + b"\0" * 20, "TGA"),
        ("a.jxl", b"\xff\x0a" + bytes(50), "JPEG XL"),
        ("a.jpg", b"\0\0\0\x0cJXL \r\n\x87\n" + bytes(50), "JPEG XL"),
        ("a.heic", b"\0\0\0\x1cftypheic" + bytes(50), "HEIC or AVIF"),
        ("a.cr3", b"\0\0\0\x18ftypcrx " + bytes(50), "a camera raw file"),
        ("a.psd", b"8BPS" + bytes(50), "a Photoshop document"),
        ("a.svg", b"<svg></svg>", "a drawing"),
    ],
)
def test_other_kinds_are_told_to_be_converted(tmp_path, name: str, content: bytes, said: str) -> None:
    (tmp_path / name).write_bytes(content)
    assert image_files(tmp_path) == [name]
    (verdict,) = check_images(tmp_path, [name])
    assert (
        verdict.reason == "not supported" and said in verdict.detail and "convert it to JPEG or PNG" in verdict.detail
    )


def test_a_raw_file_is_not_read_as_the_tiff_that_it_also_is(tmp_path) -> None:
    picture(1).save(tmp_path / "a.tif")
    (tmp_path / "a.tif").rename(tmp_path / "a.dng")
    assert check_images(tmp_path, ["a.dng"])[0].reason == "not supported"
    with pytest.raises(GraceError, match="a camera raw file: convert it"):
        read_image(tmp_path / "a.dng")
    assert set(RAW) < set(ENDINGS)


def test_images_by_their_first_bytes(tmp_path) -> None:
    picture(1).save(tmp_path / "a.jpg")
    content = (tmp_path / "a.jpg").read_bytes()
    for name in ("b.JPG_large", "c", "d.jpg-orig", "e.mpo"):
        (tmp_path / name).write_bytes(content)
    for name in ("notes", "captions.csv", "f.jpg.bak", "g.txt", "h.jpg_large"):
        (tmp_path / name).write_bytes(b"file,caption\n" if name != "f.jpg.bak" else content)
    assert image_files(tmp_path) == ["a.jpg", "b.JPG_large", "c", "d.jpg-orig", "e.mpo"]
    assert not any(verdict.reason for verdict in check_images(tmp_path, image_files(tmp_path)))


def test_a_multi_picture_file_gives_its_first(tmp_path) -> None:
    picture(1).save(tmp_path / "a.mpo", save_all=True, append_images=[picture(2)], quality=95)
    assert ".mpo" in READABLE and image_files(tmp_path) == ["a.mpo"]
    assert np.abs(pixels(tmp_path / "a.mpo") - np.asarray(picture(1))).mean() < 6


def test_what_is_no_file_is_listed_and_not_waited_for(tmp_path) -> None:
    os.mkfifo(tmp_path / "pipe.jpg")
    os.mkfifo(tmp_path / "pipe")
    with socket.socket(socket.AF_UNIX) as waiting:
        waiting.bind(str(tmp_path / "socket.png"))
    picture(1).save(tmp_path / "a.png")
    code = (
        "import sys; from pathlib import Path; from grace.data.images import check_images, read_image\n"
        "from grace.data.listing import image_files, listing_digest\n"
        "place = Path(sys.argv[1]); files = image_files(place); listing_digest(place, place / 'none', True)\n"
        "import json; print(json.dumps([(v.file, v.reason) for v in check_images(place, files)]))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)], text=True, capture_output=True, timeout=60, check=True
    )
    assert json.loads(done.stdout) == [["a.png", ""], ["pipe.jpg", "not a file"], ["socket.png", "not a file"]]


def test_linked_folders_are_followed_once(tmp_path) -> None:
    place, away = tmp_path / "photos", tmp_path / "away"
    for number, folder in enumerate((place / "b", away, away / "deep", tmp_path / "other")):
        folder.mkdir(parents=True)
        picture(number).save(folder / f"{number}.png")
    (place / "a link to b").symlink_to(place / "b")  # photos keep the path of their real folder
    (place / "linked").symlink_to(away)
    (place / "once more").symlink_to(away)
    (away / "up").symlink_to(place)
    (away / "above").symlink_to(tmp_path)
    (away / "self").symlink_to(away)
    (away / "aside").symlink_to(tmp_path / "other")
    (place / "gone").symlink_to(tmp_path / "nowhere")
    found = image_files(place)
    assert found == ["b/0.png", "linked/1.png", "linked/aside/3.png", "linked/deep/2.png"]
    before = listing_digest(place, place / "results", False)
    picture(9).save(away / "deep/new.png")
    assert listing_digest(place, place / "results", False) != before


def test_pillows_own_warnings_are_not_shown(tmp_path) -> None:
    exif = b"Exif\0\0MM\0*\0\0\0\x08\0\x02\x01\x0f\0\x02\0\0\xff\xff\0\0\0\x10"
    picture(1).save(tmp_path / "a.jpg", exif=exif)
    code = (
        "import sys; from pathlib import Path; from grace.data.images import read_image; read_image(Path(sys.argv[1]))"
    )
    done = subprocess.run(
        [sys.executable, "-W", "default", "-c", code, str(tmp_path / "a.jpg")],
        text=True,
        capture_output=True,
        check=True,
    )
    assert done.stderr == ""
    plain = "import sys; from PIL import Image, ImageOps; ImageOps.exif_transpose(Image.open(sys.argv[1]))"
    loud = subprocess.run(
        [sys.executable, "-W", "default", "-c", plain, str(tmp_path / "a.jpg")], text=True, capture_output=True
    )
    assert "Corrupt EXIF data" in loud.stderr, "the photo does not make Pillow warn: nothing was tested"


@pytest.mark.parametrize(
    "exif", [b"Exif\0\0MM\0", b"Exif\0\0MM\0*\0\0\0\x08\0\x01\x01\x12\0\x02\0\0\0\x04abcd", b"nonsense"]
)
@pytest.mark.parametrize("name", ["a.png", "a.webp", "a.jpg"])
def test_a_photo_with_corrupt_exif_is_read_as_it_stands(tmp_path, name, exif) -> None:
    picture(1).save(tmp_path / name, exif=exif, **({"lossless": True} if name.endswith("webp") else {"quality": 95}))
    assert not check_images(tmp_path, [name])[0].reason
    assert np.abs(pixels(tmp_path / name) - np.asarray(picture(1))).mean() < 6


def test_a_raw_file_beside_its_jpeg_is_no_lost_photo(tmp_path) -> None:
    from grace.data.folder import folder
    from grace.data.skipped import read_skipped
    from grace.data.tables import load_dataset
    from grace.workflow.config import Folder

    (tmp_path / "photos").mkdir()
    lines = ["file,caption"]
    for number in range(12):
        picture(number).save(tmp_path / f"photos/IMG_{number}.JPG")
        (tmp_path / f"photos/IMG_{number}.CR2").write_bytes(b"II*\0" + bytes(99))
        lines.append(f"IMG_{number},photo {number}")  # without an ending: the one that can be read is meant
    (tmp_path / "c.csv").write_text("\n".join(lines))
    given = Folder(images=str(tmp_path / "photos"), captions=str(tmp_path / "c.csv"))
    folder(output=tmp_path / "out", settings=given, name="mine")
    assert len(load_dataset(tmp_path / "out").images) == 12
    assert set(read_skipped(tmp_path / "out")["reason"]) == {"another copy"}


def test_texts_and_videos_without_an_ending_are_no_images(tmp_path) -> None:
    (tmp_path / "BMW readme").write_text("BMW is a car")
    (tmp_path / "video").write_bytes(b"\0\0\0\x18ftypmp42" + bytes(50))
    assert image_files(tmp_path) == []
