"""Tables of captions as people's programs write them: each is read, or said to be what it is."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path

import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from grace.data.text_tables import rows_of
from grace.data.texts import harmless, read_text
from grace.retrieval.runs import read_qrels, read_run
from grace.system.errors import GraceError
from grace.system.files import read_json

COLUMNS = {"file": "", "caption": ""}
LETTERS = st.characters(exclude_categories=["Cs"], exclude_characters="\r\0")
# What people write, with every mark that a table has a meaning for
TEXT = st.text(st.sampled_from("ab \"',;|\t\n#=") | LETTERS, min_size=1, max_size=30).filter(str.strip)
TABLES = st.lists(st.tuples(st.integers(0, 9).map(lambda n: f"{n}.jpg"), TEXT), min_size=1, max_size=6)


def read(path: Path) -> list[tuple[str, str]]:
    return [(row["file"], row["caption"]) for _, row in rows_of(path, "table", COLUMNS)]


def write(folder: Path, name: str, content: str | bytes) -> Path:
    path = folder / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode("utf-8"))
    return path


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("tables")


@settings(max_examples=150, deadline=None)
@given(rows=TABLES, delimiter=st.sampled_from([",", ";", "|"]), excel=st.booleans(), sep=st.booleans())
def test_csv_as_programs_write_it(folder, rows, delimiter: str, excel: bool, sep: bool) -> None:
    text = io.StringIO(newline="")
    csv.writer(text, delimiter=delimiter, lineterminator="\r\n" if excel else "\n").writerows(
        [("file", "caption"), *rows]
    )
    said = (f"sep={delimiter}\r\n" if sep else "") + text.getvalue()
    assert read(write(folder, "c.csv", said.encode("utf-8-sig" if excel else "utf-8"))) == rows


@settings(max_examples=200, deadline=None)
@given(rows=TABLES, encoding=st.sampled_from(["utf-8", "utf-8-sig", "utf-16"]))
def test_tsv_as_pandas_and_excel_write_it(folder, rows, encoding: str) -> None:
    said = pd.DataFrame(rows, columns=["file", "caption"]).to_csv(sep="\t", index=False)
    assert read(write(folder, "c.tsv", said.encode(encoding))) == rows


@settings(max_examples=150, deadline=None)
@given(rows=TABLES, quote=st.booleans())
def test_tsv_without_quoting(folder, rows, quote: bool) -> None:
    """A quotation mark is a character like any other where it does not quote the whole field."""
    rows = [
        (name, ('"' if quote else "") + caption.replace("\t", " ").replace("\n", " ") + " end")
        for name, caption in rows
    ]
    said = "".join(f"{name}\t{caption}\n" for name, caption in [("file", "caption"), *rows])
    assert read(write(folder, "c.tsv", said)) == rows


def test_quotation_marks_of_pandas_are_read(tmp_path) -> None:
    said = 'file\tcaption\n1.jpg\t"a ""big"" dog"\n2.jpg\t"two\nlines"\n3.jpg\t"Big" dog\n4.jpg\tplain\n'
    assert read(write(tmp_path, "c.tsv", said)) == [
        ("1.jpg", 'a "big" dog'), ("2.jpg", "two\nlines"), ("3.jpg", '"Big" dog'), ("4.jpg", "plain"),
    ]  # fmt: skip


def test_a_quotation_mark_that_is_never_closed_swallows_no_row(tmp_path) -> None:
    said = 'file\tcaption\n1.jpg\t"open\n2.jpg\tsays "hi"\n3.jpg\tlast"\n'
    assert [name for name, _ in read(write(tmp_path, "c.tsv", said))] == ["1.jpg", "2.jpg", "3.jpg"]


@pytest.mark.parametrize(
    "content",
    [
        "file,caption\n1.jpg,a dog\n",
        "\ufefffile,caption\n1.jpg,a dog\n",
        "sep=;\r\nfile;caption\r\n1.jpg;a dog\r\n",
        "file;caption\n1.jpg;a dog\n",
        "file\tcaption\n1.jpg\ta dog\n",
        " File , CAPTION \n1.jpg,a dog\n",
        "file,caption,,\n1.jpg,a dog,,\n,,,\n,,,\n",
        "file,caption\n1.jpg,a dog\n\n,\n  ,  \n",
        "\n\nfile,caption\n1.jpg,a dog\n",
        "caption,number,file\na dog,3,1.jpg\n",
        "file,caption\r\n1.jpg,a dog",
        "file,caption\n1.jpg,a dog\n".encode("utf-16"),
    ],
)
def test_what_excel_makes_of_a_table(tmp_path, content) -> None:
    assert read(write(tmp_path, "c.csv", content)) == [("1.jpg", "a dog")]


def test_a_cell_of_any_length(tmp_path) -> None:
    long = "a dog " * 50_000
    assert read(write(tmp_path, "c.csv", f"file,caption\n1.jpg,{long}\n")) == [("1.jpg", long)]
    assert read(write(tmp_path, "c.tsv", f"file\tcaption\n1.jpg\t{long}\n")) == [("1.jpg", long)]


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        (
            "c.csv",
            "file,caption\n1.jpg,caf\xe9\n".encode("cp1252"),
            r"line 2\); save it as UTF-8 \(in Excel: 'CSV UTF-8'\)",
        ),
        ("c.csv", "file,caption\n1.jpg,a,b\n", "line 2: expected 2 fields"),
        ("c.csv", "sep=;\nfile;caption\n1.jpg\n", "line 3: expected 2 fields"),
        ("c.csv", 'file,caption\n1.jpg,"a\n', "line 2 cannot be read .* unclosed"),
        ("c.csv", "File,file ,caption\n", "no column 'file'"),
        ("c.csv", "", "is empty"),
        ("c.csv", "\n\n,,\n", "is empty"),
        ("c.xlsx", "", "must end in .csv, .tsv or .jsonl"),
    ],
)
def test_what_cannot_be_read_is_said_in_one_line(tmp_path, name, content, said) -> None:
    with pytest.raises(GraceError, match=said) as caught:
        read(write(tmp_path, name, content))
    assert "\n" not in str(caught.value)


def test_a_byte_order_mark_is_no_damage(tmp_path) -> None:
    assert read_json(write(tmp_path, "a.json", '\ufeff{"a": 1}')) == {"a": 1}
    run = read_run(write(tmp_path, "run.trec", "\ufeffq1 Q0 d1 1 2.0 t\nq1 Q0 d2 2 1.0 t\n"))
    assert run["query_id"].tolist() == ["q1", "q1"]
    assert read_qrels(write(tmp_path, "qrels.trec", "\ufeffq1 0 d1 1\n"))["query_id"].tolist() == ["q1"]
    assert read(write(tmp_path, "c.jsonl", '\ufeff{"file": "1.jpg", "caption": "a"}\n')) == [("1.jpg", "a")]
    assert read_text(write(tmp_path, "a.txt", "\ufeffa dog"), "text") == "a dog"


@given(st.text())
def test_harmless_text_is_one_line(text: str) -> None:
    assert len(harmless(text).splitlines()) <= 1 and harmless(text) == harmless(harmless(text))


def test_half_a_character_is_said_to_be_one(tmp_path) -> None:
    from grace.data.folder_captions import read_captions
    from grace.workflow.config import Folder

    table = write(tmp_path, "c.jsonl", json.dumps({"file": "1.jpg", "caption": "a \ud83d dog"}))
    with pytest.raises(GraceError, match=r"line 1: the text contains half a character \(\\ud83d, a lone surrogate\)"):
        read_captions(Folder(captions=str(table)), tmp_path, ["1.jpg"])


def test_optional_columns_are_found_as_the_others_are(tmp_path) -> None:
    for name, content in (
        ("c.csv", "File,Caption, Score\n1.jpg,a,2\n"),
        ("c.jsonl", '{"file": "1.jpg", "caption": "a", "Score": "2"}'),
    ):
        ((_, row),) = rows_of(write(tmp_path, name, content), "table", COLUMNS, optional=("score",))
        assert row == {"file": "1.jpg", "caption": "a", "score": "2"}


def test_a_number_of_thousands_of_digits_is_no_traceback(tmp_path) -> None:
    with pytest.raises(GraceError, match="line 1 is not valid JSON"):
        read(write(tmp_path, "c.jsonl", '{"file": "1.jpg", "caption": ' + "9" * 5000 + "}"))
