from __future__ import annotations

import json
import re
from dataclasses import replace
from importlib import resources

import pytest

from reges_index.errors import InputError, StorageError
from reges_index.evaluation.data import EvaluationData
from reges_index.evaluation.diagnosis import lost_turns, turn_rows
from reges_index.evaluation.predictions import Prediction, align
from reges_index.evaluation.report import report_result, write_report
from reges_index.evaluation.result import BEGIN, END, Result, Row, write_result, write_results
from reges_index.evaluation.scoring import evaluate_systems
from reges_index.evaluation.settings import EvaluationSettings
from reges_index.evaluation.stats import Comparison

from .conftest import make_turn

FEW = EvaluationSettings(resamples=200)


def systems(data):
    good = [
        Prediction(
            id="t0", ranking=("i0", "i4"), query="robots", probabilities=(0.7, 0.3), timings={"rerank": 2}
        ),
        Prediction(id="t1", ranking=("i4", "i1", "i0"), query="more robots", tokens={"prompt": 10}),
        Prediction(id="t2", ranking=("i2",)),
        Prediction(id="t3", ranking=("nowhere", "i9"), answer="a film nobody made"),
    ]
    bad = [Prediction(id="t0", ranking=("i9",))]
    return [align("good", good, data), align("</script><b>bad|", bad, data)]


@pytest.fixture
def evaluation(data):
    return evaluate_systems(data, systems(data), settings=FEW)


def rows_of(value, **wanted):
    return [row for row in value["rows"] if all(row[key] == one for key, one in wanted.items())]


def test_a_report_has_every_part(evaluation, tmp_path):
    summary = write_report(evaluation, tmp_path / "out")
    files = {path.name for path in (tmp_path / "out").iterdir()}
    assert files == {
        *("report.json", "report.md", "report.html"),
        *("recall.png", "fates.png", "groups.png", "reliability.png"),
    }
    read = json.loads((tmp_path / "out" / "report.json").read_text())
    assert read == summary
    assert read["about"]["provenance"]["command"]
    assert read["about"]["data"]["hash"] == evaluation.data.hash
    good = {
        (row["part"].split(" (")[0], row["metric"]): row["value"]
        for row in rows_of(read, system="good")
        if row["protocol"] in ("all", "")
    }
    # Full precision: 3 of 6 pairs, not 0.5 by rounding of something else.
    assert good["Per target", "recall@5"] == pytest.approx(5 / 6, abs=1e-15)
    assert good["Per target", "rec_success_rate"] == pytest.approx(2 / 6, abs=1e-15)
    assert good["Per dialogue", "recall@5"] == pytest.approx((1 + 2 / 3) / 2, abs=1e-15)
    assert good["Where targets are lost", "picked"] == pytest.approx(2 / 6)
    assert good["Where targets are lost", "not in the catalog"] == pytest.approx(1 / 6)
    assert good["Answers and their probabilities", "hallucination ratio"] == 0.25
    assert good["Seconds a turn", "mean"] == 2
    (prompt,) = rows_of(read, part="Tokens a turn", metric="sum")
    assert (prompt["setting"], prompt["value"], prompt["n"]) == ("prompt", 10, 1)
    assert read["systems"]["</script><b>bad|"]["counts"]["missing_turns"] == 4
    assert read["left_out"].keys() == {"baseline retriever"}
    text = (tmp_path / "out" / "report.md").read_text()
    assert "| system | all rec_success_rate |" in text
    assert "4 turns without a prediction" in text


def test_the_comparison_is_of_the_systems_asked_for(evaluation):
    found = [c for c in report_result(evaluation).comparisons if c.protocol == "all"]
    assert {(c.first, c.second) for c in found} >= {("good", "</script><b>bad|"), ("good", "BM25")}
    assert not any(c.first == "most popular" for c in found)
    recall = next(c for c in found if c.metric == "recall@5" and c.second.startswith("</"))
    assert recall.value == pytest.approx(5 / 6)
    assert 0 < recall.p <= recall.p_holm <= 1


def test_numbers_repeat_with_the_seed(data):
    first, second = (report_result(evaluate_systems(data, systems(data), settings=FEW)) for _ in range(2))
    assert (first.rows, first.comparisons) == (second.rows, second.comparisons)


def test_the_page_shows_texts_and_obeys_none(evaluation, tmp_path):
    write_report(evaluation, tmp_path)
    page = (tmp_path / "report.html").read_text()
    assert "<b>bad" not in page
    assert page.count("</script>") == 2  # the page's own
    assert not re.search(r'(src|href)="(?!data:)', page)
    block = re.search(r'type="application/json">(.*?)</script>', page, re.DOTALL)
    turns = json.loads(block[1])
    assert turns["total"] == 5
    assert [t["id"] for t in turns["protocols"]["all"]] == ["t0", "t1", "t2", "t3"]
    shown = (tmp_path / "report.md").read_text()
    assert "<b>" not in shown
    assert "&lt;b>bad\\|" in shown


def test_turn_rows_say_what_happened(evaluation):
    rows = turn_rows(evaluation, "new")
    assert [row["id"] for row in rows] == ["t0", "t1", "t3"]
    second = rows[1]["systems"]["good"]
    assert second["pick"] == "Title 4 (1994)"
    assert [c["title"] for c in second["candidates"]] == ["Title 4 (1994)", "Title 1 (1991)"]
    assert [c["target"] for c in second["candidates"]] == [False, True]
    assert second["ranks"] == [2]
    assert rows[0]["systems"]["good"]["candidates"][0]["probability"] == 0.7
    assert [row["id"] for row in lost_turns(evaluation, "good", "new")] == ["t1", "t3"]


