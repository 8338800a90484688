"""Errors that a user can act on.

Every one of them becomes a single line on stderr and exit code 2 in the command line. Anything else
that escapes is a bug of ours and keeps its traceback.
"""


class AutodraftError(Exception):
    """Base of all errors whose message says what is wrong and what to do about it."""


class UnsupportedModelError(AutodraftError):
    """The checkpoint's architecture, or one of its settings, has no implementation here."""


class ModelNotFoundError(AutodraftError):
    """No configured name, folder or hub id answers to what was asked for."""


class PolicyError(AutodraftError):
    """A policy that does not fit the model, or that is no policy at all."""


class ProfileError(AutodraftError):
    """A draft profile that cannot be read, or that belongs to something else."""


class ContextLengthError(AutodraftError):
    """More tokens were asked for than the model or the cache has room for."""


class TrainingError(AutodraftError):
    """A training that diverged, or that cannot reach what was asked of it."""


class InputError(AutodraftError):
    """A prompt, option or file given by the user that cannot be used."""
