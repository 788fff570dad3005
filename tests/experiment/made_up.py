"""A data set made up of noise, ready at once, and the command line on it: ``python made_up.py train ...``.

What the variable DAWDLES names, a run, takes a rest after each step: time for a test to interrupt it.
"""

import os
import time
from collections.abc import Callable
from typing import Any

import torch

from miscompute.tasks import DataSet


def made_up(*_: object, **__: object) -> DataSet:
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (1_100, 1, 32, 32), generator=generator, dtype=torch.uint8)
    labels = torch.randint(0, 10, (1_100,), generator=generator)
    return DataSet(
        name="made up",
        train_images=images[:1_000],
        train_labels=labels[:1_000],
        validation_images=images[1_000:],
        validation_labels=labels[1_000:],
        classes=tuple("0123456789"),
        mean=(0.5,),
        std=(0.289,),
        augment=False,
    )


if __name__ in ("__main__", "__mp_main__"):  # the latter in workers
    from miscompute.experiment import Run, _experiment, execute

    def dawdling(run: Run, *args: Any, report: Callable[[int], None], **more: Any) -> Any:
        def rest(step: int) -> None:
            report(step)
            time.sleep(0.05 if run.name == os.environ.get("DAWDLES") else 0)

        return execute(run, *args, report=rest, **more)

    _experiment.load_data = _experiment._data = made_up  # type: ignore[assignment, attr-defined]
    _experiment.execute = dawdling  # type: ignore[assignment, attr-defined]

if __name__ == "__main__":
    from miscompute.__main__ import main

    main()
