from __future__ import annotations

import gzip
import hashlib
import json
import pickle
import struct
import time
import urllib.error
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from sklearn.datasets import load_digits
from torch import Tensor
from torch.utils.data import DataLoader

from spiketune.zoo import DataError, data_info, list_data, load_ann, load_data, photographs
from spiketune.zoo import image_tensors as image_tensors_module
from spiketune.zoo.colour import CIFAR
from spiketune.zoo.idx import read_idx

CFG = {"input_size": (1, 28, 28), "mean": (0.5,), "std": (0.5,), "interpolation": "bilinear"}


def idx_bytes(values: Tensor) -> bytes:
    header = struct.pack(f">HBB{values.ndim}I", 0, 8, values.ndim, *values.shape)
    return header + bytes(values.flatten().tolist())


def write_mnist(folder: Path, count: int = 20, zipped: bool = True) -> tuple[Tensor, Tensor]:
    folder.mkdir(parents=True, exist_ok=True)
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(256, (count, 28, 28), generator=generator)
    labels = torch.arange(count) % 10
    for stem in ("train", "t10k"):
        for part, values in (("images-idx3", images), ("labels-idx1", labels)):
            content = idx_bytes(values)
            name = f"{stem}-{part}-ubyte" + (".gz" if zipped else "")
            (folder / name).write_bytes(gzip.compress(content) if zipped else content)
    return images, labels


def write_pictures(folder: Path, classes: tuple[str, ...], each: int = 3) -> None:
    for number, name in enumerate(classes):
        (folder / name).mkdir(parents=True)
        for index in range(each):
            colour = (40 * number, 10 * index, 200)
            Image.new("RGB", (40, 30), colour).save(folder / name / f"{index}.png")


