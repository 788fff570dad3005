"""Campaigns by the command line, on a text that is found in a folder; what workers do is in test_engine.py."""

import json
import sys
from pathlib import Path

import pytest

from miscompute.__main__ import main
from miscompute.campaigns import schema


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
