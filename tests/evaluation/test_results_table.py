from __future__ import annotations

from importlib import resources

import pytest

from reges_index.errors import InputError
from reges_index.evaluation.data import EvaluationData
from reges_index.evaluation.report import write_report
from reges_index.evaluation.results_table import BEGIN, END, write_results
from reges_index.evaluation.scoring import Settings, evaluate_systems


@pytest.fixture(scope="module")
def books():
    folder = resources.files("reges_index.catalog") / "demo"
    with resources.as_file(folder) as path:
        data = EvaluationData.read(path / "books_turns.jsonl", path / "books.jsonl")
    return evaluate_systems(data, settings=Settings(resamples=500))


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
    assert "another split" in text
    assert "| GPT-4 | 0.043 | 0.062 |" in text
    again = write_results(readme, {"Books": tmp_path / "report"})
    assert readme.read_text() == text
    assert again in text


def test_a_readme_without_marks_is_left_alone(tmp_path):
    readme = tmp_path / "README.md"
    readme.write_text("# Mine\n")
    with pytest.raises(InputError, match="no place for the results"):
        write_results(readme, {})
    assert readme.read_text() == "# Mine\n"
    with pytest.raises(InputError, match="cannot be read"):
        write_results(tmp_path / "absent.md", {})
