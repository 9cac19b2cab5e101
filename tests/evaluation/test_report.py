from __future__ import annotations

import json
import re
from dataclasses import replace

import numpy as np
import pytest

from reges_index.errors import InputError, StorageError
from reges_index.evaluation.baselines import BASELINES
from reges_index.evaluation.compare import compare_reports
from reges_index.evaluation.data import EvaluationData
from reges_index.evaluation.diagnosis import lost_turns, turn_rows
from reges_index.evaluation.markdown import table
from reges_index.evaluation.predictions import Prediction, align
from reges_index.evaluation.report import script_json, write_report
from reges_index.evaluation.scoring import evaluate_systems
from reges_index.evaluation.settings import EvaluationSettings
from reges_index.evaluation.stats import holm
from reges_index.evaluation.summary import summarize

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


def test_a_report_has_every_part(evaluation, tmp_path):
    summary = write_report(evaluation, tmp_path / "out", command=["reges", "evaluate", "--out", "a b"])
    files = {path.name for path in (tmp_path / "out").iterdir()}
    assert files == {
        *("report.json", "report.md", "report.html", "scores.json"),
        *("recall.png", "fates.png", "groups.png", "reliability.png"),
    }
    read = json.loads((tmp_path / "out" / "report.json").read_text())
    assert read == summary
    assert read["provenance"]["command"] == "reges evaluate --out 'a b'"
    assert read["data"]["hash"] == evaluation.data.hash
    good = read["protocols"]["all"]["systems"]["good"]
    # Full precision: 3 of 6 pairs, not 0.5 by rounding of something else.
    assert good["per_target"]["recall@5"]["value"] == pytest.approx(5 / 6, abs=1e-15)
    assert good["per_target"]["rec_success_rate"]["value"] == pytest.approx(2 / 6, abs=1e-15)
    assert good["per_dialogue"]["recall@5"]["value"] == pytest.approx((1 + 2 / 3) / 2, abs=1e-15)
    assert good["fates"] == {"not_in_catalog": 1, "not_in_top_k": 0, "not_picked": 3, "picked": 2}
    assert read["systems"]["good"]["hallucination"] == {"answers": 4, "no_catalog_item": 1, "ratio": 0.25}
    assert read["systems"]["good"]["timings"]["rerank"]["mean"] == 2
    assert read["systems"]["good"]["tokens"]["prompt"]["count"] == 1
    assert read["systems"]["</script><b>bad|"]["counts"]["missing_turns"] == 4
    assert read["baselines_left_out"].keys() == {"retriever"}


def test_the_comparison_is_of_the_systems_asked_for(evaluation):
    summary = summarize(evaluation)
    found = summary["protocols"]["all"]["comparisons"]
    assert {(c["first"], c["second"]) for c in found} >= {("good", "</script><b>bad|"), ("good", "BM25")}
    assert not any(c["first"] == "most popular" for c in found)
    recall = next(c for c in found if c["metric"] == "recall@5" and c["second"].startswith("</"))
    assert recall["value"] == pytest.approx(5 / 6)
    assert 0 < recall["p"] <= recall["p_holm"] <= 1


def test_numbers_repeat_with_the_seed(data):
    first, second = (
        summarize(evaluate_systems(data, systems(data), settings=FEW))["protocols"] for _ in range(2)
    )
    assert first == second


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


def test_script_json_survives_hostile_text():
    text = {"a": "</script><!-- & \u2028"}
    written = script_json(text)
    assert not set("<>&\u2028") & set(written)
    assert json.loads(written) == text


def test_cells_stay_in_their_columns():
    assert table(["a", "b"], [["x|y", "two\nlines"]]).splitlines()[2] == "| x\\|y | two lines |"


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
    assert summary["protocols"]["new"]["systems"] == {}
    assert summary["protocols"]["new"]["counts"]["turns_without_mention_labels"] == 1
    assert summary["protocols"]["all"]["systems"]["s"]["per_target"]["recall@1"]["value"] == 1
    assert "No pair is left" in (tmp_path / "report.md").read_text()


