"""Forms of calls: what was checked once need not be checked again.

A decoding loop calls verification thousands of times with tensors of the same shapes and the same
options. The models that run in between push the interpreter's code and data out of the processor's
caches, so that every line of Python then costs several times what a warm loop shows: checks, the
torch operator and the making of a `Problem` took 0.15 to 0.3 ms a call, as long as the reading of
ten rows of 128,256 logits. So the form of a call, which is all of it but the values in its tensors
and its seeds, is remembered with its problem.
"""

from collections.abc import Mapping

from torch import Tensor

from speculative.verification.problem import Problem

Form = tuple[object, ...]
MOST = 512
"""The most forms that are remembered. Loops have a few; where there are more, all are forgotten."""
_PROBLEMS: dict[Form, Problem] = {}


def form(options: tuple[object, ...], arguments: Mapping[str, object]) -> Form | None:
    """The form of a call with these options and arguments, of which tensors count by what they are
    like; None: it has none, since an argument is of no kind that a form can hold."""
    made = (*options, *[_likeness(value) for value in arguments.values()])
    try:
        hash(made)
    except TypeError:
        return None
    return made


def _likeness(value: object) -> object:
    """What stands for an argument in a form. A tensor of a class of its own may have no memory that
    kernels could read: nothing stands for it that a form could hold."""
    if type(value) is Tensor:
        return value.shape, value.stride(), value.dtype, value.device
    return [] if isinstance(value, Tensor) else value


def known(form: Form | None) -> Problem | None:
    """The problem of the calls of this form; None: it is not remembered."""
    return None if form is None else _PROBLEMS.get(form)


def remember(form: Form, problem: Problem) -> None:
    """Note that calls of this form were checked, and pose this problem."""
    if count() >= MOST:
        forget()
    _PROBLEMS[form] = problem


def count() -> int:
    """How many forms are remembered."""
    return len(_PROBLEMS)


def forget() -> None:
    """Check the next call of every form again."""
    _PROBLEMS.clear()
