"""timm's optimizers and schedules: all that it knows, and nothing that would not act."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from timm.optim import get_optimizer_info, list_optimizers  # type: ignore[attr-defined]
from torch import Tensor

from spiketune.finetune import SurrogateBPTT, Training, TuneError, tune
from spiketune.finetune.optimizers import make_optimizer
from spiketune.finetune.schedules import SCHEDULES, make_schedule
from spiketune.snn import SpikingNetwork

Build = Callable[..., SpikingNetwork]
RULE = SurrogateBPTT()
# apex and bitsandbytes need a CUDA device, adahessian second derivatives, and kron compiles its
# parts first, which takes a minute.
HERE = [
    name
    for name in list_optimizers()
    if not isinstance(get_optimizer_info(name).opt_class, str)
    and name not in ("adahessian", "kron", "kronc", "kronw")
]


def weights(snn: SpikingNetwork) -> Tensor:
    return torch.cat([value.flatten().double() for value in snn.state_dict().values()])


def test_every_optimizer_of_timm_moves_the_weights(build: Build) -> None:
    assert len(HERE) > 60
    for name in [*HERE, "lookahead_adamw"]:
        snn = build()
        before = weights(snn)
        optimizer = make_optimizer(snn, Training(optimizer=name, learning_rate=0.01))
        for _ in range(6):  # lookahead's slow weights move every sixth time
            for parameter in snn.parameters():
                if parameter.requires_grad:
                    parameter.grad = torch.full_like(parameter, 0.1)
            optimizer.step()
        moved = (weights(snn) - before).abs().max()
        assert 0 < moved < math.inf, name
        # The path of a checkpoint: what an optimizer remembers is data.
        again = make_optimizer(snn, Training(optimizer=name, learning_rate=0.01))
        again.load_state_dict(optimizer.state_dict())
        assert again.state_dict().keys() == optimizer.state_dict().keys(), name


def test_an_optimizer_is_that_of_torch(build: Build, data: tuple[Tensor, Tensor]) -> None:
    settings: dict[str, Any] = {"betas": [0.5, 0.6], "amsgrad": True, "eps": 1e-3}
    training = Training(
        optimizer="adam", optimizer_options=settings, learning_rate=0.01, weight_decay=0.0,
        schedule="constant", warmup=0.0, clip_grad=None,
    )  # fmt: skip
    snn, other = build(), build()
    tune(snn, [data] * 3, RULE, steps=2, epochs=1, training=training)

    def learn(network: SpikingNetwork) -> None:
        answers = network.read(torch.cat(list(network.outputs(data[0], 2))))
        torch.nn.functional.cross_entropy(answers, data[1]).backward()  # type: ignore[no-untyped-call]

    tuned = dict(snn.neurons())
    for name, neuron in other.neurons():
        neuron.firing = tuned[name].firing
        neuron.threshold.requires_grad_(True)
    adam = torch.optim.Adam(
        [p for p in other.parameters() if p.requires_grad],
        lr=0.01, betas=(0.5, 0.6), amsgrad=True, eps=1e-3,
    )  # fmt: skip
    for _ in range(3):
        adam.zero_grad()
        learn(other)
        adam.step()
    torch.testing.assert_close(weights(snn), weights(other), rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"optimizer": "adanw2"}, "such as adanw"),
        ({"optimizer": "qqqqq"}, "such as adamw, sgd"),
        ({"optimizer": "adahessian"}, "second derivatives"),
        ({"optimizer": "adamw", "momentum": 0.5}, "momentum must be None for adamw"),
        ({"optimizer": "sgd", "optimizer_options": {"betas": (0.9, 0.9)}}, "sgd has no .*betas"),
        ({"optimizer_options": {"lr": 0.1}}, r"leave lr to Training\(learning_rate"),
        ({"optimizer_options": {"weight_decay": 0.1}}, r"to Training\(weight_decay"),
        ({"schedule": "cosin"}, "must be one of constant, cosine"),
        ({"schedule": "step"}, "needs to know decay_epochs"),
        ({"schedule": "multistep"}, "needs to know decay_milestones"),
        ({"schedule_options": {"decay_epochs": 2}}, "cosine has no setting decay_epochs"),
        ({"schedule": "constant", "schedule_options": {"min_lr": 0.1}}, "it has none"),
        ({"mix_options": {"prob": 0.5}}, "act with mixup or cutmix"),
        ({"mixup": 0.2, "mix_options": {"alpha": 0.5}}, "mixup has no setting alpha"),
        ({"mixup": 0.2, "mix_options": {"switch_prob": 0.5}}, "set both"),
        ({"mixup": 0.2, "mix_options": {"mode": "half"}}, "mode must be"),
        ({"accumulate": 0}, "accumulate must be 1 batch or more"),
        ({"ema": 1.0}, "ema must be between"),
        ({"erase": 1.5}, "erase must be from 0 to 1"),
        ({"explodes_at": 0.5}, "explodes_at must be above 1"),
    ],
    ids=str,
)
def test_a_setting_that_cannot_act_is_refused(wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(TuneError, match=message) as caught:
        Training(**wrong)
    assert "\n" not in str(caught.value)


def test_an_optimizer_that_is_not_installed(build: Build, data: tuple[Tensor, Tensor]) -> None:
    with pytest.raises(TuneError, match=r"bnbadam8bit .*use adamw"):
        tune(build(), [data], RULE, steps=1, epochs=1, training=Training(optimizer="bnbadam8bit"))
    with pytest.raises(TuneError, match=r"adamw cannot be made with .*betas"):
        wrong = Training(optimizer_options={"betas": (2.0, 0.9)})
        tune(build(), [data], RULE, steps=1, epochs=1, training=wrong)


EPOCHS, UPDATES, WARM = 5, 8, 8


def expected(name: str, update: int) -> float:
    """The rate of an update, from 0, over that after the warm-up; written down anew."""
    t = update - WARM
    if t < 0:
        return 1 / (WARM + 1) + update / WARM * (1 - 1 / (WARM + 1))
    x, epoch = t / (EPOCHS * UPDATES - WARM), t / UPDATES
    return {
        "constant": lambda: 1.0,
        "cosine": lambda: 0.01 + 0.99 * (1 + math.cos(math.pi * x)) / 2,
        "multistep": lambda: 0.1 ** ((t >= UPDATES) + (t >= 3 * UPDATES)),
        "poly": lambda: 0.1 + 0.9 * (1 - x) ** 2,
        "step": lambda: 0.5 ** math.floor(epoch / 1.5),
        "tanh": lambda: (1 - math.tanh(-7 * (1 - x) + 3 * x)) / 2,
        "wsd": lambda: 1 - math.sqrt(max(0.0, (epoch - 3) / 1)),
    }[name]()


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("constant", {}),
        ("cosine", {"min_lr": 0.001}),
        ("multistep", {"decay_milestones": [1, 3], "decay_rate": 0.1}),
        ("poly", {"power": 2.0, "min_lr": 0.01}),
        ("step", {"decay_epochs": 1.5, "decay_rate": 0.5}),
        ("tanh", {}),
        ("wsd", {"decay_epochs": 1}),
    ],
)
def test_the_rate_follows_the_equation(build: Build, name: str, options: dict[str, Any]) -> None:
    training = Training(
        learning_rate=0.1, schedule=name, schedule_options=options, warmup=WARM / EPOCHS / UPDATES
    )
    optimizer = make_optimizer(build(), training)
    schedule = make_schedule(optimizer, training, epochs=EPOCHS, updates=UPDATES)
    for update in range(EPOCHS * UPDATES):
        schedule.step_update(update)
        for group in optimizer.param_groups:
            assert group["lr"] == pytest.approx(0.1 * expected(name, update), abs=1e-12), update


def test_every_schedule_is_tested_above() -> None:
    (mark,) = test_the_rate_follows_the_equation.pytestmark  # type: ignore[attr-defined]
    assert {name for name, _ in mark.args[1]} == set(SCHEDULES)
