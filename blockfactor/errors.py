"""Errors of the library. Every error derives from `BlockfactorError`."""


class BlockfactorError(Exception):
    """Base class of the library's errors."""


class InvalidParameterError(BlockfactorError, ValueError):
    """A parameter is out of range or does not fit the data. The message starts with the parameter's name."""


class InvalidDataError(BlockfactorError, ValueError):
    """The input contains an entry that cannot be used. The message names the input and its first bad entry."""


class ConvergenceError(BlockfactorError):
    """The loss is not finite or increased during training."""


class WorkerPoolError(BlockfactorError):
    """The Spark job that runs the workers ended before all calls returned."""
