"""The command line: ``spiketune demo | check | convert | tune | sweep | doctor | ...``."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

from jsonargparse import auto_cli, set_parsing_settings

from spiketune.convert import Method
from spiketune.convert.thresholds import Threshold
from spiketune.finetune import Rule
from spiketune.snn import SpiketuneError, Surrogate

from . import commands, inspection
from .demo import demo

COMMANDS: dict[str, Any] = {
    "demo": demo,
    "models": commands.models,
    "check": inspection.check,
    "ceiling": inspection.ceiling,
    "convert": commands.convert,
    "tune": commands.tune,
    "sweep": commands.sweep,
    "doctor": inspection.doctor,
    "recipes": inspection.recipes,
}
DESCRIPTION = "Convert pretrained networks into spiking ones, fine-tune them, compare step budgets."


def main(args: Sequence[str] | None = None) -> None:
    """Run one command; a user's error ends in one sentence and exit code 1, Ctrl-C in 130.

    Example:
        >>> main(["models", "--source=bundled"])  # doctest: +ELLIPSIS
        digits_resnet ...
    """
    given = sys.argv[1:] if args is None else list(args)
    set_parsing_settings(subclasses_enabled=[Method, Rule, Threshold, Surrogate])
    try:
        auto_cli(
            COMMANDS,
            # A switch alone: jsonargparse wants a value.
            args=["--all=true" if arg == "--all" else arg for arg in given],
            as_positional=False,
            prog="spiketune",
            description=DESCRIPTION,
        )
    except SpiketuneError as error:
        print(f"spiketune: {error}", file=sys.stderr)
        sys.exit(1)
    except OSError as error:
        print(f"spiketune: {error}; check the path, its permissions and the disk", file=sys.stderr)
        sys.exit(1)
    except ValueError as error:
        print(f"spiketune: {_cause(error)}", file=sys.stderr)
        sys.exit(1)
    except KeyboardInterrupt:
        sys.exit(130)


def _cause(error: BaseException) -> SpiketuneError:
    """Return our own error from under those that jsonargparse wraps around it; raise others."""
    inner: BaseException | None = error
    while inner is not None and not isinstance(inner, SpiketuneError):
        inner = inner.__cause__
    if inner is None:
        raise error
    return inner