@pytest.fixture(autouse=True)
def nowhere(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Keep the machine's own data sets and network out of every test; return the cache."""

    def refused(*_: object, **__: object) -> None:
        raise urllib.error.URLError("Connection refused")

    cache = tmp_path_factory.mktemp("cache")
    monkeypatch.delenv("SPIKETUNE_DATA", raising=False)
    monkeypatch.setattr("spiketune.zoo.places.SYSTEM", (cache / "system",))
    monkeypatch.setattr("spiketune.zoo.places.CACHE", cache)
    monkeypatch.setattr("urllib.request.urlopen", refused)
    return cache


class TestDigits:
    def test_splits_are_disjoint_stratified_and_complete(self) -> None:
        (train, train_y), (test, test_y) = (load_data("digits", s).tensors for s in SPLITS)
        assert len(train) == 1198 and len(test) == 599
        counts = torch.bincount(test_y)
        assert counts.min() >= 58 and counts.max() <= 61
        seen = {image.numpy().tobytes() for image in train}
        assert not seen & {image.numpy().tobytes() for image in test}
        assert len(train_y) + len(test_y) == len(load_digits().target)

    def test_values_are_the_file_s_divided_by_16(self) -> None:
        cfg = {"input_size": (1, 8, 8), "mean": (0.0,), "std": (1.0,)}
        images = torch.cat([load_data("digits", s, cfg=cfg).tensors[0] for s in SPLITS])
        expected = torch.tensor(load_digits().data.sum() / 16)
        assert images.min() == 0 and images.max() == 1
        assert torch.isclose(images.sum(), expected.float(), rtol=1e-5)

    def test_stated_mean_and_std_normalise_the_training_images(self) -> None:
        images, _ = load_data("digits", "train").tensors
        assert abs(images.mean().item()) < 1e-3
        assert abs(images.std().item() - 1) < 1e-3

    def test_a_limit_is_fixed_and_mixed(self) -> None:
        images, labels = load_data("digits", "train", limit=100).tensors
        again, _ = load_data("digits", "train", limit=100).tensors
        assert len(labels) == 100 and torch.equal(images, again)
        assert len(labels.unique()) == 10
        assert len(load_data("digits", "train", limit=10**6)) == 1198


SPLITS = ("train", "test")


class TestIdx:
    @given(shape=st.lists(st.integers(0, 5), min_size=1, max_size=4), zipped=st.booleans())
    def test_reads_what_the_format_says(
        self, tmp_path_factory: pytest.TempPathFactory, shape: list[int], zipped: bool
    ) -> None:
        values = torch.randint(256, tuple(shape), dtype=torch.uint8)
        content = idx_bytes(values)
        path = tmp_path_factory.mktemp("idx") / "values"
        path.write_bytes(gzip.compress(content) if zipped else content)
        assert torch.equal(read_idx(path), values)

    @given(share=st.floats(0, 0.999), zipped=st.booleans())
    def test_a_file_cut_anywhere_is_refused(
        self, tmp_path_factory: pytest.TempPathFactory, share: float, zipped: bool
    ) -> None:
        content = idx_bytes(torch.arange(60).view(3, 4, 5))
        content = gzip.compress(content) if zipped else content
        path = tmp_path_factory.mktemp("idx") / "values"
        path.write_bytes(content[: int(len(content) * share)])
        with pytest.raises(DataError, match="fetch it again"):
            read_idx(path)

    @pytest.mark.parametrize("content", [b"<html>", bytes([0, 0, 13, 1, 0, 0, 0, 0])])
    def test_another_format_is_refused(self, tmp_path: Path, content: bytes) -> None:
        (tmp_path / "values").write_bytes(content)
        with pytest.raises(DataError, match="instead of an idx header"):
            read_idx(tmp_path / "values")

    def test_a_flipped_byte_in_a_gzip_is_refused(self, tmp_path: Path) -> None:
        content = bytearray(gzip.compress(idx_bytes(torch.arange(200).view(10, 20))))
        content[-20] ^= 0xFF
        (tmp_path / "values.gz").write_bytes(content)
        with pytest.raises(DataError, match="damaged"):
            read_idx(tmp_path / "values.gz")


class TestMnist:
    @pytest.mark.parametrize("zipped", [True, False])
    @pytest.mark.parametrize("below", ["", "mnist", "raw", "MNIST/raw"])
    def test_is_found_below_the_root(self, tmp_path: Path, below: str, zipped: bool) -> None:
        images, labels = write_mnist(tmp_path / below, zipped=zipped)
        data = load_data("mnist", "test", root=tmp_path, cfg=CFG)
        assert torch.allclose(data.tensors[0][:, 0], (images / 255 - 0.5) / 0.5, atol=1e-6)
        assert data.tensors[1].tolist() == labels.tolist()

    def test_the_user_s_folder_goes_before_the_variable_and_the_cache(
        self, tmp_path: Path, nowhere: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("SPIKETUNE_DATA", str(tmp_path / "variable"))
        lengths = []
        for count, folder in (
            (5, nowhere / "mnist"),
            (6, nowhere / "system" / "mnist"),
            (7, tmp_path / "variable" / "mnist"),
            (8, tmp_path / "root"),
        ):
            write_mnist(folder, count)
            lengths.append(len(load_data("mnist", "train", root=tmp_path / "root")))
        assert lengths == [5, 6, 7, 8]

    def test_three_channels_repeat_the_grey_one(self, tmp_path: Path) -> None:
        write_mnist(tmp_path)
        cfg = {"input_size": (3, 28, 28), "mean": (0.1, 0.2, 0.3), "std": (0.5, 0.5, 1.0)}
        grey = {"input_size": (1, 28, 28), "mean": (0.0,), "std": (1.0,)}
        colour = load_data("mnist", "test", root=tmp_path, cfg=cfg)[3][0]
        plain = load_data("mnist", "test", root=tmp_path, cfg=grey)[3][0][0]
        assert colour.shape == (3, 28, 28)
        assert torch.allclose(colour[2], plain - 0.3, atol=1e-6)
        assert torch.allclose(colour[0], (plain - 0.1) / 0.5, atol=1e-6)

    def test_a_network_without_mean_gets_the_set_s_own(self, tmp_path: Path) -> None:
        images, _ = write_mnist(tmp_path)
        image, _ = load_data("mnist", "test", root=tmp_path, cfg={"input_size": (3, 28, 28)})[0]
        expected = (images[0] / 255 - 0.1307) / 0.3081
        assert torch.allclose(image, expected.expand(3, -1, -1), atol=1e-5)

    def test_other_sizes_are_resized_to(self, tmp_path: Path) -> None:
        write_mnist(tmp_path)
        for size in ((1, 32, 32), (1, 14, 20)):
            data = load_data("mnist", "test", root=tmp_path, cfg={**CFG, "input_size": size})
            assert data[0][0].shape == size
            assert data.tensors[0].abs().max() <= 1

    def test_preparing_lazily_gives_the_same(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        write_mnist(tmp_path)
        cfg = {**CFG, "input_size": (3, 40, 40), "mean": (0.1, 0.2, 0.3), "std": (1, 1, 2)}
        eager = load_data("mnist", "test", root=tmp_path, cfg=cfg)
        monkeypatch.setattr(image_tensors_module, "EAGER_BYTES", 0)
        lazy = load_data("mnist", "test", root=tmp_path, cfg=cfg)
        assert torch.equal(eager[4][0], lazy[4][0])
        assert torch.equal(eager.tensors[0], lazy.tensors[0])

    def test_shifting_moves_whole_images_onto_black(self, tmp_path: Path) -> None:
        write_mnist(tmp_path)
        still = load_data("mnist", "train", root=tmp_path, cfg=CFG)[0][0][0]
        moved = load_data("mnist", "train", root=tmp_path, cfg=CFG, augment=True)
        torch.manual_seed(0)
        seen = [moved[0][0][0] for _ in range(30)]
        assert len({image.numpy().tobytes() for image in seen}) > 10
        # The middle, which no shift of up to 3 can push out, is somewhere in every image.
        middle = still[3:-3, 3:-3]
        for image in seen:
            windows = image.unfold(0, 22, 1).unfold(1, 22, 1)
            assert (windows == middle).all(-1).all(-1).any()
        edges = torch.stack(seen)[:, 0]
        assert (edges == -1).all(-1).any()  # black is -1 after this normalisation

    def test_a_loader_over_60000_images_costs_little(self) -> None:
        prepare = image_tensors_module.preparation(data_info("mnist"), None)
        data = image_tensors_module.ImageTensors(
            torch.zeros(60_000, 1, 28, 28), torch.zeros(60_000).long(), (), prepare
        )
        started = time.perf_counter()
        assert sum(len(labels) for _, labels in DataLoader(data, 256, shuffle=True)) == 60_000
        assert time.perf_counter() - started < 10  # it takes about one; a shared machine, ten

    def test_labels_of_another_length_are_refused(self, tmp_path: Path) -> None:
        write_mnist(tmp_path, zipped=False)
        (tmp_path / "t10k-labels-idx1-ubyte").write_bytes(idx_bytes(torch.zeros(3).long()))
        with pytest.raises(DataError, match="one label an image"):
            load_data("mnist", "test", root=tmp_path)

    def test_a_truncated_file_is_refused(self, tmp_path: Path) -> None:
        write_mnist(tmp_path)
        file = tmp_path / "train-images-idx3-ubyte.gz"
        file.write_bytes(file.read_bytes()[:-100])
        with pytest.raises(DataError, match=r"train-images-idx3-ubyte\.gz is damaged or cut"):
            load_data("mnist", "train", root=tmp_path)


class TestNowhere:
    @pytest.mark.parametrize("name", ["mnist", "fashion-mnist", "cifar10", "imagenette"])
    def test_a_failed_download_lists_every_place(
        self, name: str, tmp_path: Path, nowhere: Path
    ) -> None:
        with pytest.raises(DataError, match=r"download failed .*Connection refused") as caught:
            load_data(name, "test", root=tmp_path / "mine")
        message = str(caught.value)
        for place in (tmp_path / "mine" / name, nowhere / "system" / name, nowhere / name):
            assert str(place) in message
        assert "root=" in message and "$SPIKETUNE_DATA" in message and "\n" not in message

    def test_no_download_when_not_asked_for(self) -> None:
        with pytest.raises(DataError, match="downloading was not asked for"):
            load_data("mnist", "test", download=False)

    def test_unknown_names_get_near_ones(self) -> None:
        with pytest.raises(DataError, match="fashion-mnist"):
            load_data("fashion_mnist", "test")
        with pytest.raises(DataError, match=r"one of digits, .*folder"):
            data_info("xyz")

    def test_wrong_arguments_are_refused(self) -> None:
        with pytest.raises(DataError, match="train or test"):
            load_data("digits", "val")  # type: ignore[arg-type]
        with pytest.raises(DataError, match="from 1 on"):
            load_data("digits", "test", limit=0)
        with pytest.raises(DataError, match="training images"):
            load_data("digits", "test", augment=True)
        with pytest.raises(DataError, match="input_size"):
            load_data("digits", "test", cfg={"input_size": 8})


class TestColour:
    @pytest.fixture
    def cifar(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
        """Write a CIFAR-10 of ten images with its own checksums."""
        reader, folder = CIFAR["cifar10"], tmp_path / "cifar-10-batches-py"
        folder.mkdir()
        pixels = torch.randint(256, (10, 3072), dtype=torch.uint8).numpy()
        batch = pickle.dumps({"data": pixels, "labels": list(range(10))})
        meta = pickle.dumps({"label_names": list(data_info("cifar10").classes)})
        digest = hashlib.md5(batch).hexdigest()
        for name in ("data_batch_1", "test_batch"):
            (folder / name).write_bytes(batch)
        (folder / "batches.meta").write_bytes(meta)
        monkeypatch.setattr(reader, "train_list", [["data_batch_1", digest]])
        monkeypatch.setattr(reader, "test_list", [["test_batch", digest]])
        own = {**reader.meta, "md5": hashlib.md5(meta).hexdigest()}
        monkeypatch.setattr(reader, "meta", own)
        return folder

    def test_cifar_is_normalised_and_not_cropped(self, cifar: Path) -> None:
        cfg = {"input_size": (3, 32, 32), "mean": (0, 0, 0), "std": (1, 1, 1), "crop_pct": 1.0}
        for root in (cifar, cifar.parent):
            image, label = load_data("cifar10", "test", root=root, cfg=cfg)[4]
            raw = pickle.loads((cifar / "test_batch").read_bytes())["data"][4]
            assert label == 4
            assert torch.allclose(image.flatten() * 255, torch.tensor(raw).float(), atol=1e-3)

    def test_cifar_shrinks_to_grey_and_grows_to_any_size(self, cifar: Path) -> None:
        for size in ((1, 32, 32), (3, 64, 64)):
            cfg = {"input_size": size, "mean": (0.5,) * size[0], "std": (0.5,) * size[0]}
            assert load_data("cifar10", "train", root=cifar, cfg=cfg)[0][0].shape == size

    def test_cifar_moves_when_augmented(self, cifar: Path) -> None:
        data = load_data("cifar10", "train", root=cifar, augment=True)
        torch.manual_seed(0)
        assert len({data[0][0].numpy().tobytes() for _ in range(10)}) > 3

    def test_a_changed_cifar_file_is_never_unpickled(self, cifar: Path) -> None:
        (cifar / "test_batch").write_bytes(b"cos\nsystem\n(S'false'\ntR.")
        with pytest.raises(DataError, match="a checksum differs"):
            load_data("cifar10", "test", root=cifar)

    def test_folder_reads_classes_and_limits_evenly(self, tmp_path: Path) -> None:
        write_pictures(tmp_path / "train", ("ant", "bee", "cow"))
        write_pictures(tmp_path / "val", ("ant", "bee", "cow"))
        data = load_data("folder", "test", root=tmp_path)
        assert data.classes == ["ant", "bee", "cow"] and len(data) == 9
        assert data[8][1] == 2 and data[0][0].shape == (3, 224, 224)
        few = load_data("folder", "train", root=tmp_path, limit=6)
        assert len({label for _, label in few}) > 1

    def test_imagenet_networks_get_imagenet_labels(self, tmp_path: Path) -> None:
        write_pictures(tmp_path / "imagenette2-320" / "val", ("n01440764", "n03888257"))
        cfg = {"input_size": (3, 32, 32), "num_classes": 1000}
        data = load_data("imagenette", "test", root=tmp_path, cfg=cfg)
        assert {label for _, label in data} == {0, 701}  # tench, parachute
        own = load_data("imagenette", "test", root=tmp_path, cfg={**cfg, "num_classes": 10})
        assert {label for _, label in own} == {0, 1}

    def test_a_spiking_network_s_short_cfg_gives_the_ann_s_labels(self, tmp_path: Path) -> None:
        write_pictures(tmp_path / "val", ("n01440764", "n03888257"))
        full = load_ann("torchvision/resnet18", pretrained=False).pretrained_cfg
        kept = ("input_size", "mean", "std", "num_classes")
        short = json.loads(json.dumps({key: full[key] for key in kept}))  # as a file keeps it
        of_ann, of_snn = (load_data("folder", "test", tmp_path, cfg=cfg) for cfg in (full, short))
        assert [label for _, label in of_ann] == [label for _, label in of_snn]
        assert {label for _, label in of_snn} == {0, 701}
        assert all(a[0].shape == b[0].shape for a, b in zip(of_ann, of_snn, strict=True))

    def test_missing_folders_say_where_to_put_images(self, tmp_path: Path) -> None:
        with pytest.raises(DataError, match=r"folder needs root= \(--root on"):
            load_data("folder", "train")
        with pytest.raises(DataError, match=r"no folder val or test.*<class>"):
            load_data("folder", "test", root=tmp_path)
        (tmp_path / "train" / "ant").mkdir(parents=True)
        with pytest.raises(DataError, match="no class folders with images"):
            load_data("folder", "train", root=tmp_path)

    def test_five_channels_are_refused(self, cifar: Path) -> None:
        cfg = {"input_size": (5, 32, 32), "mean": (0.5,) * 5, "std": (0.5,) * 5}
        with pytest.raises(DataError, match="takes 5 channels"):
            load_data("cifar10", "test", root=cifar, cfg=cfg)


class TestPhotographs:
    def test_are_sixty_and_always_the_same(self) -> None:
        pytest.importorskip("skimage")
        cfg = {"input_size": (3, 64, 64), "mean": (0, 0, 0), "std": (1, 1, 1)}
        images, names = photographs(cfg)
        assert images.shape == (60, 3, 64, 64) and len(set(names)) == 60
        assert images.min() >= 0 and images.max() <= 1
        assert torch.equal(images, photographs(cfg)[0])
        assert names[:6] == [f"china/{crop}" for crop in CROPS]

    def test_missing_scikit_image_names_the_extra(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setitem(__import__("sys").modules, "skimage", None)
        with pytest.raises(DataError, match=r"pip install 'spiketune\[imagenet\]'"):
            photographs({"input_size": (3, 64, 64)})


CROPS = ("whole", "centre", "top-left", "top-right", "bottom-left", "bottom-right")


def test_every_set_is_described() -> None:
    counts = {info.name: info.num_classes for info in list_data()}
    assert counts == {
        **dict.fromkeys(("digits", "mnist", "fashion-mnist", "cifar10", "imagenette"), 10),
        **{"cifar100": 100, "folder": 0},
        **dict.fromkeys(("mnist_saccades", "fashion_mnist_saccades", "nmnist", "ti46_digits"), 10),
        **{"dvs_gesture": 11, "ntidigits": 11, "tidigits": 11, "shd": 20, "ti46_alpha": 26},
    }


def test_digits_fit_the_bundled_network() -> None:
    cfg = load_ann("digits_resnet").pretrained_cfg
    assert torch.equal(
        load_data("digits", "test", cfg=cfg).tensors[0], load_data("digits", "test").tensors[0]
    )
