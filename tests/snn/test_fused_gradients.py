"""What else autograd may ask of a neuron in kernels: gradients of gradients, many at once."""

from __future__ import annotations

import copy
import pickle
import threading
import warnings
from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.func import functional_call, jacrev, vmap

from spiketune.snn import IF, LIF, ATan, Firing, HardReset, Neuron, SignedIF, State, neuron_path
from spiketune.snn.fused import c_build, kernels, paths

SMOOTH = Firing(surrogate=ATan())
CHANNELS = torch.tensor([0.5, 0.7, 1.1], dtype=torch.float64).view(3, 1)
NEURONS: dict[str, Callable[[], Neuron]] = {
    "IF": lambda: IF(torch.tensor(0.7, dtype=torch.float64), firing=SMOOTH),
    "LIF, channels, hard": lambda: LIF(
        CHANNELS, leak=0.8,
        firing=Firing(surrogate=ATan(), reset=HardReset(0.1), detach_reset=False),
    ),
    "signed": lambda: SignedIF(torch.tensor(0.6, dtype=torch.float64), firing=SMOOTH),
}  # fmt: skip


def second(neuron: Neuron, path: str, steps: int) -> list[Tensor]:
    """Return gradients of a sum of squared gradients, through two runs one after the other."""
    torch.manual_seed(0)
    x = torch.randn(steps, 2, 3, 4, dtype=torch.float64).requires_grad_()
    weights = torch.randn(2, *x.shape, dtype=torch.float64)
    wanted = [x, *neuron.requires_grad_().parameters()]
    with neuron_path(path):
        # A current that depends on the threshold, which the neuron depends on too.
        first, state = neuron(x * (1 + neuron.threshold.mean()))
        then, state = neuron(x.flip(0), state)
        loss = (first * weights[0] + then * weights[1]).sum() + state.membrane.square().sum()
        grads = torch.autograd.grad(loss, wanted, create_graph=True)
    total = sum((grad.square().sum() for grad in grads), loss)
    return [*grads, *torch.autograd.grad(total, wanted)]


@pytest.mark.parametrize("name", NEURONS)
def test_second_derivatives_are_those_of_the_steps(name: str) -> None:
    neuron, steps = NEURONS[name](), 9 if name == "IF" else 2
    found, expected = (second(neuron, path, steps) for path in ("compiled", "eager"))
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other)
    assert all(one.any() for one in expected[len(expected) // 2 :])


def test_second_derivatives_against_finite_differences() -> None:
    torch.manual_seed(0)
    neuron = IF(torch.tensor(0.7, dtype=torch.float64), firing=SMOOTH)
    x = torch.randn(3, 1, 2, dtype=torch.float64).requires_grad_()
    with neuron_path("compiled"):
        assert torch.autograd.gradgradcheck(
            lambda now: (neuron(now)[0], neuron(now)[1].membrane), x
        )


def test_of_a_gradient_that_asks_for_none_itself() -> None:
    # d/dx h(x/θ - 1) of one step, by hand: the slope's own derivative.
    x = torch.tensor([[0.3]], requires_grad=True)
    with neuron_path("compiled"):
        spikes, _ = IF(torch.tensor(1.0), firing=SMOOTH)(x)
    (grad,) = torch.autograd.grad(spikes.sum(), x, create_graph=True)
    assert grad.requires_grad
    (found,) = torch.autograd.grad(grad.sum(), x)
    u = torch.pi * (0.3 - 1)
    assert found.item() == pytest.approx(-2 * torch.pi * u / (1 + u * u) ** 2, rel=1e-5)


def test_many_gradients_at_once() -> None:
    x, neuron = torch.randn(4, 2, 3), IF(torch.tensor(0.7))
    ways = torch.randn(5, 4, 2, 3)
    found = []
    for path in ("eager", "compiled"):
        leaf = x.clone().requires_grad_()
        with neuron_path(path):
            spikes, _ = neuron(leaf)
        found += torch.autograd.grad(spikes, leaf, ways, is_grads_batched=True)
    torch.testing.assert_close(found[1], found[0])


def test_transforms_of_functions_see_the_steps() -> None:
    x, neuron = torch.randn(5, 4, 2, 3), IF(torch.tensor(0.7))
    with neuron_path("compiled"):
        one_by_one = torch.stack([neuron(each)[0] for each in x])
        assert torch.equal(vmap(lambda each: neuron(each)[0])(x), one_by_one)
        found = jacrev(lambda each: neuron(each)[0])(x[0])
        leaf = x[0].clone().requires_grad_()
        spikes = neuron(leaf)[0]
    rows = [torch.autograd.grad(one, leaf, retain_graph=True)[0] for one in spikes.flatten()]
    torch.testing.assert_close(found.reshape(-1, *leaf.shape), torch.stack(rows))


class Log:
    """Something that cannot be copied, as an open file."""

    def __init__(self) -> None:
        self.lock, self.calls = threading.Lock(), 0

    def note(self, *_: object) -> None:
        self.calls += 1


def test_a_neuron_is_run_in_kernels_whatever_hangs_on_it() -> None:
    neuron, log, x = IF(torch.tensor(0.7)), Log(), torch.randn(3, 2, 13)
    neuron.register_forward_hook(log.note)
    weight = torch.tensor(1.0, requires_grad=True)
    found = []
    for path in ("eager", "compiled"):
        with neuron_path(path):  # a threshold that has itself been computed
            spikes, _ = functional_call(neuron, {"threshold": 0.7 * weight}, (x,))
        found += torch.autograd.grad(spikes.square().sum(), weight)
    torch.testing.assert_close(found[1], found[0])
    assert log.calls == 2


def test_copies_and_pickles_run_as_the_neuron_does() -> None:
    neuron, x = NEURONS["IF"](), torch.randn(3, 2, 3, dtype=torch.float64)
    with neuron_path("compiled"):
        spikes, state = neuron(x)
        for other in (copy.deepcopy(neuron), pickle.loads(pickle.dumps(neuron))):
            again, after = other(x)
            assert torch.equal(again, spikes) and torch.equal(after.membrane, state.membrane)


def test_kernels_lie_where_their_tensors_do_whatever_the_default_device() -> None:
    x, neuron = torch.randn(3, 2, 5), IF(torch.tensor(0.7))
    with neuron_path("eager"):
        expected, _ = neuron(x)
    with neuron_path("compiled"), torch.device("meta"):
        found, state = neuron(x)
    assert torch.equal(found, expected) and state.membrane.device == x.device


def test_a_backward_kernel_that_cannot_be_made_leaves_the_steps(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(paths, "_ways", paths._Ways())
    neuron, start = IF(torch.tensor(0.7), firing=SMOOTH), torch.rand(2, 5)
    found = []
    for path in ("eager", "compiled"):
        torch.manual_seed(0)
        x = torch.randn(3, 2, 5).requires_grad_()
        with neuron_path(path):
            spikes, state = neuron(x, State(start))
        if path == "compiled":

            def fails(*_: object) -> kernels.Kernel:
                raise c_build.CannotCompile("cc ended with 1, no room")

            monkeypatch.setitem(kernels.COMPILERS, "cpu", fails)
        # The gradient of a membrane needs a kernel of its own.
        loss = spikes.sum() + state.membrane.square().sum()
        with warnings.catch_warnings(record=True) as told:
            warnings.simplefilter("always")
            found += torch.autograd.grad(loss, x)
        assert len(told) == (path == "compiled")
    assert "no room" in str(told[0].message)
    torch.testing.assert_close(found[1], found[0])
