"""Campaigns in workers, and by the command line: on a text that is found in a folder."""

import json
import sys
import warnings
from pathlib import Path
from typing import Any

import pytest
from tests.campaigns.made_up import Here, results

from miscompute.__main__ import main
from miscompute.campaigns import ENGINES, campaign, schema, spec_of

TEXT: dict[str, Any] = {
    "name": "text",
    "faults": "weight[0..7,0..7] bit 20..30 flip transient step * pass * layer *",
    "plan": {"kind": "fixed", "trials": 6},
    "golden_seeds": 2,
    "task": {"data": "tiny_shakespeare", "model": "gpt", "width": 0.25, "steps": 3, "batch_size": 2},
}


def test_every_engine_gives_the_same_rows(tmp_path: Path) -> None:
    """In workers, which find a text of their own in a folder."""
    (tmp_path / "tinyshakespeare.txt").write_text("To be, or not to be, that is the question:\n" * 200)
    folders = []
    for engine in ENGINES:
        if engine == "ray":
            pytest.importorskip("ray", reason="the extra `ray` is not installed")
        folders.append(tmp_path / engine)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what Ray says of itself when it starts
            campaign(spec_of(TEXT), folders[-1], engine=engine, workers=2, data_folder=tmp_path, quiet=True)
    alone = tmp_path / "alone"
    campaign(spec_of(TEXT), alone, engine=Here(), shortcuts=False, data_folder=tmp_path, quiet=True)
    assert len(results(alone)) == 6
    for folder in folders:
        assert results(folder) == results(alone)


def test_the_command_line_carries_a_campaign_out_and_shows_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "tinyshakespeare.txt").write_text("To be, or not to be, that is the question:\n" * 200)
    spec, out = tmp_path / "spec.toml", str(tmp_path / "out")
    spec.write_text(
        'name = "tiny"\nfaults = "weight[0,0] bit 0..1 flip transient step 2 pass forward layer blocks.0.up"\n'
        'plan = { kind = "exhaustive" }\ngolden_seeds = 2\n'
        '[task]\ndata = "tiny_shakespeare"\nmodel = "gpt"\nwidth = 0.25\nsteps = 3\nbatch_size = 2\n'
    )

    def miscompute(*arguments: str) -> tuple[object, str, str]:
        monkeypatch.setattr(sys, "argv", ["miscompute", *arguments])
        with pytest.raises(SystemExit) as ended:
            main()
        return ended.value.code or 0, *capsys.readouterr()

    code, said, _ = miscompute("campaign", str(spec), "--out", out, "--workers", "1", "--data-folder", str(tmp_path))
    assert (code, "2 trials of 2 faults" in said, "rate by bit" in said) == (0, True, True)
    assert "bit 1 flip transient step 2" in miscompute("store", "show", out, "1")[1]
    code, said, _ = miscompute("store", "replay", out, "1", "--every", "3", "--data-folder", str(tmp_path))
    assert (code, "equal to the record, bit for bit" in said) == (0, True)
    assert "2 trials: " in miscompute("store", "export", out, str(tmp_path / "trials.csv"))[1]
    assert "2 new trials, 2 in all" in miscompute("store", "merge", str(tmp_path / "both"), out)[1]
    code, said, complaint = miscompute("store", "show", out, "77")
    assert (code, said, complaint.count("\n")) == (2, "", 1)
    code, _, complaint = miscompute("campaign", str(spec))
    assert (code, "name a spec and a folder" in complaint) == (2, True)
    assert json.loads(miscompute("campaign", "--schema")[1]) == schema()
