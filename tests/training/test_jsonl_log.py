"""Files that survive a killed run."""

import json
import subprocess
import sys

import pytest

from reges_index.errors import InputError, StorageError
from reges_index.training.jsonl_log import JsonlLog, claim_output, left_out_beside, read_rows


def rows(path):
    return [row for _, row in read_rows(path)]


@pytest.mark.parametrize("cut", range(1, 24))
def test_a_half_written_line_is_dropped_wherever_it_was_cut(tmp_path, cut):
    file = tmp_path / "x.jsonl"
    whole, last = '{"id": "a"}\n', '{"id": "é", "query": 1}'
    assert len(last.encode()) == 24
    file.write_bytes(whole.encode() + last.encode()[:cut])
    with JsonlLog(file) as log:
        assert log.repaired == cut
        log.append({"id": "b"})
    assert rows(file) == [{"id": "a"}, {"id": "b"}]


def test_a_whole_last_line_without_line_break_stays(tmp_path):
    file = tmp_path / "x.jsonl"
    file.write_text('{"id": "a"}')
    with JsonlLog(file) as log:
        assert log.repaired == 0
        log.append({"id": "b"})
    assert [row["id"] for row in rows(file)] == ["a", "b"]


def test_rows_are_on_the_disk_when_append_returns(tmp_path):
    """The process ends without closing anything."""
    file = tmp_path / "x.jsonl"
    code = (
        "import os, sys; from reges_index.training.jsonl_log import JsonlLog\n"
        "log = JsonlLog(sys.argv[1])\n"
        "for n in range(5): log.append({'id': n, 'text': 'line\\u2028separator'})\n"
        "os.kill(os.getpid(), 9)"
    )
    assert subprocess.run([sys.executable, "-c", code, str(file)]).returncode == -9
    assert [row["id"] for row in rows(file)] == [0, 1, 2, 3, 4]


def test_a_full_disk_is_an_error_that_leaves_no_half_line(tmp_path):
    file = tmp_path / "x.jsonl"
    # A limit on the file's size does to write() what a full disk does: part of the line fits, then none.
    code = (
        "import resource, signal, sys\n"
        "from reges_index.training.jsonl_log import JsonlLog\n"
        "from reges_index.errors import StorageError\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "log = JsonlLog(sys.argv[1]); log.append({'id': 'a'})\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (40, 40))\n"
        "try: log.append({'id': 'b', 'text': 'x' * 100})\n"
        "except StorageError as error: print(error.exit_code)"
    )
    done = subprocess.run([sys.executable, "-c", code, str(file)], capture_output=True, text=True)
    assert done.stdout.strip() == str(StorageError.exit_code), done.stderr
    assert file.read_text() == '{"id": "a"}\n'


def test_a_folder_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match="cannot be written"):
        JsonlLog(tmp_path / "file" / "x.jsonl")


@pytest.mark.parametrize("line", ["{", "[1]", '"x"'])
def test_a_malformed_line_is_named(tmp_path, line):
    file = tmp_path / "x.jsonl"
    file.write_text('{"id": "a"}\n' + line + "\n")
    with pytest.raises(InputError, match=r"x\.jsonl:2: "):
        rows(file)


def test_a_file_is_continued_only_with_the_settings_it_was_begun_with(tmp_path):
    file = tmp_path / "x.jsonl"
    claim_output(file, {"teacher": "a", "prompt": "p"})
    file.write_text("{}\n")
    claim_output(file, {"teacher": "a", "prompt": "p"})
    with pytest.raises(InputError, match="teacher was 'a', now 'b'"):
        claim_output(file, {"teacher": "b", "prompt": "p"})
    (tmp_path / "x.jsonl.run.json").unlink()
    with pytest.raises(InputError, match="not written by this command"):
        claim_output(file, {"teacher": "a", "prompt": "p"})
    assert json.loads(file.read_text()) == {}


def test_what_another_teacher_left_out_is_set_aside_and_the_hint_names_it(tmp_path):
    file, note = tmp_path / "x.jsonl", tmp_path / "x.jsonl.run.json"
    left_out = left_out_beside(file)
    for number, teacher in enumerate("abc"):
        claim_output(file, {"teacher": teacher})
        assert not left_out.exists()
        file.write_text('{"id": "t0"}\n')
        left_out.write_text(json.dumps({"id": "t1", "teacher": teacher}) + "\n")
        claim_output(file, {"teacher": teacher})
        assert left_out.exists()  # still this one's
        with pytest.raises(InputError) as caught:
            claim_output(file, {"teacher": "z"})
        assert f"{left_out} is then set aside" in caught.value.hint
        file.unlink()
        if number:  # with the note or without it
            note.unlink()
    claim_output(file, {"teacher": "z"})
    kept = [rows(tmp_path / f"x.jsonl.left-out.jsonl.{n}")[0]["teacher"] for n in (1, 2, 3)]
    assert kept == ["a", "b", "c"]


def test_a_note_of_an_earlier_version_is_taken_as_it_is_once(tmp_path, caplog):
    file = tmp_path / "x.jsonl"
    claim_output(file, {"teacher": "a"})
    file.write_text("{}\n")
    with pytest.raises(InputError, match="catalog was None, now 'c'"):
        claim_output(file, {"teacher": "a", "catalog": "c"})
    claim_output(file, {"teacher": "a", "catalog": "c"}, newer=("catalog",))
    assert "does not say: catalog 'c'." in caplog.text
    with pytest.raises(InputError, match="catalog was 'c', now 'd'"):
        claim_output(file, {"teacher": "a", "catalog": "d"}, newer=("catalog",))
