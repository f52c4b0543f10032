"""Match the names in a table to the photos of a folder.

Exact matches come first. A name may also start with the folder's name or path, contain backslashes or percent-escapes
(`%20`), differ in Unicode normalisation (NFC, NFD), kind of space or case, or lack the extension. Such a name is accepted if
exactly one photo fits.
"""

from __future__ import annotations

import unicodedata
from collections import Counter, defaultdict
from collections.abc import Callable
from pathlib import Path, PurePosixPath
from urllib.parse import unquote

from grace.data.listing import READABLE
from grace.system.errors import GraceError


def looks(name: str) -> str:
    """`name` normalised so that names that look the same are equal: NFC, every kind of space a plain space."""
    blanks = "".join(" " if unicodedata.category(letter) == "Zs" else letter for letter in name)
    return unicodedata.normalize("NFC", blanks)


def _spoken(name: str) -> str:
    return looks(name).casefold()


def _without_ending(name: str) -> str:
    return str(PurePosixPath(_spoken(name)).with_suffix(""))


Form = Callable[[str], str]
# The forms of a table's name and of a photo's name that are compared, from certain to likely: in the last two levels, two
# photos may well have the same form.
LEVELS: tuple[tuple[Form, Form, bool], ...] = (
    (str, str, False),
    (looks, looks, False),
    (_spoken, _spoken, True),
    (_spoken, _without_ending, True),
)


class PhotoNames:
    """The photos of a folder, indexed by name."""

    def __init__(self, folder: Path, files: list[str]) -> None:
        """`files`: paths of the photos inside `folder`, with `/`."""
        self.files = files
        # how a table may write the folder: its full path, or any tail of it down to its name
        place = PurePosixPath(folder.as_posix())
        self.fronts = [place, *(PurePosixPath(*place.parts[start:]) for start in range(1, len(place.parts)))]
        self.by_path = [_grouped(files, form) for _, form, _ in LEVELS]
        self.by_name = [
            _grouped(files, lambda file, form=form: form(PurePosixPath(file).name)) for _, form, _ in LEVELS
        ]

    def match(self, names: list[str], where: str) -> dict[str, str]:
        """{name: file} for the names that match one photo; raises a `GraceError` for a name that matches several.

        A photo that one name matches exactly is not also matched by a name that differs in case or lacks the extension, and
        a photo that two such names could mean is matched by neither.
        """
        found = {name: self._file(name, where) for name in dict.fromkeys(names)}
        exact = {file for file, likely in found.values() if file and not likely}
        guesses = Counter(file for file, likely in found.values() if likely)
        return {
            name: file
            for name, (file, likely) in found.items()
            if file and not (likely and (file in exact or guesses[file] > 1))
        }

    def _file(self, name: str, where: str) -> tuple[str, bool]:
        """The photo that `name` matches ("": none), and whether the match is only likely."""
        forms = self._forms(name)
        for (written, _, likely), by_path, by_name in zip(LEVELS, self.by_path, self.by_name, strict=True):
            for form in forms:
                for groups in (by_path, by_name):
                    candidates = groups.get(written(form), []) if form else []
                    readable = [file for file in candidates if file.lower().endswith(READABLE)]
                    candidates = readable if len(readable) == 1 else candidates  # a raw file next to its JPEG
                    if len(candidates) > 1:
                        raise GraceError(
                            f"{where}: {name!r} could be {candidates[0]} or {candidates[1]}; write the full path inside the "
                            "folder of images"
                        )
                    if candidates:
                        return candidates[0], likely
        return "", False

    def _forms(self, name: str) -> list[str]:
        """The name as written, stripped, and as a path inside the folder in every way it may have been written."""
        forms = [name, name.strip()]
        forms += [form.replace("\\", "/") for form in forms]
        forms += [unquote(form) for form in forms if "%" in form]
        forms += [form.removeprefix("./") for form in forms if form.startswith("./")]
        for form in list(forms):
            path = PurePosixPath(form)
            for front in self.fronts:
                if path.parts[: len(front.parts)] == front.parts and len(path.parts) > len(front.parts):
                    forms.append(str(path.relative_to(front)))
        return list(dict.fromkeys(forms))


def _grouped(files: list[str], key: Callable[[str], str]) -> dict[str, list[str]]:
    out: dict[str, list[str]] = defaultdict(list)
    for file in files:
        out[key(file)].append(file)
    return dict(out)
