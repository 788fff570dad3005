"""Faults of neurons: against a hook that writes the faulty element."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from miscompute._invalid import InvalidInput
from miscompute.pvf import neuron_vulnerability

from .conftest import Subject

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.mark.parametrize(("name", "layer"), [("lenet5", "conv2"), ("resnet18", "conv1"), ("gpt", "blocks.1.up")])
def test_drawn_faults_have_the_counts_of_a_hook(subject: Callable[[str], Subject], name: str, layer: str) -> None:
    model, inputs, labels = subject(name)
    inputs, labels = inputs[:12], labels[:12]
    found = neuron_vulnerability(
        model, inputs, labels, layers=[layer], trials=12, batch_size=5, criteria=("top1", "label", "nonfinite")
    )
    assert found.work.whole == found.work.pairs == 12 * 12
    module = model.get_submodule(layer)
    with torch.no_grad():
        golden = torch.cat([model(inputs[at : at + 5]) for at in range(0, 12, 5)]).flatten(0, -2)
        for one in found.measured:
            (element,) = one.faults.elements
            for column, effect in enumerate(one.faults.effects):
                (bit,) = effect.bits  # type: ignore[attr-defined]

                def wrong(
                    module: nn.Module, given: object, result: Tensor, element: int = element, bit: int = bit
                ) -> Tensor:
                    changed = result.clone()
                    flat = changed.view(len(changed), -1)
                    flips = torch.tensor(1 << bit if bit < 31 else -(1 << 31), dtype=torch.int32)
                    flat[:, element] = (flat[:, element].contiguous().view(torch.int32) ^ flips).view(torch.float32)
                    return changed

                hook = module.register_forward_hook(wrong)
                scores = torch.cat([model(inputs[at : at + 5]) for at in range(0, 12, 5)]).flatten(0, -2)
                hook.remove()
                failed = (scores.argmax(1) != golden.argmax(1)) | scores.isnan().any(1)
                assert int(one.failures[0, 0, column]) == int(failed.sum())
                assert int(one.failures[2, 0, column]) == int((~scores.isfinite()).any(1).sum())


def test_all_faults_of_a_layer_and_what_cannot_be(subject: Callable[[str], Subject]) -> None:
    model, inputs, _ = subject("mlp")
    found = neuron_vulnerability(model, inputs[:20], layers=["fc3"], format="fp8_e5m2")
    assert found.exhaustive
    assert found.rows("model")[0].faults == 10 * 8
    assert len(found.rows("channel")) == 10
    drawn = [
        neuron_vulnerability(model, inputs[:20], layers=["fc3"], kinds=["random-bits:2"], batch_size=size)
        for size in (3, 20)
    ]
    failures = [one.failures()["fc3"] for one in drawn]
    assert torch.equal(*failures)  # the bits are the element's, whatever runs together
    assert 0 < int(failures[0].sum()) < 10 * 20
    with pytest.raises(InvalidInput, match="layer 'fc9' is not there; choose from fc1, fc2, fc3"):
        neuron_vulnerability(model, inputs[:2], layers=["fc9"])
    with pytest.raises(InvalidInput, match="format=int8:max of neurons must be of floating point"):
        neuron_vulnerability(model, inputs[:2], format="int8:max")
    with pytest.raises(InvalidInput, match="trials=0 must be at least 1; leave it out for all faults"):
        neuron_vulnerability(model, inputs[:2], trials=0)
    with pytest.raises(InvalidInput, match="labels are 3, but there are 2 inferences; give one for each"):
        neuron_vulnerability(model, inputs[:2], torch.zeros(3, dtype=torch.int64))
    with pytest.raises(InvalidInput, match="scores without any fault are not finite in format=fp32"):
        neuron_vulnerability(model, inputs[:2] * torch.inf)
