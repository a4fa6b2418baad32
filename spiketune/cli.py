"""The command line: ``spiketune demo | check | convert | tune | sweep | doctor | ...``."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any, get_args

from jsonargparse import auto_cli, set_parsing_settings

from spiketune.convert import Method
from spiketune.convert.thresholds import Threshold
from spiketune.finetune import Exponential, Loss, Rule
from spiketune.snn import PSP, Norm, Readout, SpiketuneError, Surrogate
from spiketune.snn.dynamics import Reset
from spiketune.snn.schedules import Schedule
from spiketune.zoo import NeuronKind

from . import commands, inspection, tuning
from .demo import demo
from .exits import exit
from .naming import options, require_known
from .parsing import Parser, own_defaults

COMMANDS: dict[str, Any] = {
    "demo": demo,
    "models": commands.models,
    "check": inspection.check,
    "ceiling": inspection.ceiling,
    "convert": commands.convert,
    "tune": tuning.tune,
    "sweep": commands.sweep,
    "exit": exit,
    "doctor": inspection.doctor,
    "recipes": inspection.recipes,
    "info": inspection.info,
}
# What is named by a class, its settings behind it. Of a union whose classes are not listed here,
# jsonargparse would read every name as that of the first.
UNIONS = (Readout, Reset, Schedule)
KINDS = (
    Method, Rule, Threshold, Surrogate, Exponential, Loss, NeuronKind, Norm, PSP,
    *(cls for union in UNIONS for cls in get_args(union)),
)  # fmt: skip
DESCRIPTION = "Convert pretrained networks into spiking ones, fine-tune them, compare step budgets."


def main(args: Sequence[str] | None = None) -> None:
    """Run one command; a user's error ends in one sentence and exit code 1, Ctrl-C in 130.

    Example:
        >>> main(["models", "--source=bundled"])  # doctest: +ELLIPSIS
        digits_resnet ...
    """
    given = sys.argv[1:] if args is None else list(args)
    set_parsing_settings(subclasses_enabled=[*KINDS])
    try:
        given = _with_rule(given)
        if given and given[0] in COMMANDS:
            require_known(options(given[1:]), COMMANDS[given[0]], KINDS)
        with own_defaults():
            auto_cli(
                COMMANDS,
                # A switch alone: jsonargparse wants a value.
                args=["--all=true" if arg == "--all" else arg for arg in given],
                as_positional=False,
                prog="spiketune",
                description=DESCRIPTION,
                parser_class=Parser,
            )
    except SpiketuneError as error:
        print(f"spiketune: {error}", file=sys.stderr)
        sys.exit(1)
    except BrokenPipeError:  # whoever reads, such as head, has seen enough
        sys.stderr.close()
        sys.exit(0)
    except OSError as error:
        print(f"spiketune: {error}; check the path, its permissions and the disk", file=sys.stderr)
        sys.exit(1)
    except ValueError as error:
        print(f"spiketune: {_cause(error)}", file=sys.stderr)
        sys.exit(1)
    except KeyboardInterrupt:
        sys.exit(130)


def _with_rule(given: list[str]) -> list[str]:
    """Let settings of a rule be those of the default one where none is named."""
    names = [arg.partition("=")[0] for arg in given]
    if "--rule" in names or not any(name.startswith("--rule.") for name in names):
        return given
    return [*given[:1], "--rule=SurrogateBPTT", *given[1:]]  # a --config behind it may name another


def _cause(error: BaseException) -> SpiketuneError:
    """Return our own error from under those that jsonargparse wraps around it; raise others."""
    inner: BaseException | None = error
    while inner is not None and not isinstance(inner, SpiketuneError):
        inner = inner.__cause__
    if inner is None:
        raise error
    return inner
