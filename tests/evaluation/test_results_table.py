from __future__ import annotations

import json
from importlib import resources

import pytest

from reges_index.errors import InputError
from reges_index.evaluation.data import EvaluationData
from reges_index.evaluation.report import write_report
from reges_index.evaluation.results_table import BEGIN, END, write_results
from reges_index.evaluation.scoring import evaluate_systems
from reges_index.evaluation.settings import EvaluationSettings


@pytest.fixture(scope="module")
def books():
    folder = resources.files("reges_index.catalog") / "demo"
    with resources.as_file(folder) as path:
        data = EvaluationData.read(path / "books_turns.jsonl", path / "books.jsonl")
    return evaluate_systems(data, settings=EvaluationSettings(resamples=500))


# Expected values of the shipped slice, so that a change in data, tokenizing or metrics does not pass unseen.
@pytest.mark.parametrize(
    ("protocol", "metric", "expected"),
    [
        ("all", "rec_success_rate", 0.304),
        ("all", "recall@10", 0.696),
        ("all", "recall@50", 0.870),
        ("all", "ndcg@10", 0.494),
        ("new", "rec_success_rate", 0.391),
        ("new", "mrr@10", 0.483),
    ],
)
def test_bm25_on_the_demo_books_is_what_it_was(books, protocol, metric, expected):
    found = books.estimates(protocol)["BM25"][metric]
    assert found.value == pytest.approx(expected, abs=0.03)
    assert found.low <= found.value <= found.high


def test_the_readme_gets_the_reports_numbers(books, tmp_path):
    summary = write_report(books, tmp_path / "report", command=["reges", "evaluate", "--out", "report"])
    readme = tmp_path / "README.md"
    readme.write_text(f"# Mine\n\n{BEGIN}\nold\n{END}\n\nend\n")
    write_results(readme, {"Books": tmp_path / "report"})
    text = readme.read_text()
    assert text.startswith("# Mine\n")
    assert text.endswith(f"{END}\n\nend\n")
    assert "old" not in text
    entry = summary["protocols"]["new"]["systems"]["BM25"]["per_target"]["rec_success_rate"]
    assert f"{entry['value']:.3f} [{entry['low']:.3f}, {entry['high']:.3f}]" in text
    again = write_results(readme, {"Books": tmp_path / "report"})
    assert readme.read_text() == text
    assert again in text


def test_an_experiment_becomes_one_table(tmp_path):
    about = {"settings": {"level": 0.95}, "data": {"hash": "0123456789abcdef"}}
    about["provenance"] = {"command": "reges evaluate --experiment ablation"}
    row = {"setting": "", "paper": None, "paper_setting": ""}
    rows = [
        {**row, "system": system, "protocol": protocol, "metric": metric, **value}
        for system, shift in (("fusion", 0.0), ("without bm25", 0.1))
        for protocol, n in (("all", 271), ("new", 211))
        for metric, value in (
            ("Recall@1", {"value": 0.2 - shift, "low": 0.15 - shift, "high": 0.25 - shift, "n": n}),
            ("Recall@50", {"value": None, "low": None, "high": None, "n": 0}),
        )
    ]
    file = tmp_path / "ablation.json"
    pair = {"first": "fusion", "second": "without bm25", "setting": "", "protocol": "all"}
    gain = {**pair, "metric": "Recall@1", "gain": 1.0, "paper_gain": 0.81, "p_holm": 0.0004}
    other = {**gain, "metric": "Recall@5", "paper_gain": None}  # nothing of the paper's to stand beside
    found = {
        "title": "Ablation",
        "reading": "Read it so.",
        "rows": rows,
        "comparisons": [gain, other],
        "about": about,
    }
    file.write_text(json.dumps(found))
    readme = tmp_path / "README.md"
    readme.write_text(f"{BEGIN}\n{END}\n")
    write_results(readme, {}, [("Films", file)])
    text = readme.read_text()
    assert "**Films, Ablation** (n: 271 all, 211 new; 95% intervals over dialogues)" in text
    assert "| system | all Recall@1 | new Recall@1 |" in text  # nothing was measured at 50
    assert "| without bm25 | 0.100 [0.050, 0.150] | 0.100 [0.050, 0.150] |" in text
    assert "| fusion | without bm25 | all Recall@1 | +100% | +81% | &lt;0.001 |" in text
    assert "Read it so." in text
    assert "Recall@5" not in text
    assert "Made by `reges evaluate --experiment ablation` (data `0123456789ab`)" in text
    file.write_text("{}")
    with pytest.raises(InputError, match="no experiment"):
        write_results(readme, {}, [("Films", file)])
    assert readme.read_text() == text


def test_a_readme_without_marks_is_left_alone(tmp_path):
    readme = tmp_path / "README.md"
    readme.write_text("# Mine\n")
    with pytest.raises(InputError, match="no place for the results"):
        write_results(readme, {})
    assert readme.read_text() == "# Mine\n"
    with pytest.raises(InputError, match="cannot be read"):
        write_results(tmp_path / "absent.md", {})
