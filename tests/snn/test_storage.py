"""Files: what comes back is bit for bit what went in, and whatever else is a ``StorageError``."""

from __future__ import annotations

import json
import os
import random
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from snn_networks import Residual
from torch import Tensor, nn

import spiketune as st
from spiketune.snn import (
    LIF,
    ATan,
    Firing,
    HardReset,
    SpiketuneError,
    SpikingNetwork,
    StorageError,
)

Description = dict[str, Any]


class Pooled(nn.Module):
    """BatchNorm that cannot be folded, ReLU6, a gated maximum."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(1)
        self.first = nn.Conv2d(1, 4, 3, padding="same")
        self.second = nn.Conv2d(4, 4, 3)
        self.pool = nn.MaxPool2d(2)
        self.head = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        y = nn.functional.relu6(self.first(self.norm(x)))
        return self.head(self.pool(self.second(y)).mean((2, 3)))


def converted(dtype: torch.dtype = torch.float32, method: Any = None) -> SpikingNetwork:
    ann = Residual().to(dtype).eval()
    return st.to_snn(ann, torch.rand(8, 1, 8, 8, dtype=dtype), method or st.Ternary(steps=6))


def direct() -> SpikingNetwork:
    ann = nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.MaxPool2d(2),
        nn.Flatten(), nn.Linear(36, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 3),
    )  # fmt: skip
    snn = st.twin(ann, 4, (1, 8, 8), leak=0.5)
    for _ in range(2):
        snn(torch.rand(5, 1, 8, 8))  # moves the running statistics
    return snn.eval()


def tuned() -> SpikingNetwork:
    snn = converted()
    data = [(torch.rand(8, 1, 8, 8), torch.randint(3, (8,)))]
    for _, unit in snn.neurons():
        unit.threshold.requires_grad_(True)
    st.tune(snn, data, st.SurrogateBPTT(), steps=3, epochs=1)
    return snn.eval()


def odd() -> SpikingNetwork:
    """A neuron with every setting off its default, and thresholds of single neurons."""
    snn = direct()
    (name, _), *_ = snn.neurons()
    node = next(n for n in snn.net.graph.nodes if n.name == name)
    firing = Firing(reset=HardReset(to=0.25), strict=True, surrogate=ATan(alpha=3.0))
    leak = torch.full((4, 1, 1), 0.75)
    new = LIF(
        torch.rand(4, 6, 6) + 0.1, leak=leak, initial=torch.rand(4, 1, 1), ceiling=6.0,
        firing=firing,
    )  # fmt: skip
    snn.net.set_submodule(node.target, new)
    return snn


MAKERS: dict[str, Callable[[], SpikingNetwork]] = {
    "ternary": converted,
    "binary": lambda: converted(method=st.Binary(per="layer")),
    "driven": lambda: converted(method=st.Ternary(drive=4)),
    "double": lambda: converted(torch.float64),
    "folded": lambda: converted().fold(),
    "pooled": lambda: st.to_snn(Pooled().eval(), torch.rand(8, 1, 8, 8), st.Ternary()),
    "tuned": tuned,
    "direct": direct,
    "odd": odd,
}


@pytest.mark.parametrize("name", MAKERS)
def test_what_is_loaded_is_what_was_saved(name: str, tmp_path: Path) -> None:
    snn = MAKERS[name]()
    dtype = next(snn.parameters()).dtype
    x = torch.rand(3, 1, 8, 8, dtype=dtype)
    path = st.save(snn, tmp_path / "deep" / "net.safetensors")
    again = st.load(path)
    with torch.no_grad():
        assert torch.equal(again.unroll(x, 12), snn.unroll(x, 12))
        assert torch.equal(again(x), snn(x))
    state, other = snn.state_dict(), again.state_dict()
    assert state.keys() == other.keys()
    for key, value in state.items():
        assert value.dtype == other[key].dtype and torch.equal(value, other[key]), key
    trains = {key: p.requires_grad for key, p in snn.named_parameters()}
    assert {key: p.requires_grad for key, p in again.named_parameters()} == trains
    assert [repr(unit) for _, unit in again.neurons()] == [repr(u) for _, u in snn.neurons()]
    assert (again.steps, again.drive, again.about) == (snn.steps, snn.drive, snn.about)
    assert tuple(again.input_shape) == tuple(snn.input_shape)
    assert str(again.report) == str(snn.report)
    assert not again.training
    second = st.save(again, tmp_path / "again.safetensors")
    assert described(second) == described(path)
    assert sorted(p.name for p in tmp_path.rglob("*.safetensors*")) == [
        "again.safetensors",
        "net.safetensors",
    ]


def described(path: Path) -> Description:
    with safe_open(path, "pt") as file:
        data: Description = json.loads(file.metadata()["spiketune"])
    return data


def contents(path: Path) -> tuple[Description, dict[str, Tensor]]:
    with safe_open(path, "pt") as file:
        return described(path), {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    ann = nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU(), nn.Flatten(), nn.Linear(72, 3)).eval()
    snn = st.to_snn(ann, torch.rand(4, 1, 8, 8), st.Ternary(steps=4))
    return st.save(snn, tmp_path_factory.mktemp("good") / "good.safetensors")


def refused(path: Path, words: str = "") -> None:
    with pytest.raises(StorageError, match=words) as caught:
        st.load(path)
    message = str(caught.value)
    assert path.name in message and "\n" not in message and "; " in message


def test_a_missing_file_and_a_folder_are_refused(tmp_path: Path) -> None:
    refused(tmp_path / "none.safetensors", "no such file")
    refused(tmp_path, "no such file")


@pytest.mark.parametrize("kept", [0, 5, 100, 0.5, 0.99, -1])
def test_a_truncated_file_is_refused(kept: float, good: Path, tmp_path: Path) -> None:
    whole = good.read_bytes()
    length = int(len(whole) * kept) if 0 < kept < 1 else int(kept)
    (tmp_path / "cut.safetensors").write_bytes(whole[:length])
    refused(tmp_path / "cut.safetensors", "not a whole")


def test_plain_weights_and_pickles_are_refused(tmp_path: Path) -> None:
    save_file(Residual().state_dict(), tmp_path / "plain.safetensors")
    refused(tmp_path / "plain.safetensors", "plain weights")
    torch.save(Residual().state_dict(), tmp_path / "pickle.safetensors")
    refused(tmp_path / "pickle.safetensors")


def test_no_flipped_bit_of_the_header_gets_past_a_storage_error(good: Path, tmp_path: Path) -> None:
    whole = good.read_bytes()
    header = 8 + struct.unpack("<Q", whole[:8])[0]
    rng, path = random.Random(0), tmp_path / "flipped.safetensors"
    escaped: dict[str, str] = {}
    for _ in range(150):
        broken = bytearray(whole)
        place = rng.randrange(header)
        broken[place] ^= 1 << rng.randrange(8)
        path.write_bytes(broken)
        try:
            st.load(path)  # a letter of the report may differ without harm
        except SpiketuneError as error:
            assert "\n" not in str(error)
        except Exception as error:
            found = bytes(broken[max(0, place - 15) : place + 15])
            escaped.setdefault(type(error).__name__, f"{found!r}: {error}")
    assert not escaped


def rewritten(good: Path, tmp_path: Path, edit: Callable[[Description], object]) -> Path:
    data, tensors = contents(good)
    edit(data)
    path = tmp_path / "rewritten.safetensors"
    save_file(tensors, path, metadata={"spiketune": json.dumps(data)})
    return path


def node(data: Description, op: str) -> Description:
    found: Description = next(item for item in data["nodes"] if item["op"] == op)
    return found


def test_the_rewritten_file_loads_when_nothing_was_edited(good: Path, tmp_path: Path) -> None:
    assert st.load(rewritten(good, tmp_path, lambda data: None)).steps == 4


REFUSED: dict[str, Callable[[Description], object]] = {
    "another schema": lambda d: d.update(schema="spiketune/99"),
    "no schema": lambda d: d.pop("schema"),
    "aten.system": lambda d: node(d, "call_function").update(target="aten.system"),
    "os.system": lambda d: node(d, "call_function").update(target="os.system"),
    "an operation outside the table": lambda d: node(d, "call_function").update(
        target="aten.sort.default"
    ),
    "a method call": lambda d: node(d, "call_function").update(op="call_method"),
    "an unknown unit": lambda d: d["modules"]["1.relu"].update(type="Popen"),
    "a unit that is torch's": lambda d: d["modules"]["1.relu"].update(type="Conv2d"),
    "unknown settings": lambda d: d["modules"]["1.relu"]["firing"].update(_type="Popen"),
    "an unknown surrogate": lambda d: d["modules"]["1.relu"]["firing"].update(
        surrogate={"_type": "eval"}
    ),
    "another shape": lambda d: d["tensors"]["0.weight"].update(shape=[2, 1, 3, 4]),
    "a tensor too few": lambda d: d["tensors"].pop("3.bias"),
    "no step count": lambda d: d.pop("steps"),
    "no nodes": lambda d: d.pop("nodes"),
    "no report": lambda d: d.pop("report"),
    "steps in words": lambda d: d.update(steps="four"),
    "less than one step": lambda d: d.update(steps=0),
    "a node that is not there": lambda d: node(d, "call_module").update(args=[{"node": "x"}]),
    "a module that is not there": lambda d: node(d, "call_module").update(target="2.relu"),
    "a parameter that is not there": lambda d: node(d, "get_attr").update(target="no.weight"),
    "an attribute that is no tensor": lambda d: node(d, "get_attr").update(target="__class__"),
    "no output": lambda d: d["nodes"].pop(),
    "a tensor larger than memory": lambda d: d["tensors"]["0.weight"].update(shape=[10**15]),
    "a negative shape": lambda d: d["tensors"]["0.weight"].update(shape=[-1]),
    "a setting too many": lambda d: d["modules"]["1.relu"].update(more=1),
    "a list": lambda d: (d.clear(), d.update({"schema": "spiketune/2", "tensors": []})),
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_file_that_names_or_lacks_anything_else_is_refused(
    name: str, good: Path, tmp_path: Path
) -> None:
    refused(rewritten(good, tmp_path, REFUSED[name]))


def test_a_description_that_is_no_json_is_refused(good: Path, tmp_path: Path) -> None:
    _, tensors = contents(good)
    for words in ("", "{", "[]", "null", '"text"'):
        save_file(tensors, tmp_path / "text.safetensors", metadata={"spiketune": words})
        refused(tmp_path / "text.safetensors")


def in_a_target(data: Description, op: str, code: str) -> None:
    node(data, op)["target"] = code


def in_a_keyword(data: Description, code: str) -> None:
    node(data, "call_function")["kwargs"] = {f"bias=None)\n{code}\nprint(": 1}


def in_a_path(data: Description, code: str) -> None:
    name = f'a")\n{code}\n#'
    data["tensors"][name] = data["tensors"].pop("0.weight")
    node(data, "get_attr")["target"] = name


INJECTED: dict[str, Callable[[Description, str], None]] = {
    "placeholder": lambda d, code: in_a_target(d, "placeholder", f"x={code}"),
    "annotation": lambda d, code: in_a_target(d, "placeholder", f"x: {code}"),
    "output": lambda d, code: in_a_target(d, "output", f"output\n{code}"),
    "keyword": in_a_keyword,
    "parameter path": in_a_path,
}


@pytest.mark.parametrize("name", INJECTED)
def test_code_in_a_file_is_never_run(name: str, good: Path, tmp_path: Path) -> None:
    """torch.fx writes names of a graph into Python source: only identifiers may reach it."""
    marker = tmp_path / "executed"
    code = f"open({str(marker)!r}, 'w')"
    path = rewritten(good, tmp_path, lambda data: INJECTED[name](data, code))
    with pytest.raises(StorageError):
        st.load(path)
    assert not marker.exists()


def test_a_tensor_of_another_shape_is_refused(good: Path, tmp_path: Path) -> None:
    data, tensors = contents(good)
    tensors["net.3.bias"] = torch.zeros(4)
    save_file(tensors, tmp_path / "shape.safetensors", {"spiketune": json.dumps(data)})
    refused(tmp_path / "shape.safetensors", "shape")
    tensors |= {"net.3.bias": torch.zeros(3), "net.extra": torch.zeros(3)}
    save_file(tensors, tmp_path / "more.safetensors", {"spiketune": json.dumps(data)})
    refused(tmp_path / "more.safetensors", "unexpected")
    tensors = {k: v for k, v in tensors.items() if k not in ("net.3.bias", "net.extra")}
    save_file(tensors, tmp_path / "missing.safetensors", {"spiketune": json.dumps(data)})
    refused(tmp_path / "missing.safetensors", "missing")


def test_a_save_that_fails_leaves_the_old_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    snn = converted()
    path = st.save(snn, tmp_path / "net.safetensors")
    before = path.read_bytes()

    def full(file: Path, data: bytes) -> int:
        with file.open("wb") as begun:
            begun.write(data[: len(data) // 2])
        raise OSError("no space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_bytes", full)
        with pytest.raises(StorageError, match=r"net.safetensors: cannot be written \(no space"):
            st.save(snn, path)
    assert [file.name for file in tmp_path.iterdir()] == ["net.safetensors"]
    assert path.read_bytes() == before
    torch.testing.assert_close(st.load(path).state_dict(), snn.state_dict())


def test_what_is_no_file_is_not_written_over(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "file").write_text("kept")
    for place, words in (("pipe", "no regular file"), ("file/a", "cannot be written")):
        with pytest.raises(StorageError, match=f"{tmp_path / place}: (is )?{words}"):
            st.save(direct(), tmp_path / place)
    assert (tmp_path / "pipe").is_fifo() and (tmp_path / "file").read_text() == "kept"


def test_nothing_but_tensors_and_json_is_written(good: Path) -> None:
    whole = good.read_bytes()
    length = struct.unpack("<Q", whole[:8])[0]
    header = json.loads(whole[8 : 8 + length])
    assert set(header.pop("__metadata__")) == {"spiketune"}
    assert set(header) == {f"net.{name}" for name in described(good)["tensors"]}
    assert b"lambda" not in whole and b"import" not in whole


def test_a_unit_of_a_users_own_is_refused_while_saving(tmp_path: Path) -> None:
    class Own(LIF):
        pass

    snn = direct()
    name = next(
        n.target for n in snn.net.graph.nodes if n.target.__class__ is str and "relu" in n.target
    )
    snn.net.set_submodule(name, Own(torch.ones(()), leak=0.5))
    with pytest.raises(StorageError, match="Own"):
        st.save(snn, tmp_path / "own.safetensors")
    assert not list(tmp_path.iterdir())
