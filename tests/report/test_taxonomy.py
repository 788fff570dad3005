"""The picture of the taxonomy: a panel for each row of the table, and what is drawn is what is made up."""

from miscompute.outcome import OUTCOMES, examples
from miscompute.report import taxonomy_chart


def test_each_class_has_a_panel_with_its_curves() -> None:
    drawn = taxonomy_chart().to_dict()
    assert [panel.partition(" (")[0] for panel in drawn["facet"]["sort"]] == list(OUTCOMES)
    (rows,) = drawn["datasets"].values()
    for name, (golden, run) in examples().items():
        of_panel = [row for row in rows if row["panel"] == f"{name} ({OUTCOMES[name].family})"]
        accuracies = [row["accuracy"] for row in of_panel if row.get("curve") == "validation, on a healthy machine"]
        assert accuracies == [point.healthy_accuracy for point in run.points]
        assert len({row["line"] for row in of_panel if "line" in row}) == len(golden) + 3
        crash = [row["crash"] for row in of_panel if "crash" in row]
        assert crash == ([] if run.crash is None else [run.crash.step])
