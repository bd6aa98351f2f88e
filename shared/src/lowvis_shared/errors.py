"""Every error that lowvis raises on purpose: an exit code and, where one helps, a hint."""

from typing import ClassVar


class LowvisError(Exception):
    """An error whose message is for the user: what went wrong, where, and what to do.

    Args:
        message: One line that names the file or option concerned.
        hint: One line that says what to do about it.
    """

    exit_code: ClassVar[int] = 1

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(message)
        self.hint = hint


class PartialFailure(LowvisError):  # noqa: N818 - a result of a run, not a fault of the program
    """Some inputs of a run failed and the others were done."""


class UsageError(LowvisError):
    """The options of a command or the arguments of a function do not make sense together."""

    exit_code = 2


class InputError(LowvisError):
    """An input file or array cannot be used: unreadable, truncated, of a kind not supported."""

    exit_code = 65


class WeightsError(LowvisError):
    """Weights are missing, damaged, of another network, or may not be fetched."""

    exit_code = 66


class DeviceError(LowvisError):
    """The device or precision asked for does not exist on this machine."""

    exit_code = 69


class MissingExtraError(LowvisError):
    """An optional dependency is needed for what was asked.

    Args:
        distribution: The package whose extra is missing, such as ``lowvis-pan``.
        extra: The name of the extra, such as ``train``.
    """

    exit_code = 69

    def __init__(self, distribution: str, extra: str) -> None:
        super().__init__(
            f"this needs the '{extra}' extra of {distribution}",
            hint=f"pip install '{distribution}[{extra}]'",
        )


class OutputError(LowvisError):
    """A result cannot be written: it exists, the folder is read-only, the format cannot hold it."""

    exit_code = 73


class ReproductionError(LowvisError):
    """A figure that was measured lies outside its tolerance, or evidence does not agree."""
