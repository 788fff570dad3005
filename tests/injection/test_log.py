"""The log: sums by layer and pass, in order, however many executions there were."""

import torch
from torch import Tensor

from miscompute.injection import Log, LogRow


def ones(n: int) -> list[Tensor]:
    return [torch.tensor(1)] * n


def test_rows_are_sums_in_the_order_of_layers_and_passes() -> None:
    log = Log()
    log.add("b", "forward", 3, ones(2))
    log.add("a", "grad_weight", 5, ones(1))
    log.add("a", "forward", 7, [])
    log.add("a", "grad_weight", 5, [torch.tensor([[1, -1, 0], [0, 2, 1 << 28]])])
    rows = list(log)
    assert rows == [
        LogRow(layer="a", pass_="forward", executions=1, reached=7, changed=0),
        LogRow(layer="a", pass_="grad_weight", executions=2, reached=10, changed=5),
        LogRow(layer="b", pass_="forward", executions=1, reached=3, changed=2),
    ]
    assert (log.reached, log.changed) == (20, 7)
    assert list(log) == rows  # reading changes nothing


def test_counts_do_not_pile_up() -> None:
    log = Log()
    for _ in range(1000):
        log.add("layer", "forward", 2, ones(1))
    assert len(log._entries["layer", "forward"].pending) <= Log._PENDING
    assert [(row.executions, row.reached, row.changed) for row in log] == [(1000, 2000, 1000)]


def test_no_more_elements_are_kept_than_are_few() -> None:
    log = Log()
    for _ in range(20):
        log.add("layer", "forward", 1000, [torch.eye(1000, dtype=torch.int32)[:4]])
        assert sum(tensor.numel() for tensor in log._entries["layer", "forward"].pending) <= Log._ELEMENTS
    assert log.changed == 80


def test_it_prints_as_a_table() -> None:
    log = Log()
    assert str(log).split() == ["layer", "pass", "executions", "reached", "changed"]
    log.add("features.0", "grad_input", 1234, ones(3))
    log.unlowered["torch.bmm"] = 2000
    _, row, missed = str(log).splitlines()
    assert row.split() == ["features.0", "grad_input", "1", "1,234", "3"]
    assert missed == "not lowered: torch.bmm, run 2,000 times"
