"""Names in a table against the photos of a folder: written exactly, in another way, or of no photo there."""

from __future__ import annotations

import unicodedata
from pathlib import Path
from urllib.parse import quote

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from grace.data.folder_captions import read_captions
from grace.data.photo_names import PhotoNames, looks
from grace.system.errors import GraceError
from grace.workflow.config import Folder

FOLDER = Path("/home/ann/photos")
LETTERS = st.characters(exclude_categories=["Cs", "Cc"], exclude_characters="/\\%")
STEMS = st.text(LETTERS, min_size=1, max_size=12).filter(lambda name: name.strip(". ") and not name.startswith("."))
FILES = st.lists(
    st.tuples(st.lists(STEMS, max_size=2), STEMS).map(lambda parts: "/".join([*parts[0], parts[1]]) + ".jpg"),
    min_size=1, max_size=6, unique=True,
)  # fmt: skip
WRITTEN = {
    "exact": lambda file: file,
    "dot": lambda file: f"./{file}",
    "in front": lambda file: f"photos/{file}",
    "absolute": lambda file: f"/home/ann/photos/{file}",
    "backslashes": lambda file: f"photos/{file}".replace("/", "\\"),
    "address": quote,
    "NFC": lambda file: unicodedata.normalize("NFC", file),
    "NFD": lambda file: unicodedata.normalize("NFD", file),
    "no-break blanks": lambda file: file.replace(" ", "\u00a0"),
    "narrow blanks": lambda file: file.replace(" ", "\u202f"),
    "capitals": str.upper,
    "no ending": lambda file: file.removesuffix(".jpg"),
}


def meant(files: list[str], *names: str) -> dict[str, str]:
    return PhotoNames(FOLDER, files).match(list(names), "table")


@settings(max_examples=300, deadline=None)
@given(files=FILES, number=st.integers(0, 5), way=st.sampled_from(sorted(WRITTEN)))
def test_a_name_written_in_another_way_is_found(files, number: int, way: str) -> None:
    file = files[number % len(files)]
    spoken = [looks(other).casefold() for other in files]
    stems = [other.removesuffix(".jpg") for other in spoken]
    names = [other.rpartition("/")[2] for other in stems]
    assume(len(set(names)) == len(names) and not set(names) & set(spoken))  # else a name may be several photos
    assume(not any(other.startswith("photos/") for other in spoken))
    written = WRITTEN[way](file)
    assume(
        looks(written).casefold().removesuffix(".jpg").endswith(stems[files.index(file)])
    )  # some letters have two capitals
    assert meant(files, written) == {written: file}


@settings(max_examples=100, deadline=None)
@given(files=FILES, name=STEMS)
def test_a_name_of_no_photo_is_none(files, name: str) -> None:
    spoken = {looks(part).casefold() for file in files for part in (file, *file.split("/"))}
    written = f"{name}.png"
    assume(looks(written).casefold() not in spoken and looks(name).casefold() + ".jpg" not in spoken)
    assume(looks(name.strip()).casefold() + ".jpg" not in spoken)
    assert meant(files, written) == {}


def test_exact_names_come_first() -> None:
    assert meant(["1.jpg", "1.JPG"], "1.jpg", "1.JPG") == {"1.jpg": "1.jpg", "1.JPG": "1.JPG"}
    assert meant([" 1.jpg", "1.jpg"], " 1.jpg", "1.jpg") == {" 1.jpg": " 1.jpg", "1.jpg": "1.jpg"}
    assert meant(["a%20b.jpg", "a b.jpg"], "a%20b.jpg") == {"a%20b.jpg": "a%20b.jpg"}
    assert meant(["photos/1.jpg", "1.jpg"], "photos/1.jpg") == {"photos/1.jpg": "photos/1.jpg"}


def test_two_names_in_a_table_are_not_given_one_photo_by_guessing() -> None:
    assert meant(["1.jpg"], "1.jpg", "1.JPG") == {"1.jpg": "1.jpg"}
    assert meant(["1.jpg"], "1.jpg", "1") == {"1.jpg": "1.jpg"}
    assert meant(["1.jpg"], "train/1.jpg") == {}  # another folder's photo may be meant
    assert meant(["Img_1.jpg"], "IMG_1.JPG", "img_1.jpg") == {}
    assert meant(["1.jpg", "1.cr2"], "1") == {"1": "1.jpg"}


@pytest.mark.parametrize("name", ["ann/photos/1.jpg", "./ann/photos/1.jpg", "photos//1.jpg", "home/ann/photos/1.jpg"])
def test_the_folder_may_be_named_by_any_way_down_to_it(name: str) -> None:
    assert meant(["1.jpg"], name) == {name: "1.jpg"}


def test_what_may_be_two_photos_is_an_error() -> None:
    for files, name in ((["a/1.jpg", "b/1.jpg"], "1.jpg"), (["1.JPG", "1.Jpg"], "1.jpg"), (["1.jpg", "1.png"], "1")):
        with pytest.raises(GraceError, match=rf"'{name}' could be {files[0]} or {files[1]}; write the full path"):
            meant(files, name)


def test_a_table_of_other_names_is_said_to_be_one(tmp_path) -> None:
    (tmp_path / "c.csv").write_text("file,caption\nIMG_1.jpg,a\nIMG_2.jpg,b\n")
    said = rf"none of its 2 names matches a photo in {tmp_path}; .* has 'IMG_1.jpg' and the folder has 'DSC_1.jpg'"
    with pytest.raises(GraceError, match=said):
        read_captions(Folder(captions=str(tmp_path / "c.csv")), tmp_path, ["DSC_1.jpg", "DSC_2.jpg"])


def test_a_name_that_begins_with_a_blank_can_be_named(tmp_path) -> None:
    (tmp_path / "c.csv").write_text("file,caption\n 1.jpg,a dog\n")
    assert read_captions(Folder(captions=str(tmp_path / "c.csv")), tmp_path, [" 1.jpg"]) == ({" 1.jpg": ["a dog"]}, [])
    assert read_captions(Folder(captions=str(tmp_path / "c.csv")), tmp_path, ["1.jpg"]) == ({"1.jpg": ["a dog"]}, [])
