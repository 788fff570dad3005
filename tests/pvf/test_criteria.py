"""When an inference fails, on scores written down."""

import pytest
import torch

from miscompute._invalid import InvalidInput
from miscompute.pvf import CRITERIA, Limits
from miscompute.pvf._criteria import Golden, check_criteria, failures

NAN, INF = torch.nan, torch.inf
GOLDEN = [6.0, 5.0, 4.0, 3.0, 2.0, 1.0]


@pytest.mark.parametrize(
    ("faulty", "failed"),
    [
        (GOLDEN, ""),
        ([6.0, 5.0, 4.0, 3.0, 2.0, 1.05], ""),
        ([6.0, 5.0, 4.0, 3.0, 2.0, 2.0], "output"),
        ([4.5, 5.0, 4.0, 3.0, 2.0, 1.0], "top1 label output loss perplexity"),
        ([0.0, 5.0, 4.0, 3.0, 2.0, 1.0], "top1 label top5 output loss perplexity"),
        ([6.0, 6.0, 4.0, 3.0, 2.0, 1.0], "output loss perplexity"),  # of equals the first is predicted
        ([INF, 5.0, 4.0, 3.0, 2.0, 1.0], "nonfinite output loss perplexity"),
        ([6.0, 5.0, 4.0, 3.0, 2.0, -INF], "nonfinite output"),
        ([6.0, 5.0, 4.0, 3.0, 2.0, NAN], "top1 label top5 nonfinite output loss perplexity"),
        ([6.0, INF, 4.0, 3.0, 2.0, 1.0], "top1 label nonfinite output loss perplexity"),
    ],
)
def test_every_criterion(faulty: list[float], failed: str) -> None:
    golden = Golden(torch.tensor([GOLDEN]), torch.tensor([0]), torch.tensor([0]))
    found = failures(torch.tensor([faulty]), golden, tuple(CRITERIA), Limits())
    assert {name for name, one in zip(CRITERIA, found.flatten().tolist(), strict=True) if one} == set(failed.split())


def test_a_wrong_prediction_cannot_become_a_misclassification() -> None:
    golden = Golden(torch.tensor([GOLDEN]), torch.tensor([0]), torch.tensor([3]))
    found = failures(torch.tensor([[0.0, 9.0, 0, 0, 0, 0]]), golden, ("top1", "label"), Limits())
    assert found.flatten().tolist() == [True, False]


def test_a_text_fails_as_a_whole_by_its_perplexity() -> None:
    golden = Golden(torch.zeros(6, 2), torch.zeros(6, dtype=torch.int64), torch.zeros(6, dtype=torch.int64))
    scores = torch.zeros(6, 2)
    scores[1, 1] = 0.5  # alone it is 28 % worse, which over three places is 9 %
    scores[4, 1] = 1.0
    found = failures(scores, golden, ("perplexity",), Limits(places=3))
    assert found.tolist() == [[False, False, False, True, True, True]]
    assert failures(scores, golden, ("perplexity",), Limits(places=3, perplexity=0.5)).sum() == 0
    scores[0] = torch.nan
    assert failures(scores, golden, ("perplexity",), Limits(places=3)).all()
    with pytest.raises(InvalidInput, match="places=0 of Limits must be at least 1"):
        Limits(places=0)


def test_criteria_and_limits_that_cannot_be() -> None:
    with pytest.raises(InvalidInput, match=r"criteria=\(\) must name at least one"):
        check_criteria((), None)
    with pytest.raises(InvalidInput, match="criterion='top2' is unknown; choose from top1"):
        check_criteria(("top2",), None)
    with pytest.raises(InvalidInput, match="criterion='label' needs labels"):
        check_criteria(("label",), None)
    with pytest.raises(InvalidInput, match=r"output=0.0 of Limits must be greater than 0"):
        Limits(output=0.0)
