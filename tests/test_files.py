"""Files that are whole or not at all, and runs that survive a kill."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
from pydantic import BaseModel, ConfigDict

from reges_index.errors import ConfigError, InputError, StorageError
from reges_index.files import RunLog, json_lines, load_yaml, read_json, whole_folder, write_files

DEEP = '{"a": ' + "[" * 200_000
SETTINGS = {"store": "s", "similarity_top_k": 4}


def rows(path):
    return [row for _, row in json_lines(path)]


def test_lines_that_nest_too_deeply_are_named(tmp_path):
    (tmp_path / "deep.jsonl").write_text('{"a": 1}\n' + DEEP + "\n")
    with pytest.raises(InputError, match=r"deep\.jsonl:2: nested too deeply"):
        list(json_lines(tmp_path / "deep.jsonl"))


def test_files_that_nest_too_deeply_are_named(tmp_path):
    (tmp_path / "deep.json").write_text(DEEP)
    with pytest.raises(InputError, match=r"deep\.json: nested too deeply"):
        read_json(tmp_path / "deep.json")


@pytest.mark.parametrize("line", ["{", "[1]", '"x"'])
def test_a_malformed_line_is_named(tmp_path, line):
    file = tmp_path / "x.jsonl"
    file.write_text('{"id": "a"}\n' + line + "\n")
    with pytest.raises(InputError, match=r"x\.jsonl:2: "):
        rows(file)


class Shop(BaseModel):
    model_config = ConfigDict(extra="forbid")

    name: str
    shelves: int = 1


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("name: a\nshelfs: 2\n", "shelfs"),
        ("name: a\nshelves: many\n", "shelves"),
        ("shelves: 2\n", "name"),
        ("- a\n", "list"),
        ("", "nothing"),
        ("name: [", "YAML"),
    ],
)
def test_a_wrong_yaml_file_is_named_with_its_key(tmp_path, text, said):
    file = tmp_path / "shop.yaml"
    file.write_text(text)
    with pytest.raises(ConfigError, match=rf"shop\.yaml.*{said}"):
        load_yaml(file, Shop)
    with pytest.raises(InputError, match="no such file"):
        load_yaml(tmp_path / "other.yaml", Shop)


def test_files_that_belong_together_are_written_all_or_none(tmp_path):
    one, two = tmp_path / "one", tmp_path / "folder" / "two"
    write_files({one: b"1", two: b"1"})
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError):
        write_files({one: b"2", tmp_path / "file" / "three": b"2"})
    assert one.read_bytes() == b"1"
    with pytest.raises(ZeroDivisionError), whole_folder(two.parent) as work:
        (work / "two").write_bytes(b"2" * (1 // 0))
    assert two.read_bytes() == b"1"
    assert {path.name for path in tmp_path.iterdir()} == {"one", "folder", "file"}


@pytest.mark.parametrize("cut", range(1, 24))
def test_a_half_written_line_is_dropped_wherever_it_was_cut(tmp_path, cut):
    file = tmp_path / "x.jsonl"
    whole, last = '{"id": "a"}\n', '{"id": "é", "query": 1}'
    assert len(last.encode()) == 24
    with RunLog(file, SETTINGS) as log:
        log.write([{"id": "a"}])
    file.write_bytes(whole.encode() + last.encode()[:cut])
    with RunLog(file, SETTINGS) as log:
        assert (log.repaired, log.finished) == (cut, {"a"})
        log.write([{"id": "b"}])
    assert rows(file) == [{"id": "a"}, {"id": "b"}]
    file.write_bytes(file.read_bytes()[:-1])  # only the line break is missing
    with RunLog(file, SETTINGS) as log:
        assert (log.repaired, log.finished) == (0, {"a", "b"})
        log.write([{"id": "c"}])
    assert [row["id"] for row in rows(file)] == ["a", "b", "c"]


def test_rows_are_on_the_disk_when_write_returns(tmp_path):
    """The process ends without closing anything."""
    file = tmp_path / "x.jsonl"
    code = (
        "import os, sys; from reges_index.files import RunLog\n"
        "log = RunLog(sys.argv[1], {})\n"
        "for n in range(5): log.write([{'id': n, 'text': 'line\\u2028separator'}])\n"
        "os.kill(os.getpid(), 9)"
    )
    assert subprocess.run([sys.executable, "-c", code, str(file)]).returncode == -9
    assert [row["id"] for row in rows(file)] == [0, 1, 2, 3, 4]
    with RunLog(file, {}) as log:  # the lock died with the process
        assert log.finished == {"0", "1", "2", "3", "4"}


def test_a_full_disk_is_an_error_that_leaves_no_half_line(tmp_path):
    file = tmp_path / "x.jsonl"
    # A limit on the file's size does to write() what a full disk does: part of the line fits, then none.
    code = (
        "import resource, signal, sys\n"
        "from reges_index.files import RunLog\n"
        "from reges_index.errors import StorageError\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "log = RunLog(sys.argv[1], {}); log.write([{'id': 'a'}])\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (40, 40))\n"
        "try: log.write([{'id': 'b', 'text': 'x' * 100}])\n"
        "except StorageError as error: print(error.exit_code, log.finished)"
    )
    done = subprocess.run([sys.executable, "-c", code, str(file)], capture_output=True, text=True)
    assert done.stdout.strip() == f"{StorageError.exit_code} {{'a'}}", done.stderr
    assert file.read_text() == '{"id": "a"}\n'
    with pytest.raises(StorageError, match="cannot be written"):
        RunLog(file / "x.jsonl", {})


def test_a_file_is_continued_only_with_the_settings_it_was_begun_with(tmp_path):
    file = tmp_path / "x.jsonl"
    with RunLog(file, {"teacher": "a", "prompt": "p"}) as log:
        log.write([{"id": "t"}])
    whole = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    with pytest.raises(InputError, match="teacher was 'a', now 'b'"):
        RunLog(file, {"teacher": "b", "prompt": "p"})
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == whole


def test_what_another_run_left_out_is_not_taken_for_this_ones(tmp_path):
    file = tmp_path / "x.jsonl"
    with RunLog(file, {"teacher": "a"}) as log:
        log.leave_out({"id": "t1"})
    with RunLog(file, {"teacher": "a"}) as log:
        assert log.finished == {"t1"}
    file.unlink()
    with pytest.raises(InputError, match="teacher was 'a', now 'z'"):
        RunLog(file, {"teacher": "z"})
    log.left_out_path.unlink()
    with RunLog(file, {"teacher": "z"}) as log:
        assert log.finished == set()


@pytest.mark.parametrize("content", ["my diary", "my diary\nof 1999", '{"id": "x"}', "\n{}\n"])
def test_a_file_of_somebody_elses_is_left_alone(tmp_path, content):
    path = tmp_path / "diary.txt"
    path.write_text(content)
    with pytest.raises(InputError, match=r"diary\.txt"):
        RunLog(path, SETTINGS)
    assert path.read_text() == content
    assert [file.name for file in tmp_path.iterdir()] == ["diary.txt"]


def test_a_damaged_line_is_named(tmp_path):
    path = tmp_path / "out.jsonl"
    RunLog(path, SETTINGS).write([{"id": "a"}])
    with path.open("a") as file:
        file.write("oops\n")
    with pytest.raises(InputError, match=r"out\.jsonl:2"):
        RunLog(path, SETTINGS)
    path.with_name("out.jsonl.run.json").write_text("{")
    with pytest.raises(InputError, match=r"out\.jsonl"):
        RunLog(path, SETTINGS)


def test_a_run_on_other_data_is_refused(tmp_path):
    path, inputs = tmp_path / "out.jsonl", {"catalog": "c1", "item_adapter": None}
    with RunLog(path, SETTINGS) as log:
        log.require_inputs({"catalog": "c0"})  # a run that wrote nothing binds nobody
    with RunLog(path, SETTINGS) as log:
        log.require_inputs(inputs)
        log.write([{"id": "a"}])
        log.require_inputs(inputs)
    with RunLog(path, SETTINGS) as log:
        log.require_inputs(inputs)
        for other in (
            {**inputs, "catalog": "c2"},
            {"catalog": "c2"},
            {**inputs, "catalog": "c2", "new": None},
        ):
            with pytest.raises(InputError, match=r"changed since: catalog \(then c1, now c2\)"):
                log.require_inputs(other)
        with pytest.raises(InputError, match=r"item_adapter \(then None, now x\)"):
            log.require_inputs({**inputs, "item_adapter": "x"})
    old = tmp_path / "old.jsonl"
    with RunLog(old, SETTINGS) as log:
        log.write([{"id": "a"}])
        with pytest.raises(InputError, match="does not say from which catalog"):
            log.require_inputs(inputs)


def test_one_log_at_a_time_has_the_file(tmp_path):
    path = tmp_path / "out.jsonl"
    with RunLog(path, SETTINGS) as log:
        log.write([{"id": "a"}])
        with pytest.raises(InputError, match=r"another process writes to .*out\.jsonl"):
            RunLog(path, SETTINGS)
        RunLog(tmp_path / "other.jsonl", SETTINGS).close()
        log.write([{"id": "b"}])
    path.with_name("out.jsonl.run.json").write_text("{}")
    with pytest.raises(InputError, match="other settings"):
        RunLog(path, SETTINGS)
    path.with_name("out.jsonl.run.json").write_text(json.dumps(SETTINGS))
    with RunLog(path, SETTINGS) as log:  # what was refused has let go of it
        assert log.finished == {"a", "b"}


def test_settings_may_be_paths_and_tuples(tmp_path):
    settings = {"store": tmp_path, "layers": (1, 2)}
    RunLog(tmp_path / "out.jsonl", settings).write([{"id": "\ud800"}])
    assert RunLog(tmp_path / "out.jsonl", settings).finished == {"\ud800"}
