"""Pixels of every kind of image, and a stated reason for each that cannot be used."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from grace.data import images as rules
from grace.data.images import check_images, read_ahead, read_image, read_images
from grace.system.errors import GraceError
from tests.unit.photos import SIZE, bomb_png, make_photos, picture


def pixels(path: Path) -> np.ndarray:
    image = read_image(path)
    assert image.mode == "RGB"
    return np.asarray(image).astype(int)


def near(one: np.ndarray, other: Image.Image, most: float = 6) -> bool:
    return np.abs(one - np.asarray(other.convert("RGB")).astype(int)).mean() < most


def test_plain_pictures_come_as_they_are(tmp_path):
    for name in ("a.png", "a.bmp", "a.tif"):
        picture(1).save(tmp_path / name)
        assert (pixels(tmp_path / name) == np.asarray(picture(1))).all()


@pytest.mark.parametrize(
    ("turn", "operation"),
    [
        (2, Image.Transpose.FLIP_LEFT_RIGHT), (3, Image.Transpose.ROTATE_180), (4, Image.Transpose.FLIP_TOP_BOTTOM),
        (5, Image.Transpose.TRANSPOSE), (6, Image.Transpose.ROTATE_270), (7, Image.Transpose.TRANSVERSE),
        (8, Image.Transpose.ROTATE_90),
    ],
)  # fmt: skip
def test_exif_orientation(tmp_path, turn, operation):
    exif = Image.Exif()
    exif[0x0112] = turn
    picture(1).save(tmp_path / "a.png", exif=exif)
    assert (pixels(tmp_path / "a.png") == np.asarray(picture(1).transpose(operation))).all()


def test_cmyk(tmp_path):
    picture(1).convert("CMYK").save(tmp_path / "a.jpg", quality=100)
    assert near(pixels(tmp_path / "a.jpg"), picture(1))


def test_palette_with_and_without_transparency(tmp_path):
    small = picture(1).quantize(16)
    small.save(tmp_path / "a.png")
    assert (pixels(tmp_path / "a.png") == np.asarray(small.convert("RGB"))).all()
    small.save(tmp_path / "b.png", transparency=3)
    expected = np.asarray(small.convert("RGB")).copy()
    expected[np.asarray(small) == 3] = 255
    assert (pixels(tmp_path / "b.png") == expected).all()


@pytest.mark.parametrize("mode", ["RGBA", "LA"])
def test_alpha_is_laid_over_white(tmp_path, mode):
    clear = picture(1).convert(mode)
    clear.putalpha(Image.new("L", SIZE, 0))
    clear.paste(picture(1).convert(mode).crop((0, 0, 24, 32)), (0, 0))
    clear.save(tmp_path / "a.png")
    found = pixels(tmp_path / "a.png")
    assert (found[:, 24:] == 255).all()
    assert (found[:, :24] == np.asarray(picture(1).convert(mode).convert("RGB"))[:, :24]).all()


@pytest.mark.parametrize("name", ["a.gif", "a.webp", "a.tif", "a.png"])
def test_of_several_pictures_the_first(tmp_path, name):
    options = {"lossless": True} if name.endswith("webp") else {}
    picture(1).save(tmp_path / name, save_all=True, append_images=[picture(2), picture(3)], **options)
    with Image.open(tmp_path / name) as file:
        assert file.n_frames == 3
    found = pixels(tmp_path / name)
    assert near(found, picture(1), most=15) and not near(found, picture(2), most=30)  # a GIF has few colours


@pytest.mark.parametrize("name", ["a.png", "a.tif"])
def test_16_bit_grey_keeps_its_high_byte(tmp_path, name):
    """Pillow alone would cut everything above 255 off: a white picture."""
    deep = np.arange(32 * 48, dtype=np.uint16).reshape(32, 48) * 42
    Image.fromarray(deep).save(tmp_path / name)
    assert (pixels(tmp_path / name) == (deep >> 8)[..., None]).all()


def test_float_grey_is_stretched_and_may_hold_nan(tmp_path):
    values = np.linspace(-3, 5, 32 * 48, dtype=np.float32).reshape(32, 48)
    Image.fromarray(values).save(tmp_path / "a.tif")
    found = pixels(tmp_path / "a.tif")
    assert found.min() == 0 and found.max() == 255 and (np.diff(found[..., 0].ravel()) >= 0).all()
    values[0, 0] = np.nan
    Image.fromarray(values).save(tmp_path / "b.tif")
    assert pixels(tmp_path / "b.tif")[0, 0, 0] == 0
    Image.fromarray(np.full((4, 4), 7, dtype=np.float32)).save(tmp_path / "c.tif")
    assert (pixels(tmp_path / "c.tif") == 0).all()


def test_reasons(tmp_path, monkeypatch):
    faults = make_photos(tmp_path)
    (tmp_path / "folder.jpg").mkdir()
    files = [*faults, "none.jpg", "folder.jpg", "../outside.jpg", "a\ud800.jpg", "old.bmp"]
    found = {verdict.file: verdict for verdict in check_images(tmp_path, files)}
    assert list(found) == files
    for file, reason in faults.items():
        if reason not in ("duplicate", "no caption"):  # questions for the data set
            assert found[file].reason == reason and found[file].detail and not found[file].digest
            with pytest.raises(GraceError, match="replace it or remove it") as caught:
                read_image(tmp_path / file)
            assert "\n" not in str(caught.value)
    assert found["none.jpg"].reason == "missing" and found["folder.jpg"].reason == "not a file"
    assert found["../outside.jpg"].reason == found["a\ud800.jpg"].reason == "bad name"
    assert found["zz copy.jpg"].digest == check_images(tmp_path, ["plain 2.jpg"])[0].digest
    assert not found["old.bmp"].reason and len(found["old.bmp"].digest) == 64
    monkeypatch.setattr(rules, "MAX_BYTES", 100)
    assert check_images(tmp_path, ["old.bmp"])[0].reason == "too large"


def test_a_large_photograph_is_welcome_and_a_bomb_is_not_decoded(tmp_path, monkeypatch):
    (tmp_path / "bomb.png").write_bytes(bomb_png())
    picture(1).save(tmp_path / "large.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", SIZE[0] * SIZE[1] - 1)  # Pillow would warn
    loaded = []
    monkeypatch.setattr(Image.Image, "load", lambda image: loaded.append(image.size))
    verdicts = check_images(tmp_path, ["bomb.png", "large.png"])
    assert [verdict.reason for verdict in verdicts] == ["too large", ""]
    assert (30_000, 30_000) not in loaded


@pytest.mark.parametrize("keep", [0.1, 0.5, 0.9, 0.99])
@pytest.mark.parametrize("name", ["a.jpg", "a.png", "a.webp", "a.tif"])
def test_a_file_that_was_cut(tmp_path, name, keep):
    Image.effect_noise((200, 150), 90).convert("RGB").save(tmp_path / name)
    content = (tmp_path / name).read_bytes()
    (tmp_path / name).write_bytes(content[: int(keep * len(content))])
    assert check_images(tmp_path, [name])[0].reason in ("broken", "not an image")


def test_reading_ahead_keeps_the_order_and_holds_few(tmp_path, monkeypatch):
    paths = []
    for number in range(60):
        paths.append(tmp_path / f"{number}.png")
        Image.new("RGB", (number + 1, 2)).save(paths[-1])
    read = []
    original = rules.read_image
    monkeypatch.setattr(rules, "read_image", lambda path: (read.append(path), original(path))[1])
    ahead = read_ahead(paths, threads=2)
    for number, image in enumerate(ahead):
        assert image.width == number + 1
        assert len(read) <= number + 1 + 4 * 2 + 1
    assert len(read) == 60
    assert read_images(paths[:3], 5, tmp_path / "pixels.npy").shape == (3, 5, 5, 3)
