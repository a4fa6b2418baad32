"""Event data sets by name: found in their folders, cut into frames, learned from."""

from __future__ import annotations

import sys
import types
from pathlib import Path

import numpy as np
import pytest
import torch
from real_formats import AEDAT, EVENTS, Event, nmnist, packet, write_idx
from torch import Tensor, nn
from torch.utils.data import DataLoader

import spiketune as st
from spiketune.zoo import Bins, DataError, EventFrames, Hearing, Saccades, list_data, load_data
from spiketune.zoo.data_sets import Split
from spiketune.zoo.saccades import saccades

PIXELS = {"input_size": (1, 28, 28), "mean": (0.0,), "std": (1.0,)}


pytestmark = pytest.mark.usefixtures("empty_machine")


def loaded(name: str, split: Split, root: Path | None, **how: object) -> EventFrames:
    data = load_data(name, split, root, **how)  # type: ignore[arg-type]
    assert isinstance(data, EventFrames)
    return data


def placed(events: list[Event], steps: int, duration: int) -> set[tuple[int, ...]]:
    return {(t * steps // duration, p, y, x) for t, x, y, p in events}


def places(frames: Tensor) -> set[tuple[int, ...]]:
    return {tuple(place) for place in frames.nonzero().tolist()}


def write_mnist(folder: Path, count: int) -> None:
    images = torch.randint(256, (count, 28, 28), generator=torch.Generator().manual_seed(0))
    write_idx(folder, images, torch.arange(count) % 10)


def write_nmnist(folder: Path, each: int = 2) -> None:
    for split in ("Train", "Test"):
        for digit in (0, 7):
            (folder / split / str(digit)).mkdir(parents=True)
            for index in range(each):
                moved = [(t, (x + digit) % 34, y, p) for t, x, y, p in EVENTS]
                (folder / split / str(digit) / f"0000{index}.bin").write_bytes(nmnist(moved))


class TestNMNIST:
    @pytest.mark.parametrize("below", ["", "nmnist", "NMNIST"])
    def test_is_found_and_cut_into_frames(self, tmp_path: Path, below: str) -> None:
        write_nmnist(tmp_path / below)
        data = loaded("nmnist", "test", tmp_path)
        frames, labels = data.tensors
        assert frames.shape == (4, 30, 2, 34, 34) and labels.tolist() == [0, 0, 7, 7]
        assert places(frames[0]) == placed(EVENTS, 30, 300_000)
        assert data.classes == tuple("0123456789")

    def test_bins_decide(self, tmp_path: Path) -> None:
        write_nmnist(tmp_path)
        bins = Bins(steps=4, duration=100_000, size=(17, 17), binary=False)
        frames = loaded("nmnist", "train", tmp_path, frames=bins).tensors[0]
        assert frames.shape == (4, 4, 2, 17, 17)
        assert places(frames[0]) == {(0, 1, 2, 1), (2, 0, 0, 16), (2, 1, 16, 0)}

    def test_the_network_decides(self, tmp_path: Path) -> None:
        write_nmnist(tmp_path)
        ann = nn.Sequential(nn.Flatten(), nn.Linear(2 * 17 * 17, 10), nn.ReLU())
        snn = st.twin(ann, 6, (2, 17, 17))
        with pytest.raises(DataError, match=r"st\.add_frames\(snn, 30\)"):
            load_data("nmnist", "test", tmp_path, cfg=snn)
        st.add_frames(snn, 6)
        data = loaded("nmnist", "test", tmp_path, cfg=snn)
        assert data.shape == (6, 2, 17, 17)
        assert snn(data.tensors[0]).shape == (4, 10)
        with pytest.raises(DataError, match=r"the network takes inputs of .*gives frames of \(5,"):
            load_data("nmnist", "test", tmp_path, cfg=snn, frames=Bins(steps=5))

    def test_a_limit_is_read_alone(self, tmp_path: Path) -> None:
        write_nmnist(tmp_path, each=4)
        whole = loaded("nmnist", "train", tmp_path)
        some = loaded("nmnist", "train", tmp_path, limit=3)
        again = loaded("nmnist", "train", tmp_path, limit=3)
        assert len(some) == 3 < len(whole) and torch.equal(some.dense(), again.dense())

    def test_damaged_recordings_are_named(self, tmp_path: Path) -> None:
        write_nmnist(tmp_path)
        file = tmp_path / "Test" / "7" / "00001.bin"
        for content, message in (
            (nmnist(EVENTS)[:-2], r"7/00001\.bin holds 18 bytes"),
            (nmnist(EVENTS[::-1]), r"7/00001\.bin runs backwards in time"),
            (nmnist([(0, 34, 0, 0)]), r"7/00001\.bin has event 0 at x=34, outside"),
        ):
            file.write_bytes(content)
            with pytest.raises(DataError, match=message):
                load_data("nmnist", "test", tmp_path)

    def test_without_tonic_nothing_is_fetched_and_the_extra_is_named(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setitem(sys.modules, "tonic", None)
        with pytest.raises(DataError, match=r"tonic.*not installed.*spiketune\[events\]") as caught:
            load_data("nmnist", "train", tmp_path)
        assert "root=" in str(caught.value) and "\n" not in str(caught.value)
        with pytest.raises(DataError, match="downloading was not asked for"):
            load_data("nmnist", "train", tmp_path, download=False)

    def test_tonic_fetches_into_the_cache(
        self, empty_machine: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        asked: list[tuple[str, bool]] = []

        def fetch(save_to: str, train: bool = True) -> None:
            asked.append((save_to, train))
            write_nmnist(Path(save_to, "NMNIST"))

        datasets = types.ModuleType("tonic.datasets")
        datasets.NMNIST = fetch  # type: ignore[attr-defined]
        tonic = types.ModuleType("tonic")
        tonic.datasets = datasets  # type: ignore[attr-defined]
        monkeypatch.setitem(sys.modules, "tonic", tonic)
        monkeypatch.setitem(sys.modules, "tonic.datasets", datasets)
        assert len(loaded("nmnist", "test", None)) == 4
        assert asked == [(str(empty_machine / "nmnist"), False)]

    def test_tonic_s_classes_are_called_as_they_are(self) -> None:
        import inspect

        datasets = pytest.importorskip("tonic.datasets", reason="tonic is not installed")
        from spiketune.zoo.recordings import TONIC

        for name in TONIC.values():
            inspect.signature(getattr(datasets, name)).bind("here", train=True)


class TestGesture:
    def write_sessions(self, folder: Path, late: int = 0) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        trials = [[(5_000 + t, x, y, p) for t, x, y, p in EVENTS], [(700_000, 127, 0, 1)]]
        content = AEDAT + b"".join(map(packet, trials))
        table = "class,startTime_usec,endTime_usec\n4,5000,600000\n11,600000,900000\n"
        for user in ("user01_led", "user24_natural"):
            (folder / f"{user}.aedat").write_bytes(content)
            (folder / f"{user}_labels.csv").write_text(table)
        (folder / "trials_to_train.txt").write_text("user01_led.aedat\n")
        (folder / "trials_to_test.txt").write_text("user24_natural.aedat\n\n")

    @pytest.mark.parametrize("below", ["", "DvsGesture", "dvs_gesture"])
    def test_sessions_become_trials(self, tmp_path: Path, below: str) -> None:
        self.write_sessions(tmp_path / below)
        data = loaded("dvs_gesture", "test", tmp_path)
        frames, labels = data.tensors
        assert frames.shape == (2, 30, 2, 128, 128) and labels.tolist() == [3, 10]
        assert places(frames[0]) == placed(EVENTS, 30, 1_500_000)
        assert places(frames[1]) == {(2, 1, 0, 127)}
        assert data.classes[10] == "other_gestures"

    def test_frames_of_a_quarter_the_size(self, tmp_path: Path) -> None:
        self.write_sessions(tmp_path)
        data = loaded("dvs_gesture", "train", tmp_path, frames=Bins(steps=3, size=(32, 32)))
        assert places(data.dense()[1]) == {(0, 1, 0, 31)}

    def test_a_missing_session_is_named(self, tmp_path: Path) -> None:
        self.write_sessions(tmp_path)
        (tmp_path / "user24_natural.aedat").unlink()
        with pytest.raises(DataError, match=r"user24_natural\.aedat cannot be read"):
            load_data("dvs_gesture", "test", tmp_path)

    def test_a_trial_without_events_is_named(self, tmp_path: Path) -> None:
        self.write_sessions(tmp_path)
        table = tmp_path / "user01_led_labels.csv"
        table.write_text("class,startTime_usec,endTime_usec\n1,1,2\n")
        with pytest.raises(DataError, match=r"user01_led\.aedat from 1 µs on holds no events"):
            load_data("dvs_gesture", "train", tmp_path)
        table.write_text("class,startTime_usec,endTime_usec\n12,5000,600000\n")
        with pytest.raises(DataError, match=r"is of class 11, dvs_gesture has 0 to 10"):
            load_data("dvs_gesture", "train", tmp_path)

    @pytest.mark.parametrize("below", ["", "DVSGesture"])
    def test_tonic_s_arrays_are_read(self, tmp_path: Path, below: str) -> None:
        for split in ("Train", "Test"):
            user = tmp_path / below / f"ibmGesture{split}" / "user07_lab"
            user.mkdir(parents=True)
            np.save(user / "10.npy", np.array([(x, y, p, t / 1000) for t, x, y, p in EVENTS]))
        data = loaded("dvs_gesture", "train", tmp_path)
        assert data.labels.tolist() == [10]
        assert places(data.dense()[0]) == placed(EVENTS, 30, 1_500_000)


class TestEars:
    @pytest.fixture(autouse=True)
    def h5py(self) -> types.ModuleType:
        module = pytest.importorskip("h5py", reason="h5py is not installed")
        assert isinstance(module, types.ModuleType)
        return module

    def write_shd(self, path: Path, times: list[list[float]], units: list[list[int]]) -> None:
        import h5py

        with h5py.File(path, "w") as file:
            for key, rows, kind in (("times", times, np.float16), ("units", units, np.uint16)):
                made = file.create_dataset(f"spikes/{key}", (len(rows),), h5py.vlen_dtype(kind))
                for index, row in enumerate(rows):
                    made[index] = np.array(row, kind)
            file["labels"] = np.arange(len(times), dtype=np.uint16) + 10

    @pytest.mark.parametrize("below", ["", "SHD"])
    def test_shd(self, tmp_path: Path, below: str) -> None:
        (tmp_path / below).mkdir(exist_ok=True)
        path = tmp_path / below / "shd_train.h5"
        self.write_shd(path, [[0.0, 0.5], [0.25, 0.25, 1.0]], [[0, 699], [5, 5, 6]])
        data = loaded("shd", "train", tmp_path)
        assert data.shape == (100, 1, 1, 700) and data.labels.tolist() == [10, 11]
        assert data.classes[10] == "null" and len(data.classes) == 20
        assert places(data.dense()[0]) == {(0, 0, 0, 0), (35, 0, 0, 699)}
        counts = loaded("shd", "train", tmp_path, frames=Bins(steps=2, binary=False)).dense()[1]
        assert counts[0, 0, 0, 5] == 2 and counts.sum() == 3

    def test_bad_shd_files(self, tmp_path: Path) -> None:
        path = tmp_path / "shd_test.h5"
        self.write_shd(path, [[0.5, 0.25]], [[1, 2]])
        with pytest.raises(DataError, match=r"shd_test\.h5, sample 0 runs backwards"):
            load_data("shd", "test", tmp_path)
        self.write_shd(path, [[0.5]], [[1, 2]])
        with pytest.raises(DataError, match="has 1 times and 2 channels"):
            load_data("shd", "test", tmp_path)
        self.write_shd(path, [[0.5]], [[700]])
        with pytest.raises(DataError, match="x=700, outside the sensor's 0 to 699"):
            load_data("shd", "test", tmp_path)
        path.write_bytes(path.read_bytes()[:1000])
        with pytest.raises(DataError, match="damaged or cut short"):
            load_data("shd", "test", tmp_path)

    def test_another_h5_file_is_refused(self, tmp_path: Path) -> None:
        import h5py

        with h5py.File(tmp_path / "shd_test.h5", "w") as file:
            file["labels"] = np.zeros(3)
        with pytest.raises(DataError, match="has no 'spikes/times'"):
            load_data("shd", "test", tmp_path)

    @pytest.mark.parametrize("below", ["", "NTIDIGITS18"])
    def test_ntidigits_keeps_isolated_digits(self, tmp_path: Path, below: str) -> None:
        import h5py

        (tmp_path / below).mkdir(exist_ok=True)
        with h5py.File(tmp_path / below / "n-tidigits.hdf5", "w") as file:
            for split in ("train", "test"):
                names = [f"man-ac-{digits}" for digits in ("z", "1", "9", "o", "12z")]
                file[f"{split}_labels"] = np.array(names, "S20")
                for index, name in enumerate(names):
                    file[f"{split}_timestamps/{name}"] = np.array([0.0, 0.3])
                    file[f"{split}_addresses/{name}"] = np.array([index, 63])
        data = loaded("ntidigits", "test", tmp_path)
        assert data.labels.tolist() == [0, 1, 9, 10] and data.classes[10] == "oh"
        assert data.shape == (100, 1, 1, 64)
        assert places(data.dense()[2]) == {(0, 0, 0, 2), (20, 0, 0, 63)}


class TestSaccades:
    def test_are_the_saccades_over_the_images(self, tmp_path: Path) -> None:
        write_mnist(tmp_path / "mnist", count=70)
        images, labels = load_data("mnist", "train", tmp_path, cfg=PIXELS).tensors  # type: ignore[attr-defined]
        for how in (Saccades(), Saccades(steps=4, frames=5, size=30, binary=False)):
            data = loaded("mnist_saccades", "train", tmp_path, frames=how)
            assert torch.equal(data.dense(dtype=torch.uint8), saccades(images, how))
            assert torch.equal(data.labels, labels)

    def test_fashion_has_its_own_images(self, tmp_path: Path) -> None:
        write_mnist(tmp_path / "fashion-mnist", count=3)
        data = loaded("fashion_mnist_saccades", "test", tmp_path)
        assert data.classes[0] == "t-shirt" and len(data) == 3
        with pytest.raises(DataError, match="mnist is in none of"):
            load_data("mnist_saccades", "test", tmp_path / "nothing")

    def test_the_network_decides(self, tmp_path: Path) -> None:
        write_mnist(tmp_path / "mnist", count=2)
        for frames in (4, 33):
            cfg = {"input_size": (frames, 2, 28, 28)}
            data = loaded("mnist_saccades", "test", tmp_path, cfg=cfg)
            assert data.shape == (frames, 2, 28, 28) and data.dense().any(-1).any(-1).all()

    def test_a_network_learns_from_them(self, tmp_path: Path) -> None:
        """Two kinds of images, dark left and dark right, told apart after a few updates."""
        images, labels = torch.randint(256, (60, 28, 28)), torch.arange(60) % 2
        images[0::2, :, :14] = 0
        images[1::2, :, 14:] = 0
        write_idx(tmp_path / "mnist", images, labels)
        torch.manual_seed(0)
        ann = nn.Sequential(
            nn.AvgPool2d(4, ceil_mode=True), nn.Flatten(), nn.Linear(2 * 81, 20), nn.ReLU(),
            nn.Linear(20, 10),
        )  # fmt: skip
        snn = st.twin(ann, 6, (2, 34, 34))
        st.add_frames(snn, 6)
        train, test = (
            DataLoader(load_data("mnist_saccades", split, tmp_path, cfg=snn), 20, shuffle=True)
            for split in ("train", "test")
        )
        history = st.tune(
            snn, train, st.SurrogateBPTT(), steps=6, epochs=8, validate=test,
            training=st.Training(learning_rate=1e-2),
        )  # fmt: skip
        assert (history.epochs[-1].validation or 0) > 0.9


class TestArguments:
    def test_settings_of_another_kind_are_refused(self, tmp_path: Path) -> None:
        with pytest.raises(DataError, match=r"nmnist takes frames=Bins\(\.\.\.\), not Saccades"):
            load_data("nmnist", "test", tmp_path, frames=Saccades())
        with pytest.raises(DataError, match=r"mnist_saccades takes frames=Saccades.*not Hearing"):
            load_data("mnist_saccades", "test", tmp_path, frames=Hearing())
        with pytest.raises(DataError, match="digits holds still images, leave frames out"):
            load_data("digits", "test", frames=Bins())

    @pytest.mark.parametrize("augment", [True, "rand-m9-mstd0.5"])
    def test_augmentation_is_for_images(self, tmp_path: Path, augment: bool | str) -> None:
        with pytest.raises(DataError, match="augment is for images, leave it out"):
            load_data("nmnist", "train", tmp_path, augment=augment)

    def test_the_catalogue_knows_frames_and_classes(self) -> None:
        over_time = {info.name: info for info in list_data() if info.frames}
        assert len(over_time) == 9 and all(info.duration > 0 for info in over_time.values())
        counts = {"nmnist": 10, "dvs_gesture": 11, "shd": 20, "ntidigits": 11, "tidigits": 11}
        assert all(over_time[name].num_classes == count for name, count in counts.items())
        assert over_time["ti46_alpha"].num_classes == 26
