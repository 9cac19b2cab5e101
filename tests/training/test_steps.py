"""Markers of steps: what is skipped, what runs again, what is kept."""

import json
import threading

import pytest

from reges_index.errors import InputError, ReGeSError
from reges_index.training.steps import Step, StepLog, content_hash


class Copy:
    """A step that copies a file and counts how often it ran."""

    def __init__(self, folder):
        self.folder, self.runs = folder, 0
        (folder / "in.txt").write_text("one")

    def step(self, **settings):
        def run():
            self.runs += 1
            (self.folder / "out.txt").write_text((self.folder / "in.txt").read_text() + str(settings))
            return {"runs": self.runs}

        return Step(
            "copy", run, self.folder / "out.txt", settings, (self.folder / "in.txt",),
        )  # fmt: skip


@pytest.fixture
def copy(tmp_path):
    return Copy(tmp_path)


@pytest.fixture
def log(tmp_path):
    return StepLog(tmp_path / "steps")


def test_a_step_is_done_once(copy, log):
    assert log.do(copy.step(a=1)).state == "ran"
    again = log.do(copy.step(a=1))
    assert (again.state, again.report, copy.runs) == ("done before", {"runs": 1}, 1)


def test_changed_settings_or_inputs_run_it_again_and_the_old_output_is_kept(copy, log, tmp_path):
    log.do(copy.step(a=1))
    (tmp_path / "out.txt.run").mkdir()
    log.do(copy.step(a=2))
    assert (tmp_path / "out.txt").read_text() == "one{'a': 2}"
    aside = tmp_path / "steps" / "set-aside"
    assert (aside / "copy-1" / "out.txt").read_text() == "one{'a': 1}"
    assert (tmp_path / "out.txt.run").is_dir()  # training itself sets aside checkpoints that are not its own
    (tmp_path / "in.txt").write_text("two")
    log.do(copy.step(a=2))
    assert (tmp_path / "out.txt").read_text() == "two{'a': 2}"
    assert (aside / "copy-2" / "out.txt").exists()
    assert copy.runs == 3


@pytest.mark.parametrize("change", [lambda out: out.unlink(), lambda out: out.write_text("changed")])
def test_a_missing_or_changed_output_runs_it_again(copy, log, tmp_path, change):
    log.do(copy.step())
    change(tmp_path / "out.txt")
    log.do(copy.step())
    assert (copy.runs, (tmp_path / "out.txt").read_text()) == (2, "one{}")


def test_a_killed_step_goes_on_with_what_it_left_unless_settings_changed(copy, log, tmp_path):
    step = copy.step(a=1)
    left = tmp_path / "out.txt.lock"

    def killed():
        left.touch()
        raise ReGeSError("killed")

    with pytest.raises(ReGeSError):
        log.do(Step("copy", killed, step.output, step.settings, step.inputs))
    assert json.loads((tmp_path / "steps" / "copy.json").read_text())["state"] == "begun"
    log.do(copy.step(a=1))
    assert left.exists()
    (tmp_path / "steps" / "copy.json").unlink()  # of unknown origin: not taken for this run's
    log.do(copy.step(a=1))
    assert not left.exists()


def test_a_missing_input_is_named(copy, log, tmp_path):
    (tmp_path / "in.txt").unlink()
    with pytest.raises(InputError, match=r"in\.txt: no such file"):
        log.do(copy.step())


def test_an_adapter_is_its_weights_not_the_notes_beside_them(tmp_path):
    (tmp_path / "adapter_config.json").write_text("{}")
    (tmp_path / "adapter_model.safetensors").write_bytes(b"1")
    first = content_hash(tmp_path)
    (tmp_path / "README.md").write_text("new results")
    assert content_hash(tmp_path) == first
    (tmp_path / "adapter_model.safetensors").write_bytes(b"2")
    assert content_hash(tmp_path) != first


def test_other_processes_wait_for_the_first_one(copy, tmp_path):
    results = []
    second = threading.Thread(
        target=lambda: results.append(StepLog(tmp_path / "steps", rank=1).do(copy.step()).report)
    )
    second.start()
    second.join(0.2)
    assert second.is_alive()
    StepLog(tmp_path / "steps", rank=0).do(copy.step())
    second.join(5)
    assert (results, copy.runs) == ([{"runs": 1}], 1)
