"""From PVF to FIT: the product, its interval, and FIdelity's example on the command line."""

from typing import Any

import pytest
import torch
from torch import nn

import miscompute as mc
import miscompute.__main__ as command_line
from miscompute._invalid import InvalidInput
from miscompute.pvf import Vulnerability, model_fit

pytestmark = pytest.mark.usefixtures("one_thread")


def measured(**options: Any) -> Vulnerability:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 3))
    return mc.vulnerability(model, torch.randn(20, 4), **options)


def test_fit_is_bits_times_fit_per_bit_times_exposure_times_pvf() -> None:
    result = measured()
    (model,) = model_fit(result, 1024.0, exposure=0.25)
    (row,) = result.rows("model")
    assert model.bits == 32 * (12 + 3 + 9 + 3)
    assert model.raw == pytest.approx(model.bits / 2**20 * 1024 * 0.25)
    assert model.inference.best == pytest.approx(model.raw * row.pvf.best)
    assert model.any.best == pytest.approx(model.raw * row.critical.best)
    layers = model_fit(result, 1024.0, exposure=0.25, by="layer")
    assert sum(layer.inference.best for layer in layers) == pytest.approx(model.inference.best)
    assert model.inference.unit == model.any.unit == "FIT"


def test_of_drawn_faults_it_has_the_interval_of_the_pvf() -> None:
    (exact,) = model_fit(measured(), 600.0)
    (drawn,) = model_fit(measured(trials=100), 600.0)
    assert drawn.inference.low < exact.inference.best < drawn.inference.high
    assert (drawn.bits, drawn.raw) == (exact.bits, exact.raw)


def test_what_cannot_be() -> None:
    result = measured(format="fp8_e5m2")
    with pytest.raises(InvalidInput, match=r"fit_per_megabit=-1.0 must be finite and not negative"):
        model_fit(result, -1.0)
    with pytest.raises(InvalidInput, match=r"exposure=2.0 must be from 0 to 1"):
        model_fit(result, 1.0, exposure=2.0)
    for kinds in (("stuck-at-1",), ("flip", "stuck-at-1"), ("burst:2",)):
        with pytest.raises(InvalidInput, match="FIT is of upsets of single bits"):
            model_fit(measured(format="fp8_e5m2", kinds=kinds), 1.0)


def run(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    monkeypatch.setattr("sys.argv", ["miscompute", "fit", *arguments])
    with pytest.raises(SystemExit) as stopped:
        command_line.main()
    return int(stopped.value.code or 0)


def test_fidelitys_example_from_the_command_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """MICRO 2020, a ResNet, raw FIT 600: datapath 1.286, local control 0.080, global control 1.132, all 2.498."""
    parts = (
        "input=.018,.31,.0039",
        "weight=.035,.42,.0057",
        "input16=.117,.27,.0026",
        "weight16=.156,.27,.0114",
        "neuron=.272,.27,.0201",
        "local=.041,.27,.0120",
        "global=.081,.32,.0728",
    )
    assert run(monkeypatch, "--raw-fit", "600", *(word for part in parts for word in ("--part", part))) == 0
    fit = {
        line.split("│")[1].strip(): line.split("│")[5] for line in capsys.readouterr().out.splitlines() if "│" in line
    }
    datapath = sum(float(fit[name]) for name in ("input", "weight", "input16", "weight16", "neuron"))
    assert datapath == pytest.approx(1.286, abs=1e-3)
    assert float(fit["local"]) == pytest.approx(0.080, abs=5e-4)
    assert float(fit["global"]) == pytest.approx(1.132, abs=5e-4)
    assert float(fit["all"]) == pytest.approx(2.498, abs=1e-3)


@pytest.mark.parametrize(
    ("part", "said"),
    [
        ("neuron", "must be NAME=SHARE,ACTIVENESS,NOT_MASKED"),
        ("neuron=1,2", "must be NAME=SHARE,ACTIVENESS,NOT_MASKED"),
        ("neuron=.1,.2,3/x", "must be NAME=SHARE,ACTIVENESS,NOT_MASKED"),
        ("neuron=.1,.2,3/2", "events=3 must be from 0 to trials=2"),
        ("neuron=2,.2,.3", "raw_share=2.0 of component 'neuron' must be from 0 to 1"),
    ],
)
def test_parts_that_cannot_be_read(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], part: str, said: str
) -> None:
    assert run(monkeypatch, "--raw-fit", "600", "--part", part) == 2
    err = capsys.readouterr().err
    assert said in err
    assert err.count("\n") == 1


def test_a_measured_part_has_an_interval(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(monkeypatch, "--raw-fit", "600", "--part", "global control=.081,.32,182/2500") == 0
    assert "1.132 (0.9" in capsys.readouterr().out
