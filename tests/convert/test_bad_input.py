"""Whatever is handed in either converts, and is right, or is refused in one sentence."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from convert_networks import Forward, around, conv, decibels, images
from torch import Tensor, nn
from torch.ao import quantization
from torch.utils.data import DataLoader, Dataset, IterableDataset, Subset, TensorDataset

import spiketune as st
from spiketune.snn import leaves

Make = Callable[[], Any]


def small(body: Forward | None = None, **layers: nn.Module) -> nn.Module:
    rule = body or (lambda m, y: y)
    return around(lambda m, y: torch.relu(m.c(rule(m, y))), c=conv(), **layers)


class Twist(nn.Module):
    """Puts a function of the network, and of its images, around it or inside it."""

    def __init__(self, rule: Callable[..., Any], inner: nn.Module | None = None) -> None:
        super().__init__()
        self.rule = rule
        if inner is not None:
            self.inner = inner

    def forward(self, x: Tensor) -> Any:
        return self.rule(self.inner, x) if hasattr(self, "inner") else self.rule(x)


def answering(rule: Callable[[Tensor, Tensor], Any]) -> nn.Module:
    return Twist(lambda net, x: rule(net(x), x), small())


def within(rule: Callable[[Tensor], Any]) -> nn.Module:
    return around(lambda m, y: torch.relu(m.c(m.odd(m.c(y)))), c=conv(), odd=Twist(rule))


class Pair(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.net = small()

    def forward(self, left: Tensor, right: Tensor) -> Tensor:
        out: Tensor = self.net(left) - self.net(right)
        return out


class Several(Pair):
    """Takes its images as one of any number."""

    def forward(self, *inputs: Tensor, scale: float = 1.0) -> Tensor:
        out: Tensor = self.net(inputs[0]) * scale
        return out


class Swish(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return x * torch.sigmoid(x)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        raise NotImplementedError


@torch.library.custom_op("bad_input::known", mutates_args=())
def known(x: Tensor) -> Tensor:
    return torch.from_numpy(x.numpy().clip(-0.1)) * 2


@torch.library.custom_op("bad_input::unknown", mutates_args=())
def unknown(x: Tensor) -> Tensor:
    return x.clone()


@torch.library.custom_op("bad_input::shapeless", mutates_args=())
def shapeless(x: Tensor) -> Tensor:
    return x.clone()


known.register_fake(torch.empty_like)
unknown.register_fake(torch.empty_like)
st.register_function(torch.ops.bad_input.known.default)


@dataclass
class Answer:
    scores: Tensor


class Recurrent(nn.Module):
    def __init__(self, kind: type[nn.RNNBase]) -> None:
        super().__init__()
        self.stem, self.rnn, self.head = conv(1, 4), kind(4, 5, batch_first=True), nn.Linear(5, 3)

    def forward(self, x: Tensor) -> Tensor:
        tokens = torch.relu(self.stem(x)).flatten(2).transpose(1, 2)
        out: Tensor = self.head(self.rnn(tokens)[0][:, -1])
        return out


class Cell(nn.Module):
    def __init__(self, kind: type[nn.RNNCellBase]) -> None:
        super().__init__()
        self.stem, self.rnn, self.head = conv(1, 4), kind(4, 5), nn.Linear(5, 3)  # type: ignore[call-arg]

    def forward(self, x: Tensor) -> Tensor:
        state = self.rnn(torch.relu(self.stem(x)).mean((2, 3)))
        out: Tensor = self.head(state[0] if isinstance(state, tuple) else state)
        return out


def plain() -> nn.Sequential:
    """Layers that quantisation knows by their types."""
    layers = (nn.Conv2d(1, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    return nn.Sequential(*layers, nn.Linear(4, 3)).eval()


def quantised_dynamically() -> nn.Module:
    found: nn.Module = quantization.quantize_dynamic(plain(), {nn.Linear})
    return found


def quantised(aware: bool) -> nn.Module:
    engine = "onednn" if "onednn" in torch.backends.quantized.supported_engines else "fbgemm"
    net = quantization.QuantWrapper(plain())
    if aware:
        net.train().qconfig = quantization.get_default_qat_qconfig(engine)  # type: ignore[assignment]
        return quantization.prepare_qat(net).eval()  # type: ignore[no-any-return]
    net.qconfig = quantization.get_default_qconfig(engine)  # type: ignore[assignment]
    prepared = quantization.prepare(net)
    prepared(images())
    return quantization.convert(prepared)  # type: ignore[no-any-return]


def with_bias(layer: str, channels: Any, value: float) -> nn.Module:
    net = small()
    with torch.no_grad():
        net.get_submodule(layer).bias[channels] = value  # type: ignore[index,operator]
    return net


def inside_compiled() -> nn.Module:
    net = small()
    net.c = torch.compile(net.c, backend="eager")  # type: ignore[assignment]
    return net


def compiled_in_place() -> nn.Module:
    net = small()
    net.compile(backend="eager")
    return net


def normed(**settings: bool) -> nn.Module:
    return small(lambda m, y: m.b(m.c(y)), b=nn.BatchNorm2d(4, **settings)).train()  # type: ignore[arg-type]


WORKS: dict[str, Make] = {
    "an optional second input": lambda: Twist(lambda net, x, mask=None: net(x), small()),
    "any number of inputs": Several,
    "an autograd.Function": lambda: within(Swish.apply),
    "a registered operation": lambda: within(known),
    "compiled": lambda: torch.compile(small(), backend="eager"),
    "compiled inside": inside_compiled,
    "compiled in place": compiled_in_place,
    "data parallel": lambda: nn.DataParallel(small()),
    "traced by fx": lambda: torch.fx.symbolic_trace(plain()),
    "to be quantised one day": lambda: quantization.QuantWrapper(plain()),
    "a dead channel": lambda: with_bias("c", 1, -100.0),
    "in train()": lambda: small(lambda m, y: m.d(y), d=nn.Dropout()).train(),
    "BatchNorm in train()": normed,
    "no parameters": lambda: Twist(lambda x: torch.relu(x - 0.5).mean((2, 3))),
    "float64": lambda: small().double(),
    "float16": lambda: small().half(),
    "bfloat16": lambda: small().bfloat16(),
    "two types": lambda: around(lambda m, y: m.c(y.double()).relu().float(), c=conv().double()),
    "its images among its answers": lambda: answering(lambda y, x: {"scores": y, "input": x}),
    "one answer twice": lambda: answering(lambda y, x: (y, [y])),
}


def answers(network: nn.Module, x: Tensor) -> list[Tensor]:
    training = network.training
    with torch.no_grad():
        found = leaves(network.eval()(x))
    network.train(training)
    return found


def check_right(ann: nn.Module, snn: st.SpikingNetwork, quality: float = 40.0) -> None:
    like = next(ann.parameters(), torch.empty(()))
    x = torch.rand(6, 1, 8, 8).to(like.dtype)
    expected = answers(ann, x)
    with torch.no_grad():
        inside, found = leaves(snn.ann(x)), leaves(snn(x))
    for value, same, answer in zip(expected, inside, found, strict=True):
        assert torch.allclose(value, same, rtol=1e-3, atol=1e-5)
        assert decibels(value.double(), answer.double()) > quality


@pytest.mark.parametrize("name", WORKS)
def test_converts_and_is_right(name: str) -> None:
    ann = WORKS[name]()
    training = [module.training for module in ann.modules()]
    snn = st.to_snn(ann, images(), st.Graded(steps=16))
    assert [module.training for module in ann.modules()] == training
    check_right(ann, snn)


@pytest.mark.parametrize("method", [st.Binary, st.Ternary])
@pytest.mark.parametrize("name", ["float16", "bfloat16", "float64", "no parameters", "compiled"])
def test_other_methods_convert_it_too(name: str, method: Callable[..., Any]) -> None:
    ann = WORKS[name]()
    check_right(ann, st.to_snn(ann, images(), method(steps=64)), 20.0)


# What is handed in, and what the sentence names: where, what, remedy.
REFUSED: dict[str, tuple[Make, str]] = {
    "two inputs": (Pair, r"Pair takes 2 inputs \(left, right\); wrap it"),
    "a branch on values": (
        lambda: Twist(lambda net, x: net(x) if x.sum() > 0 else -net(x), small()),
        r"Twist depends on the values of its images; .*torch.where",
    ),
    "a branch inside": (
        lambda: within(lambda y: y if y.sum() > 0 else -y),
        r"^odd: the control flow of Twist",
    ),
    "NumPy inside": (
        lambda: within(lambda y: torch.from_numpy(y.numpy())),
        r"^odd: torch.export cannot read Twist .*register_function",
    ),
    "an operation without shape": (
        lambda: within(shapeless),
        r"^odd: an operation of Twist .*; add NAME.register_fake\(...\)",
    ),
    "an operation without rule": (
        lambda: within(unknown),
        r"^odd: no rule for bad_input.unknown; .*register_function\(torch.ops.bad_input.unknown",
    ),
    "an operation of two answers": (
        lambda: within(lambda y: y.sort(1)[0]),
        r"^odd: no rule for sort; take a network without it$",
    ),
    "noise": (lambda: within(lambda y: y + torch.rand_like(y)), r"^odd: .*it is random; remove"),
    "whole numbers": (
        lambda: answering(lambda y, x: (y, y.argmax(1))),
        r"no rule for argmax; int64 does not add up over time; do this outside",
    ),
    "LSTM": (lambda: Recurrent(nn.LSTM), r"^rnn: no rule for lstm; .*without recurrent cells"),
    "GRU": (lambda: Recurrent(nn.GRU), r"^rnn: no rule for gru; .*without recurrent cells"),
    "LSTM cell": (lambda: Cell(nn.LSTMCell), r"^rnn: no rule for lstm_cell; .*without recurrent"),
    "GRU cell": (lambda: Cell(nn.GRUCell), r"^rnn: no rule for gru_cell; .*without recurrent"),
    "quantised dynamically": (quantised_dynamically, r"^4: Linear is quantised; convert the float"),
    "quantised": (lambda: quantised(False), r"^quant: Quantize is quantised; convert the float"),
    "quantised in training": (lambda: quantised(True), r"is quantised; convert the float"),
    "whole parameters": (
        lambda: small(q=nn.ParameterList([nn.Parameter(torch.ones(2).char(), False)])),
        r"^q.0: a parameter of type torch.int8; convert the float",
    ),
    "8-bit floats": (
        lambda: small().to(torch.float8_e4m3fn),
        r"^stem.weight: a parameter of type torch.float8_e4m3fn; convert",
    ),
    "TorchScript": (lambda: torch.jit.script(plain()), r"is TorchScript; give the Python network"),
    "exported": (
        lambda: torch.export.export(plain(), (images(2),)).module(),
        r"exported by torch.export already; give the network",
    ),
    "lazy": (
        lambda: nn.Sequential(nn.LazyConv2d(4, 3), nn.ReLU()),
        r"^0: LazyConv2d has no parameters yet; run the network once",
    ),
    "without values": (
        lambda: small().to("meta"),
        r"^stem.weight: a parameter on the meta device, without values; load",
    ),
    "NaN weights": (
        lambda: with_bias("c", 0, float("nan")),
        r"^c.bias: a parameter holds NaN or infinity; load",
    ),
    "half precision that is too small": (
        lambda: Twist(lambda net, x: net(x) * 60000 * 60000, small().half()),
        r"answers in torch.float16 hold NaN or infinity; .*ann.float\(\)",
    ),
    "a dead layer": (
        lambda: with_bias("c", slice(None), -100.0),
        r"^relu_\d: no activation above zero on any calibration image; give more images",
    ),
    "batch statistics": (
        lambda: normed(track_running_stats=False),
        r"^b: no rule for batch_norm; give it running statistics",
    ),
    "returns int": (lambda: answering(lambda y, x: (y, 3)), r"^output 1: .* returns int among"),
    "returns None": (lambda: answering(lambda y, x: (y, None)), r"^output 1: .* NoneType among"),
    "returns a size": (lambda: answering(lambda y, x: (y, len(x))), r"^output 1: .* int among"),
    "returns a dataclass": (
        lambda: answering(lambda y, x: Answer(y)),
        r"^output: Twist returns something else than tensors .*Answer.*; wrap it",
    ),
    "returns nothing": (lambda: answering(lambda y, x: {}), r"^output: .*no tensor; wrap it"),
    "returns a constant": (
        lambda: answering(lambda y, x: (y, torch.ones(3))),
        r"^output 1: the network returns shape \[3\] for any number of images; return only",
    ),
    "returns one number": (
        lambda: answering(lambda y, x: (y, y.mean())),
        r"^output 1: the network returns shape \[\] for any number of images; return only",
    ),
    "a name": (lambda: "resnet18", r"str is no network; give an nn.Module"),
    "a class": (lambda: nn.ReLU, r"ReLU is no network; give an nn.Module"),
    "a function": (lambda: torch.relu, r"is no network; give an nn.Module"),
    "the images first": (images, r"Tensor is no network; give an nn.Module"),
    "spiking already": (
        lambda: st.to_snn(small(), images()),
        r"^net.relu: Graded spikes already; give the network that it was converted from",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused_in_one_sentence(name: str, capfd: pytest.CaptureFixture[str]) -> None:
    make, sentence = REFUSED[name]
    network = make()
    capfd.readouterr()
    with pytest.raises(st.ConversionError) as caught:
        st.to_snn(network, images())
    message = str(caught.value)
    assert re.search(sentence, message), message
    assert "\n" not in message and caught.value.remedy
    assert capfd.readouterr() == ("", "")  # no graph of torch's beside it


class Listed(Dataset[Any]):
    """Sorted by class, as folders are; the class is the brightness."""

    def __init__(self, sample: Callable[[int], Any], length: int = 40) -> None:
        self.sample, self.length = sample, length

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> Any:
        return self.sample(index)


class Endless(Dataset[Any]):
    def __getitem__(self, index: int) -> Any:
        return torch.rand(1, 8, 8), 0


class Streamed(IterableDataset[Any]):
    def __iter__(self) -> Iterator[Any]:
        return ((torch.rand(1, 8, 8), 0) for _ in range(5))


def pair(index: int) -> tuple[Tensor, int]:
    return torch.full((1, 8, 8), index / 40), index // 4


GOOD_IMAGES: dict[str, Make] = {
    "one image": lambda: images(1),
    "constant images": lambda: torch.ones(4, 1, 8, 8),
    "black images": lambda: torch.zeros(4, 1, 8, 8),
    "one class": lambda: [(images(8), torch.zeros(8).long())],
    "float64": lambda: images(dtype=torch.float64),
    "float16": lambda: images().half(),
    "with gradients": lambda: images().requires_grad_(),
    "a generator": lambda: (images(2) for _ in range(3)),
    "a loader": lambda: DataLoader(Listed(pair), 4),
    "a data set": lambda: Listed(pair),
    "a data set of images": lambda: Listed(lambda index: pair(index)[0]),
    "a tensor data set": lambda: TensorDataset(images(), torch.arange(12)),
    "a subset": lambda: Subset(Listed(pair), [3, 5, 30]),
    "a stream": Streamed,
}


@pytest.mark.parametrize("name", GOOD_IMAGES)
def test_images_that_calibrate(name: str) -> None:
    ann = small()
    check_right(ann, st.to_snn(ann, GOOD_IMAGES[name](), st.Graded(steps=16)))


@pytest.mark.parametrize("method", [st.Binary, st.Ternary])
@pytest.mark.parametrize("name", ["one image", "constant images", "black images"])
def test_few_images_do_for_other_methods(name: str, method: Callable[..., Any]) -> None:
    ann = small()
    snn = st.to_snn(ann, GOOD_IMAGES[name](), method(steps=64))
    # Thresholds of a black image are too low for others: there the answer is finite, no more.
    check_right(ann, snn, 5.0 if name == "black images" else 20.0)


def test_a_data_set_is_sampled_all_over() -> None:
    asked: list[int] = []
    data = Listed(lambda index: (asked.append(index), pair(index))[1])
    st.to_snn(small(), data, st.Graded(calibration_images=10))
    assert asked == list(range(0, 40, 4))


BAD_IMAGES: dict[str, tuple[Make, str]] = {
    "bytes": (lambda: (images() * 255).byte(), r"type torch.uint8; give them as floats"),
    "whole numbers": (lambda: images().long(), r"type torch.int64; give them as floats"),
    "truth values": (lambda: images() > 0.5, r"type torch.bool; give them as floats"),
    "bytes in a data set": (
        lambda: Listed(lambda index: (torch.ones(1, 8, 8).byte(), 0)),
        r"type torch.uint8; give them as floats",
    ),
    "NaN": (lambda: images() * float("nan"), r"image 0 holds NaN or infinity; check"),
    "NumPy": (lambda: images().numpy(), r"type ndarray; give a tensor"),
    "None": (lambda: None, r"type NoneType; give a tensor"),
    "sparse": (lambda: images().to_sparse(), r"layout torch.sparse_coo on cpu; give dense"),
    "without values": (lambda: images().to("meta"), r"on meta; give dense ones with values"),
    "an empty loader": (lambda: [], r"no calibration images: .*; give some"),
    "an empty data set": (lambda: Listed(pair, 0), r"no calibration images: .*; give some"),
    "a data set without length": (Endless, r"data set Endless has no length; give a loader"),
    "a data set of other things": (
        lambda: Listed(lambda index: ("cat.png", 0)),
        r"data set yields str; make it yield tensors",
    ),
    "dictionaries": (lambda: [{"image": images()}], r"loader yields dict; make it yield tensors"),
    "one image without its batch": (
        lambda: torch.rand(1, 8, 8),
        r"^stem: Conv2d fails on images of shape \[1, 8, 8\] \(.*\); check their size",
    ),
    "wrong channels": (
        lambda: torch.rand(4, 3, 8, 8),
        r"^stem: Conv2d fails on images of shape \[1, 3, 8, 8\] \(.*\); check their size",
    ),
}


@pytest.mark.parametrize("name", BAD_IMAGES)
def test_images_refused_in_one_sentence(name: str) -> None:
    make, sentence = BAD_IMAGES[name]
    for act in (st.to_snn, st.check, st.doctor):
        if act is st.check and make() is None:
            continue  # there None stands for the network's own size
        with pytest.raises(st.SpiketuneError, match=sentence) as caught:
            act(small(), make())  # type: ignore[operator]
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "correction", [st.BiasCorrection(), st.PotentialCorrection(), st.WeightCalibration()], ids=repr
)
def test_one_image_does_for_corrections(correction: st.Correction) -> None:
    ann, x = small(), images(1)
    corrected = st.to_snn(ann, x, st.Binary(steps=32, corrections=(correction,)))
    expected = answers(ann, x)[0]
    with torch.no_grad():
        assert decibels(expected, corrected(x)) > 20


def test_one_image_does_for_doctor_and_ceiling() -> None:
    ann, x = small(), images(1)
    found = st.doctor(ann, x)
    assert found.images == 1 and all(layer.snr > 20 for layer in found.layers)
    label = answers(ann, x)[0].argmax(1)
    limit = st.ceiling(ann, [(x, label)], 64, calibration=x)
    assert limit.ann == limit.rows[0].top1 == 100.0


def test_a_ceiling_takes_data_sets_and_any_precision() -> None:
    for ann in (small(), small().half(), torch.compile(small(), backend="eager")):
        limit = st.ceiling(ann, Listed(pair), 64, calibration=Listed(pair))  # type: ignore[arg-type]
        assert limit.images == 40 and limit.rows[0].agreement > 90


@pytest.mark.parametrize(
    ("loader", "sentence"),
    [
        (None, r"type NoneType; give a loader or a data set"),
        ([{"x": images(2)}], r"yields dict; make it yield images and labels"),
        ([(images(2), torch.zeros(2, 3))], r"labels of shape \[2, 3\]"),
        ([(images(2), torch.zeros(2, 1).long())], r"labels of shape \[2, 1\]; give class indic"),
    ],
)
def test_a_ceiling_refuses_what_is_not_labelled(loader: Any, sentence: str) -> None:
    with pytest.raises(st.SpiketuneError, match=sentence):
        st.ceiling(small(), loader, 4, calibration=images())


def test_check_lists_instead_of_raising() -> None:
    report = st.check(Recurrent(nn.LSTM), images())
    assert [row.path for row in report.refused] == ["rnn"]
    assert st.check(torch.compile(small(), backend="eager"), Listed(pair)).neurons == 2


def test_a_function_of_ones_own_takes_five_lines() -> None:
    @torch.library.custom_op("bad_input::five", mutates_args=())
    def five(x: Tensor) -> Tensor:
        return torch.from_numpy(x.numpy() ** 3)

    five.register_fake(torch.empty_like)
    st.register_function(torch.ops.bad_input.five.default)
    ann = within(five)
    check_right(ann, st.to_snn(ann, images(), st.Graded(steps=16)))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_model_may_lie_on_another_device_than_its_images() -> None:
    ann, x = small().cuda(), images()
    snn = st.to_snn(ann, x, st.Graded(steps=16))
    with torch.no_grad():
        assert decibels(ann(x.cuda()), snn(x.cuda())) > 40
    split = small()
    split.head.cuda()
    with pytest.raises(st.ConversionError, match=r"^head.weight: a parameter on cuda:0, but"):
        st.to_snn(split, x)