def test_names_that_would_mix_up_systems_are_refused(data):
    one = systems(data)[0]
    with pytest.raises(InputError, match="two systems are called 'good'"):
        evaluate_systems(data, [one, one])
    named = align("BM25", [Prediction(id="t0", ranking=())], data)
    with pytest.raises(InputError, match="a baseline's name"):
        evaluate_systems(data, [named])
    with pytest.raises(InputError, match="aligned with 5 turns"):
        evaluate_systems(data.subset(data.turns[:3]), [one])


def test_what_fails_leaves_the_earlier_report_as_it_was(evaluation, tmp_path):
    write_report(evaluation, tmp_path)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    broken = evaluation.systems[0]
    spent = Prediction.model_construct(**{**dict(broken.predictions[0]), "timings": {"rerank": float("nan")}})
    systems = (replace(broken, predictions=(spent, *broken.predictions[1:])), *evaluation.systems[1:])
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_report(replace(evaluation, systems=systems), tmp_path)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_a_folder_that_cannot_be_written(evaluation, tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(StorageError, match="cannot be written"):
        write_report(evaluation, tmp_path / "file")


def test_two_reports_compare_like_two_systems_in_one(data, tmp_path):
    good, bad = systems(data)
    write_report(evaluate_systems(data, [good], settings=FEW), tmp_path / "a")
    write_report(evaluate_systems(data, [bad], settings=FEW), tmp_path / "b")
    apart = compare_reports(tmp_path / "a", tmp_path / "b" / "report.json", resamples=200)
    together = summarize(evaluate_systems(data, [good, bad], settings=FEW))["protocols"]
    for protocol in ("all", "new"):
        key = {(c["first"], c["second"], c["metric"]): c for c in together[protocol]["comparisons"]}
        ours = [c for c in apart[protocol] if c["first"] == "good" and c["second"].startswith("</")]
        assert ours
        for row in ours:
            theirs = key[row["first"], row["second"], row["metric"]]
            for value in ("value", "low", "high", "p"):
                assert row[value] == pytest.approx(theirs[value], abs=1e-12)
        # The same pairs but for those of a system with its own report's baselines.
        recall = [c for c in apart[protocol] if c["metric"] == "recall@5"]
        assert len(recall) == 1 + 2 * 3
        assert [c["p_holm"] for c in recall] == pytest.approx(holm([c["p"] for c in recall]))
    assert not any(c["first"] in BASELINES and c["second"] in BASELINES for c in apart["all"])


def test_systems_of_one_name_are_told_apart_by_their_reports_folders(data, tmp_path):
    good, bad = systems(data)
    same_name = replace(bad, name="good")
    for system, folders in ((good, ("a", "x/report")), (same_name, ("b", "y/report"))):
        for folder in folders:
            write_report(evaluate_systems(data, [system], settings=FEW), tmp_path / folder)
    found = compare_reports(tmp_path / "a" / "report.json", tmp_path / "b", resamples=200)["all"]
    (success,) = [
        c for c in found
        if c["metric"] == "rec_success_rate" and {c["first"], c["second"]}.isdisjoint(BASELINES)
    ]  # fmt: skip
    assert (success["first"], success["second"]) == ("good (a)", "good (b)")
    assert success["value"] == pytest.approx(2 / 6)
    assert {(c["first"], c["second"]) for c in found} >= {("BM25", "good (b)"), ("good (a)", "BM25")}
    x, y = tmp_path / "x" / "report", tmp_path / "y" / "report"
    assert any(
        (c["first"], c["second"]) == (f"good ({x})", f"good ({y})")
        for c in compare_reports(x, y, resamples=200)["all"]
    )


def test_reports_of_different_data_are_not_compared(data, tmp_path):
    write_report(evaluate_systems(data, settings=FEW), tmp_path / "a")
    write_report(evaluate_systems(data.subset(data.turns[:3]), settings=FEW), tmp_path / "b")
    with pytest.raises(InputError, match="data differ"):
        compare_reports(tmp_path / "a", tmp_path / "b")
    with pytest.raises(InputError, match="no such file"):
        compare_reports(tmp_path / "a", tmp_path / "nowhere")


def test_pictures_are_drawn(evaluation, tmp_path):
    from PIL import Image

    write_report(evaluation, tmp_path)
    for name in ("recall", "fates", "groups"):
        picture = np.asarray(Image.open(tmp_path / f"{name}.png").convert("RGB"))
        assert min(picture.shape[:2]) > 300
        assert len(np.unique(picture.reshape(-1, 3), axis=0)) > 20