def test_a_protocol_without_a_pair_is_said_and_breaks_nothing(items, tmp_path):
    data = EvaluationData((make_turn(0, "a", ["i0"], None),), items)
    evaluation = evaluate_systems(
        data, [align("s", [Prediction(id="t0", ranking=("i0",))], data)], settings=FEW
    )
    summary = write_report(evaluation, tmp_path)
    assert {row["protocol"] for row in summary["rows"]} == {"all", ""}
    assert summary["protocols"]["new"]["turns_without_mention_labels"] == 1
    assert rows_of(summary, system="s", metric="recall@1")[0]["value"] == 1
    assert "no pair is left" in (tmp_path / "report.md").read_text()


def test_names_that_would_mix_up_systems_are_refused(data):
    one = systems(data)[0]
    with pytest.raises(InputError, match="two systems are called 'good'"):
        evaluate_systems(data, [one, one])
    named = align("BM25", [Prediction(id="t0", ranking=())], data)
    with pytest.raises(InputError, match="a baseline's name"):
        evaluate_systems(data, [named])


def test_what_fails_leaves_the_earlier_report_as_it_was(evaluation, tmp_path):
    write_report(evaluation, tmp_path)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    broken = evaluation.systems[0]
    spent = Prediction.model_construct(**{**dict(broken.predictions[0]), "timings": {"rerank": float("nan")}})
    systems = (replace(broken, predictions=(spent, *broken.predictions[1:])), *evaluation.systems[1:])
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_report(replace(evaluation, systems=systems), tmp_path)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(StorageError, match="cannot be written"):
        write_report(evaluation, tmp_path / "file")


# -- results in a README


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
    summary = write_report(books, tmp_path / "report")
    readme = tmp_path / "README.md"
    readme.write_text(f"# Mine\n\n{BEGIN}\nold\n{END}\n\nend\n")
    write_results(readme, [("Books", tmp_path / "report")])
    text = readme.read_text()
    assert text.startswith("# Mine\n")
    assert text.endswith(f"{END}\n\nend\n")
    assert "old" not in text
    entry = rows_of(summary, protocol="new", system="BM25", metric="rec_success_rate")[0]
    assert f"{entry['value']:.3f} [{entry['low']:.3f}, {entry['high']:.3f}]" in text
    again = write_results(readme, [("Books", tmp_path / "report")])
    assert readme.read_text() == text
    assert again in text


def test_an_experiment_becomes_one_table(tmp_path):
    about = {"settings": {"level": 0.95}, "data": {"hash": "0123456789abcdef", "files": {}}}
    rows = [
        Row(system, "", protocol, "Recall@1", 0.2 - shift, n, 0.15 - shift, 0.25 - shift)
        for system, shift in (("fusion", 0.0), ("without bm25", 0.1))
        for protocol, n in (("all", 271), ("new", 211))
    ]
    rows += [Row("fusion", "", "all", "Recall@50", None, 0), Row("fewer", "", "all", "Recall@1", 0.5, 9)]
    rows += [Row("theirs", "", "all", "Recall@1", None, 0, paper=0.3, paper_setting="8B")]
    gain = Comparison(
        "fusion", "without bm25", "", "all", "Recall@1", 0.1, 0.05, 0.15, 1e-4, 4e-4, 1.0, paper_gain=0.81
    )
    other = replace(gain, metric="Recall@5", paper_gain=None)  # nothing of the paper's to stand beside
    result = Result("ablation", "Ablation", "here", rows, [gain, other], reading="Read it so.")
    write_result(result, tmp_path, about)
    readme = tmp_path / "README.md"
    readme.write_text(f"{BEGIN}\n{END}\n")
    write_results(readme, [("Films", tmp_path / "ablation.json")])
    text = readme.read_text()
    assert "**Films, Ablation** (n: 271 all, 211 new; 95% intervals over dialogues)" in text
    assert "| system | all Recall@1 | new Recall@1 |" in text  # nothing was measured at 50
    assert "| without bm25 | 0.100 [0.050, 0.150] | 0.100 [0.050, 0.150] |" in text
    assert "| fewer | 0.500 (n=9) |  |" in text
    assert "| theirs | (paper: 8B 0.3) |  |" in text
    assert "| all Recall@1 | +0.100 [+0.050, +0.150] | +100% | +81% | &lt;0.001 |" in text
    assert "Read it so." in text
    assert "Recall@5" not in text
    assert re.search(r"Made on [\d-]+ by `.+` \(data `0123456789ab`\)\.", text)
    (tmp_path / "other.json").write_text("{}")
    with pytest.raises(InputError, match="neither report nor experiment"):
        write_results(readme, [("Films", tmp_path / "other.json")])
    assert readme.read_text() == text


def test_a_readme_without_marks_is_left_alone(tmp_path):
    readme = tmp_path / "README.md"
    readme.write_text("# Mine\n")
    with pytest.raises(InputError, match="no place for the results"):
        write_results(readme, [])
    assert readme.read_text() == "# Mine\n"
    with pytest.raises(InputError, match="no such file"):
        write_results(tmp_path / "absent.md", [])
