"""Draw a made-up run of each class of outcomes: the figure of docs/outcomes.md.

python examples/outcomes.py --out docs/figures/outcomes.png
"""

import argparse
import sys
from pathlib import Path

from miscompute.outcome import classify, examples
from miscompute.report import taxonomy_chart, write_png


def main() -> None:
    """Print why each run has its name, and write the figure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("docs/figures/outcomes.png"), help="a .png file")
    out: Path = parser.parse_args().out
    if out.suffix != ".png":
        sys.exit(f"outcomes: --out {out} is no picture; name a .png file")
    if not out.parent.is_dir():
        sys.exit(f"outcomes: --out {out}: no folder {out.parent}; make it, or name another")
    for golden, run in examples().values():
        print(classify(run, golden))
    write_png(taxonomy_chart().to_json(), out)
    print(out)


if __name__ == "__main__":
    main()
