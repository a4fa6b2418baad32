"""Find out whether ``torch.utils.checkpoint`` runs a function now, for the first time or again.

Without re-entry it counts what autograd keeps the first time and refuses to go on where the second
time keeps something else, as a neuron does whose kernel came in between. It tells nobody which
time it is, but its hooks on what is kept hold the run that they belong to: a new hook each time.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from typing import Any
from weakref import ReferenceType, WeakKeyDictionary

import torch
from torch.utils import checkpoint

Hook = Callable[..., Any]
# What holds a run for both times; none where another PyTorch has no such thing.
_FRAME: Any = getattr(checkpoint, "_CheckpointFrame", ())
_choices: WeakKeyDictionary[Any, list[bool]] = WeakKeyDictionary()  # of a run, the first time
_repeated: WeakKeyDictionary[Hook, Iterator[bool]] = WeakKeyDictionary()  # by the hook of a repeat


def run_first() -> list[list[bool]]:
    """Return where to note which neurons go through kernels: nowhere but the first time."""
    _, frame, again = _running()
    return [] if frame is None or again else [_choices.setdefault(frame, [])]


def run_again() -> Iterator[bool] | None:
    """Return, the second time, what was noted the first; the rest of it, as it is taken."""
    hook, frame, again = _running()
    if hook is None or frame is None or not again:
        return None
    return _repeated.setdefault(hook, iter(_choices.get(frame, ())))


def _running() -> tuple[Hook | None, Any, bool]:
    """Return the hook round what runs now, the run that it is of, and whether it is a repeat."""
    hook = _hook()
    if hook is not None and hook.__module__ == checkpoint.__name__:
        for cell in inspect.unwrap(hook).__closure__ or ():
            held = cell.cell_contents
            again = isinstance(held, ReferenceType)
            frame = held() if again else held
            if isinstance(frame, _FRAME):
                return hook, frame, again
    return None, None, False


def _hook() -> Hook | None:
    """Return the innermost hook on what autograd keeps; PyTorch tells since 2.8."""
    top = getattr(torch._C._autograd, "_top_saved_tensors_default_hooks", None)
    hooks = None if top is None or not torch.is_grad_enabled() else top(False)
    return None if hooks is None else hooks[0]
