"""The trainer's errors.

Exception
`-- UserError       a mistake in what a user gave: one line on stderr, exit 2
    |-- ConfigError a key, a value or a combination of values
    |-- DataError   a folder, a picture or a mask
    `-- CheckpointError  a file of weights that does not fit or cannot be written

`Diverged` is not a mistake: training reached a loss that is not a number. Nor is `DeviceLost`.
"""


class UserError(Exception):
    """A mistake that the user can fix. The text names the thing, the value and the fix."""


class ConfigError(UserError):
    """A key, a value or a combination of values that cannot be trained."""


class DataError(UserError):
    """A folder, a picture or a mask that cannot be used."""


class CheckpointError(UserError):
    """A checkpoint that is missing, unreadable, of another model, or cannot be written."""


class Diverged(Exception):
    """The loss became NaN or infinite; the trial ends with its history so far."""


class DeviceLost(Exception):
    """A GPU whose state this process can no longer trust: another process is to go on."""


class CaptureFailed(DeviceLost):
    """It was lost as a step was recorded as a CUDA graph: without one a training may go on."""
