"""Keras 3 on PyTorch trains under injection as it is.

In a process of its own: Keras reads what its backend is when it is imported.
"""

import importlib.util
import json
import os
import subprocess
import sys
from typing import Any

import pytest

from miscompute.hardware import PASSES

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("keras") is None, reason="keras is not installed: pip install .[keras]"
)

_PROGRAM = """
import json
import keras
import torch
import miscompute as mc

torch.set_num_threads(1)
FAULT = mc.parse_fault("weight[0,0] bit 31 flip")


def build():
    keras.utils.set_random_seed(3)
    model = keras.Sequential(
        [
            keras.Input((6, 6, 3)),
            keras.layers.Conv2D(8, 3, padding="same", activation="relu"),
            keras.layers.Conv2DTranspose(4, 3, strides=2),
            keras.layers.Flatten(),
            keras.layers.Dense(8, activation="relu"),
            keras.layers.Dense(4),
        ]
    )
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(optimizer=keras.optimizers.Adam(1e-3), loss=loss)
    return model


images = torch.randn(12, 6, 6, 3, generator=torch.Generator().manual_seed(1)).numpy()
labels = (torch.arange(12) % 4).numpy()


def fit(model):
    model.fit(images, labels, batch_size=4, epochs=1, shuffle=False, verbose=0)
    return [value.detach().clone() for value in model.parameters()]


def equal(a, b):
    return len(a) == len(b) > 0 and all(torch.equal(one, other) for one, other in zip(a, b))


golden = fit(build())
model = build()
with mc.inject(model, FAULT, array=mc.nvdla_small()) as injection:
    faulty = fit(model)
paused_model = build()
with mc.inject(paused_model, FAULT, array=mc.nvdla_small()) as paused, paused.paused():
    healthy = fit(paused_model)

own = build()
optimizer = torch.optim.Adam(own.parameters(), lr=1e-3)
once = mc.parse_fault("weight[0,0] bit 31 flip transient step 1")
changed = []
with mc.inject(own, once, array=mc.nvdla_small()) as stepped:
    for first in (0, 4, 8):
        optimizer.zero_grad()
        y = own(torch.from_numpy(images[first : first + 4]), training=True)
        torch.nn.functional.cross_entropy(y, torch.from_numpy(labels[first : first + 4])).backward()
        optimizer.step()
        changed.append(stepped.log.reached)

print(
    json.dumps(
        {
            "rows": [[row.layer, row.pass_, row.executions, row.changed] for row in injection.log],
            "unlowered": injection.log.unlowered,
            "steps": injection.step,
            "is_deterministic": equal(golden, fit(build())),
            "is_faulty": not equal(faulty, golden),
            "is_healthy_paused": equal(healthy, golden),
            "paused": paused.log.reached,
            "own_steps": stepped.step,
            "own_reached": changed,
        }
    )
)
"""


@pytest.fixture(scope="module")
def found() -> dict[str, Any]:
    run = subprocess.run(
        [sys.executable, "-W", "error", "-c", _PROGRAM],
        env={**os.environ, "KERAS_BACKEND": "torch"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stderr[-2000:]
    values: dict[str, Any] = json.loads(run.stdout.splitlines()[-1])
    return values


def test_fit_runs_on_the_faulty_array_in_all_passes(found: dict[str, Any]) -> None:
    passes: dict[str, set[str]] = {}
    for layer, pass_, executions, _ in found["rows"]:
        passes.setdefault(layer, set()).add(pass_)
        assert executions >= 3  # as many batches, and Keras runs a model once to build it
    dense = [name for name in passes if "dense" in name]
    assert len(dense) == 2
    assert any("conv2d_transpose" in name for name in passes)
    assert all(passes[name] == set(PASSES) for name in (*dense, *(n for n in passes if "transpose" in n)))
    (convolution,) = [name for name in passes if not name.endswith("kernel")]  # whose kernel Keras transposes first
    assert passes[convolution] == {"forward", "grad_weight"}  # nobody wants the gradient of the images
    assert found["unlowered"] == {}
    assert found["is_deterministic"]
    assert found["is_faulty"]
    assert all(changed for _, pass_, _, changed in found["rows"] if pass_ == "forward")


def test_paused_it_is_the_healthy_machine(found: dict[str, Any]) -> None:
    assert found["is_healthy_paused"]
    assert found["paused"] == 0


def test_steps_are_counted_of_pytorchs_optimizers_alone(found: dict[str, Any]) -> None:
    """Keras's own are no `torch.optim.Optimizer`: a fault at a later step needs a loop with one that is."""
    assert found["steps"] == 0
    assert found["own_steps"] == 3
    before, during, after = found["own_reached"]
    assert before == 0 < during == after
