"""Any network of timm, with its weights from the hub, and a short answer when there is no way."""

from __future__ import annotations

import ssl
import urllib.error
import urllib.request
from collections.abc import Mapping

import huggingface_hub
import timm
from huggingface_hub.errors import HfHubHTTPError
from safetensors import SafetensorError
from timm.models import PretrainedCfg, get_pretrained_cfg
from torch import Tensor, nn

from .errors import DOWNLOAD_ERRORS, ModelError

__all__ = ["HUB_ERRORS", "build", "no_download"]

HUB_FILES = ("model.safetensors", "pytorch_model.bin")
PROBE_SECONDS = 10.0
# The hub's client moved from requests to httpx, whose errors are no OSError; both are bases of
# the one error it exports, so neither library needs a name here. A file in the cache that was
# cut short shows as an error of safetensors.
HUB_ERRORS: tuple[type[BaseException], ...] = (
    *DOWNLOAD_ERRORS,
    SafetensorError,
    *HfHubHTTPError.__bases__,
)


def build(name: str, pretrained: bool, num_classes: int | None, in_chans: int | None) -> nn.Module:
    """Build a timm network, with the weights timm publishes for it if asked.

    Args:
        name: ``arch`` or ``arch.tag``.
        pretrained: Whether to fetch the weights; what is in the hub's cache is not fetched again.
        num_classes: Classes; another number than the weights have gives a new head.
        in_chans: Input channels; another number than the weights have adapts the stem.

    Returns:
        The network.

    Raises:
        ModelError: There are no weights, or they cannot be fetched.

    Example:
        >>> from spiketune.zoo.timm_models import build
        >>> build("test_resnet", False, 10, 1).num_classes
        10
    """
    cfg = get_pretrained_cfg(name)
    if pretrained and (cfg is None or not cfg.has_weights):
        raise ModelError(
            f"timm publishes no weights for {name}, pass pretrained=False (--pretrained false on "
            "the command line) for a fresh network or checkpoint= (--checkpoint) for your own file"
        )
    try:
        if pretrained and cfg is not None:
            _probe(cfg)
        model: nn.Module = timm.create_model(
            name, pretrained=pretrained, num_classes=num_classes, in_chans=in_chans
        )
    except HUB_ERRORS as error:
        raise no_download(name, error) from error
    return model


def with_published(name: str, like: nn.Module, state: Mapping[str, Tensor]) -> nn.Module | None:
    """Build the network from weights in the form in which they were once published.

    Some architectures were renamed since; timm knows how to translate their files.

    Args:
        name: ``arch`` or ``arch.tag``.
        like: The network with the classes and channels asked for.
        state: The file's tensors, which do not fit as they are.

    Returns:
        The network with every tensor loaded, or nothing if timm cannot translate them either.

    Example:
        >>> from spiketune.zoo.timm_models import build, with_published
        >>> net = build("test_resnet", False, 10, None)
        >>> with_published("test_resnet", net, {}) is None
        True
    """
    if not state:
        return None  # timm takes an empty dict for none and would go to the hub
    cfg: Mapping[str, object] = vars(like)["pretrained_cfg"]
    classes, channels = getattr(like, "num_classes", None), getattr(like, "in_chans", None)
    # Saying that the file has these classes keeps timm strict; it would drop the head otherwise.
    overlay: dict[str, object] = {"state_dict": dict(state), "num_classes": classes}
    if classes != cfg.get("num_classes"):
        overlay["label_offset"] = 0
    try:
        model: nn.Module = timm.create_model(
            name,
            pretrained=True,
            num_classes=classes,
            in_chans=channels,
            pretrained_cfg_overlay=overlay,
        )
    except (RuntimeError, LookupError, TypeError, ValueError, AttributeError):
        return None  # The caller then says how the file differs from the network.
    return model


def no_download(name: str, error: BaseException) -> ModelError:
    """Word the error of a download that failed.

    Args:
        name: The network.
        error: What the download raised.

    Returns:
        The error to raise.

    Example:
        >>> from spiketune.zoo.timm_models import no_download
        >>> print(no_download("resnet18", OSError("refused")))
        the weights of resnet18 cannot be fetched (refused), pass a local file with
        checkpoint= (--checkpoint on the command line, --ann_checkpoint of sweep,
        --teacher_checkpoint of tune), or take a fresh network with pretrained=False
        (--pretrained false of the other commands)
    """
    reason = getattr(error, "reason", None) or error
    text = (str(reason).strip() or type(error).__name__).splitlines()[0].rstrip(". ")
    return ModelError(
        f"the weights of {name} cannot be fetched ({text}), pass a local file with checkpoint= "
        "(--checkpoint on the command line, --ann_checkpoint of sweep, --teacher_checkpoint of "
        "tune), or take a fresh network with pretrained=False (--pretrained false of the other "
        "commands)"
    )


def _probe(cfg: PretrainedCfg) -> None:
    """Fail at once where the hub cannot be reached: its client would retry for most of a minute."""
    repo = cfg.hf_hub_id
    if not repo or huggingface_hub.constants.HF_HUB_OFFLINE:
        return
    repo, _, revision = repo.partition("@")
    names = (cfg.hf_hub_filename,) if cfg.hf_hub_filename else HUB_FILES
    for file in names:
        if huggingface_hub.try_to_load_from_cache(repo, file, revision=revision or None):
            return
    url = huggingface_hub.hf_hub_url(repo, names[0], revision=revision or None)
    try:
        with urllib.request.urlopen(
            urllib.request.Request(url, method="HEAD"), timeout=PROBE_SECONDS
        ):
            pass
    except urllib.error.HTTPError:
        pass  # It answers; what the answer means is for the hub's client to say.
    except urllib.error.URLError as error:
        # Python may lack certificates which the hub's client brings along.
        if not isinstance(error.reason, ssl.SSLError):
            raise
