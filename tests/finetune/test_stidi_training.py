"""Networks of exact spike times in ``tune``: what they learn, files, and bad input."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import spiketune as st
from spiketune.finetune import Epoch, TuneError
from spiketune.snn import PSP, spike_times_of, timed_layers

Loader = list[tuple[Tensor, Tensor]]


def digits(count: int = 300) -> Loader:
    data = st.load_data("digits", "train", cfg={"mean": (0.0,), "std": (1.0,)}, limit=count)
    return list(zip(*(part.split(25) for part in data.tensors), strict=True))


def network(*, binary: bool = False, psp: PSP | None = None) -> st.SpikingNetwork:
    torch.manual_seed(0)
    layers = [
        nn.Conv2d(1, 8, 3, bias=False), nn.MaxPool2d(2), nn.Flatten(),
        nn.Linear(72, 10, bias=False),
    ]  # fmt: skip
    snn = st.single_spike(layers, (1, 8, 8), binary=binary, psp=psp)
    st.fit_times(snn, digits()[0][0])
    return snn


def training(**given: object) -> st.Training:
    return st.Training(**{"learning_rate": 0.03, **given})  # type: ignore[arg-type]


RELATIVE = {"loss": st.RelativeTarget(gamma=0.03), "clip_grad": None}


@pytest.mark.parametrize(
    ("rule", "given", "psp", "binary", "least"),
    [
        (st.STiDi(), {}, None, False, 0.9),
        (st.STiDi(), {}, st.RampPSP(tau=12.0), False, 0.9),
        (st.STiDi(), {}, st.TrianglePSP(rise=16.0, fall=32.0), False, 0.9),
        (st.STiDi(), {}, None, True, 0.75),
        (st.STiDi(form="displacement"), {}, None, False, 0.9),
        (st.STiDi(form="displacement"), {"loss": st.RelativeTarget(gamma=0.1, lead=0.05)}, None,
         False, 0.7),
        (st.STiDi(form="s4nn"), {"optimizer": "sgd", "learning_rate": 0.1, **RELATIVE}, None,
         False, 0.8),
        (st.STiDi(form="s4nn"), {"learning_rate": 0.01, **RELATIVE}, st.StepPSP(), False, 0.35),
    ],
    ids=["exact", "ramp", "triangle", "binary", "displacement", "relative target", "s4nn",
         "s4nn steps"],
)  # fmt: skip
def test_digits_are_learned(
    rule: st.STiDi, given: dict[str, object], psp: PSP | None, binary: bool, least: float
) -> None:
    snn = network(psp=psp, binary=binary)
    before = [layer.scale.item() for layer in timed_layers(snn).values()]
    history = st.tune(snn, digits(), rule, steps=32, epochs=8, training=training(**given))
    assert history.epochs[-1].accuracy >= least
    if binary:
        after = [layer.scale.item() for layer in timed_layers(snn).values()]
        assert all(one > 0 and one != other for one, other in zip(after, before, strict=True))


def test_a_run_resumed_is_the_run(tmp_path: Path) -> None:
    whole, parted = network(), network()
    given = {"steps": 32, "epochs": 3, "training": training()}
    st.tune(whole, digits(100), st.STiDi(), **given)  # type: ignore[arg-type]

    def stop(epoch: Epoch) -> None:
        raise KeyboardInterrupt

    path = tmp_path / "run.checkpoint"
    with pytest.raises(KeyboardInterrupt):
        st.tune(parted, digits(100), st.STiDi(), checkpoint=path, on_epoch=stop, **given)  # type: ignore[arg-type]
    again = network()
    st.tune(again, digits(100), st.STiDi(), checkpoint=path, resume=True, **given)  # type: ignore[arg-type]
    for one, other in zip(whole.parameters(), again.parameters(), strict=True):
        assert torch.equal(one, other)
    assert not torch.equal(next(whole.parameters()), next(network().parameters()))


def test_weights_decay_and_scales_do_not() -> None:
    moved = []
    for decay in (0.0, 0.5):
        snn = network(binary=True)
        start = [p.detach().clone() for p in snn.parameters()]
        st.tune(
            snn, digits(50)[:1], st.STiDi(), steps=32, epochs=1,
            training=training(weight_decay=decay, warmup=0.0, schedule="constant"),
        )  # fmt: skip
        moved.append(list(snn.parameters()))
    for begun, plain, decayed in zip(start, *moved, strict=True):
        expected = plain - 0.03 * 0.5 * begun if begun.dim() else plain
        torch.testing.assert_close(decayed, expected)


def test_silent_layers_are_woken() -> None:
    snn = network()
    for layer in timed_layers(snn).values():
        layer.weight.data.abs_().neg_()
    history = st.tune(snn, digits(), st.STiDi(wake=1.0), steps=32, epochs=20, training=training())
    fired = spike_times_of(snn, digits()[0][0]).fired
    assert all(bool((one < 32).any()) for one in fired.values())
    assert history.epochs[-1].accuracy > history.epochs[0].accuracy + 0.3
    still = network()
    for layer in timed_layers(still).values():
        layer.weight.data.abs_().neg_()
    kept = timed_layers(still)["conv1"].weight.detach().clone()
    st.tune(
        still, digits(50), st.STiDi(wake=0.0), steps=32, epochs=1,
        training=training(weight_decay=0.0),
    )  # fmt: skip
    assert torch.equal(timed_layers(still)["conv1"].weight, kept)


def test_black_images_among_others_are_passed_over() -> None:
    first, *rest = digits(100)
    dark = torch.zeros_like(first[0]), first[1]
    snn = network()
    history = st.tune(
        snn, [first, dark, *rest], st.STiDi(), steps=32, epochs=2, training=training()
    )
    assert all(bool(p.isfinite().all()) for p in snn.parameters())
    assert history.epochs[-1].loss < 10


@pytest.mark.parametrize("loss", [st.MeanCrossEntropy(), st.RelativeTarget()])
def test_thresholds_that_no_input_reaches_leave_a_finite_loss(loss: st.finetune.Loss) -> None:
    snn = network()
    for layer in timed_layers(snn).values():
        layer.threshold = 1e9
    history = st.tune(snn, digits(50), st.STiDi(), steps=32, epochs=1, training=training(loss=loss))
    assert history.epochs[0].loss < 50
    assert all(bool(p.isfinite().all()) for p in snn.parameters())


def test_what_does_not_fit_is_refused() -> None:
    loader = [(x[:24], y[:24]) for x, y in digits(50)[:1]]
    timed, plain = network(), st.twin(nn.Sequential(nn.Flatten(), nn.Linear(64, 10), nn.ReLU()), 4,
                                      (1, 8, 8))  # fmt: skip
    dark = [(torch.zeros_like(loader[0][0]), loader[0][1])]
    cases = [
        (timed, loader, st.SurrogateBPTT(), {}, "which SurrogateBPTT cannot train; use STiDi"),
        (plain, loader, st.STiDi(), {}, "build one with single_spike"),
        (timed, loader, st.STiDi(), {"steps": 16}, "end at step 32, not 16"),
        (timed, dark, st.STiDi(), {}, "all are black"),
        (timed, loader, st.STiDi(real_back=True), {}, "has none"),
        (timed, loader, st.STiDi(), {"training": training(loss=st.RMP())}, "no neurons with any"),
        (timed, loader, st.STiDi(),
         {"training": training(loss=st.SpikeCount(hit=1, miss=0))}, "one exact time a class"),
        (timed, loader, st.STiDi(),
         {"training": training(loss=st.SpikeTrain())}, "one exact time a class"),
        (plain, loader, st.SurrogateBPTT(),
         {"training": training(loss=st.RelativeTarget())}, "exact spike times"),
        (timed, loader, st.STiDi(),
         {"training": training(loss=st.RelativeTarget(), mixup=0.5)}, "leave mixup"),
    ]  # fmt: skip
    for snn, images, rule, given, words in cases:
        with pytest.raises(st.SpiketuneError, match=words):
            st.tune(snn, images, rule, **{"steps": 32, "epochs": 1, **given})  # type: ignore[arg-type]


NO_NUMBERS = (0.0, -1.0, float("nan"), float("inf"), True, "1", None)


def test_settings_out_of_range_are_refused() -> None:
    for given, words in (
        ({"form": "other"}, "form must be one of exact"),
        *(({"v_min": bad}, "v_min must be a number above 0") for bad in NO_NUMBERS),
        *(({"wake": bad}, "wake must be a number, 0 or more") for bad in NO_NUMBERS if bad != 0),
        ({"sloped": "yes", "form": "s4nn"}, "sloped must be true or false"),
        ({"real_back": 1}, "real_back must be true or false"),
        ({"sloped": True}, "leave sloped out"),
    ):
        with pytest.raises(TuneError, match=words):
            st.STiDi(**given)  # type: ignore[arg-type]
    for given in (
        {"gamma": 1.5}, {"lead": -0.1}, {"lead": "0"}, *({"gamma": bad} for bad in NO_NUMBERS),
    ):  # fmt: skip
        with pytest.raises(TuneError, match="gamma must be above 0"):
            st.RelativeTarget(**given)


def test_weights_that_are_no_numbers_are_named() -> None:
    snn = network()
    timed_layers(snn)["linear3"].weight.data.fill_(float("nan"))
    with pytest.raises(TuneError, match="weights of layer linear3 are not finite"):
        st.tune(snn, digits(50), st.STiDi(), steps=32, epochs=1, training=training())
