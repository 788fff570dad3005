"""RTL vectors: all are reproduced, tampered ones are not, damaged ones are said to be."""

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from miscompute import InvalidInput
from miscompute.validation import check_vectors

pytestmark = pytest.mark.usefixtures("one_thread", "unchecked")

CASES = {
    "conv_int8_64x32": 192,
    "conv_int8_8x8": 1005,
    "fp16_mac": 1100,
    "gate_lut": 8,
    "mac_int8": 793,
    "transient_8x8": 251,
}


def test_every_vector_is_reproduced(vectors: Path) -> None:
    agreements = check_vectors(vectors)
    assert [str(agreement) for agreement in agreements if not agreement.is_full] == []
    for source, cases in CASES.items():
        assert sum(a.cases for a in agreements if a.source == source) == cases


def rewritten(vectors: Path, folder: Path, name: str, **changes: Any) -> Path:
    """Copy an archive with some of its arrays changed or, where None, left out."""
    with np.load(vectors / f"{name}.npz", allow_pickle=False) as archive:
        arrays = {key: changes.get(key, value) for key, value in archive.items()}
    np.savez(folder / "another_name.npz", **{key: value for key, value in arrays.items() if value is not None})
    return folder


def tampered(vectors: Path, name: str, key: str) -> Any:
    with np.load(vectors / f"{name}.npz", allow_pickle=False) as archive:
        values = archive[key].copy()
    flat = values.reshape(-1)
    flat[len(flat) // 2] ^= 1
    return values


@pytest.mark.parametrize(
    ("name", "of_faults", "of_no_fault"),
    [
        ("conv_int8_64x32", "y_fault1", "y_ref0"),
        ("transient_8x8", "y_fault", "y_ref"),
        ("transient_8x8", "n_pixels", "y_ref"),
        ("fp16_mac", "out_faulty", "out_ref"),
    ],
)
def test_one_changed_bit_is_one_disagreement(
    vectors: Path, tmp_path: Path, name: str, of_faults: str, of_no_fault: str
) -> None:
    changes = {key: tampered(vectors, name, key) for key in (of_faults, of_no_fault)}
    wrong = [found for found in check_vectors(rewritten(vectors, tmp_path, name, **changes)) if not found.is_full]
    assert [found.cases - found.agreeing for found in wrong] == [1, 1]
    assert sorted(found.kind == "no fault" for found in wrong) == [False, True]
    assert all(found.example for found in wrong)
    assert {found.source for found in wrong} == {"another_name"}


def test_a_table_that_corrupts_zeros_is_no_multiplier(vectors: Path, tmp_path: Path) -> None:
    with np.load(vectors / "gate_lut.npz", allow_pickle=False) as archive:
        errors = archive["err"].copy()
    errors[2, 128, 5] = 4
    (agreement,) = check_vectors(rewritten(vectors, tmp_path, "gate_lut", err=errors))
    assert (agreement.agreeing, agreement.cases) == (len(errors) - 1, len(errors))


def test_what_cannot_be_read_is_said(vectors: Path, tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match=r"holds no \.npz archive"):
        check_vectors(tmp_path)
    with pytest.raises(InvalidInput, match=r"holds no \.npz archive"):
        check_vectors(tmp_path / "nowhere")
    np.savez(tmp_path / "strange.npz", a=np.zeros(3))
    with pytest.raises(InvalidInput, match=r"strange\.npz is of no known layout; it holds a"):
        check_vectors(tmp_path)
    (tmp_path / "strange.npz").write_bytes(b"PK\x03\x04 not an archive")
    with pytest.raises(InvalidInput, match=r"strange\.npz cannot be read"):
        check_vectors(tmp_path)
    (tmp_path / "strange.npz").unlink()
    with pytest.raises(InvalidInput, match=r"another_name\.npz is damaged or incomplete"):
        check_vectors(rewritten(vectors, tmp_path, "conv_int8_64x32", f_bit=None))
    shutil.rmtree(tmp_path)
