"""VGG-16 as hybrid conversion wants it: no BatchNorm, no biases, average pooling, dropout.

Without biases a threshold per layer carries the whole network over into spikes, and averages of
spikes are what the next layer adds up anyway, where a maximum would have to wait for rates.
"""

from __future__ import annotations

from typing import Any

from timm.models import build_model_with_cfg, generate_default_cfgs, register_model
from torch import Tensor, nn

__all__ = ["AverageVGG"]

# Simonyan & Zisserman 2015, configuration D: channels of each stage's 3x3 convolutions.
_STAGES = ((64, 64), (128, 128), (256, 256, 256), (512, 512, 512), (512, 512, 512))
_HIDDEN = 4096
_HALF = (0.5, 0.5, 0.5)  # scales images to [-1, 1]

default_cfgs = generate_default_cfgs(
    {
        "rathi_vgg16": {
            "input_size": (3, 32, 32),
            "num_classes": 10,
            "mean": _HALF,
            "std": _HALF,
            "interpolation": "bilinear",
            "crop_pct": 1.0,
            "first_conv": "features.0",
            "classifier": "head.6",
        }
    }
)


class AverageVGG(nn.Module):
    """VGG-16 without BatchNorm and biases, ``2x2`` averages for maxima, dropout everywhere.

    Args:
        num_classes: outputs.
        in_chans: channels of the images.
        drop_rate: chance of a value to be dropped behind each ReLU but the last of a stage.

    Source: Rathi et al. 2020, section 3; the layers are those of Simonyan & Zisserman 2015.

    Example:
        >>> import torch
        >>> list(AverageVGG()(torch.zeros(2, 3, 32, 32)).shape)
        [2, 10]
    """

    def __init__(self, num_classes: int = 10, in_chans: int = 3, drop_rate: float = 0.2) -> None:
        super().__init__()
        self.num_classes, self.in_chans = num_classes, in_chans
        layers: list[nn.Module] = []
        for stage in _STAGES:
            for number, width in enumerate(stage, 1):
                layers += [nn.Conv2d(in_chans, width, 3, padding=1, bias=False), nn.ReLU()]
                layers.append(nn.Dropout(drop_rate) if number < len(stage) else nn.AvgPool2d(2))
                in_chans = width
        self.features = nn.Sequential(*layers)
        self.head = nn.Sequential(
            nn.Linear(in_chans, _HIDDEN, bias=False), nn.ReLU(), nn.Dropout(drop_rate),
            nn.Linear(_HIDDEN, _HIDDEN, bias=False), nn.ReLU(), nn.Dropout(drop_rate),
            nn.Linear(_HIDDEN, num_classes, bias=False),
        )  # fmt: skip
        for module in self.modules():
            if isinstance(module, nn.Conv2d | nn.Linear):
                # Without BatchNorm nothing else keeps activations in range through 16 layers.
                nn.init.kaiming_normal_(module.weight, nonlinearity="relu")

    def forward(self, x: Tensor) -> Tensor:
        """Return the answers ``[B, classes]`` to ``[B, C, H, W]``, 32 pixels or more."""
        answers: Tensor = self.head(self.features(x).mean((2, 3)))
        return answers


@register_model
def rathi_vgg16(pretrained: bool = False, **options: Any) -> nn.Module:
    """Build ``AverageVGG`` for 32-pixel images; nobody publishes weights for it.

    Example:
        >>> from spiketune.zoo import load_ann
        >>> load_ann("rathi_vgg16", pretrained=False).pretrained_cfg["mean"]
        (0.5, 0.5, 0.5)
    """
    model: nn.Module = build_model_with_cfg(AverageVGG, "rathi_vgg16", pretrained, **options)
    return model
