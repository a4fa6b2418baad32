"""Networks with several answers: pyramids of features, segmentation and detection heads."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
import torchvision
from convert_networks import decibels, wild
from torch import Tensor, nn
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.backbone_utils import resnet_fpn_backbone
from torchvision.models.detection.retinanet import RetinaNet

import spiketune as st
from spiketune.snn import leaves, over_leaves


class Detector(nn.Module):
    """The part of a RetinaNet that is a network: what follows it sorts boxes."""

    def __init__(self) -> None:
        super().__init__()
        pyramid = resnet_fpn_backbone(
            backbone_name="resnet18", weights=None, trainable_layers=5, returned_layers=[2, 3, 4]
        )
        anchors = AnchorGenerator(tuple((size,) for size in (8, 16, 32, 64)), ((1.0,),) * 4)
        whole = RetinaNet(pyramid, num_classes=4, anchor_generator=anchors)
        self.backbone, self.head = whole.backbone, whole.head
        for module in self.head.modules():  # as made, it answers with its bias and little else
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        return self.head(list(self.backbone(x).values()))  # type: ignore[no-any-return]


def features() -> nn.Module:
    return timm.create_model("resnet10t", features_only=True)  # type: ignore[no-any-return]


def segmentation() -> nn.Module:
    return torchvision.models.segmentation.fcn_resnet50(  # type: ignore[no-any-return]
        weights=None, weights_backbone=None, num_classes=5
    )


@pytest.mark.parametrize(
    ("make", "shapes"),
    [
        (
            features,
            [(64, 32, 32), (64, 16, 16), (128, 8, 8), (256, 4, 4), (512, 2, 2)],
        ),
        (segmentation, {"out": (5, 64, 64)}),
        (Detector, {"cls_logits": (85, 4), "bbox_regression": (85, 4)}),
    ],
    ids=["features", "segmentation", "detection"],
)
def test_every_answer_of_a_head_is_right_and_in_its_place(
    make: Callable[[], nn.Module], shapes: Any, tmp_path: Path
) -> None:
    ann, steps, x = wild(make()).eval(), 4, torch.rand(2, 3, 64, 64)
    snn = st.to_snn(ann, x, st.Graded(steps=steps))
    with torch.no_grad():
        expected, curve = ann(x), snn.unroll(x)
    assert over_leaves(lambda answer: tuple(answer.shape[2:]), curve) == shapes
    for answer, value, inside in zip(
        leaves(curve), leaves(expected), leaves(snn.ann(x)), strict=True
    ):
        assert answer.shape == (steps, *value.shape)
        assert decibels(value, answer[-1]) > 30
        assert torch.allclose(inside, value, rtol=1e-3, atol=1e-3 * float(value.abs().max()))
    st.save(snn, tmp_path / "heads.safetensors")
    again = st.load(tmp_path / "heads.safetensors")
    with torch.no_grad():
        found = again.unroll(x, 2)
    assert over_leaves(lambda answer: tuple(answer.shape[2:]), found) == shapes
    for one, other in zip(leaves(found), leaves(curve), strict=True):
        assert torch.equal(one, other[:2])
