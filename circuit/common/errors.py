"""Every error this package raises on purpose, as one family.

    CircuitError          base class: the message is a sentence that a user can act on
      OptionError         an option, or a combination of options, that has no meaning
      PromptError         prompts or answers that cannot be used; names the row
      ModelError          a model that cannot be loaded, or is not supported
        NotEnoughMemoryError  ... because it does not fit into memory
      BatchMemoryError    prompts that do not fit into memory together, and cannot be taken apart
      NumericalError      a number that is not finite came out of the model
      SettingsError       a setting of the server's owner that cannot be used
      RunFileError        a saved run that cannot be read or written
      LinkError           settings in a link or a file that cannot be read, or are too long for a link
      JobError            a job that did not finish
        WorkerLostError     ... because its worker was ended from outside
      JobCancelled        a job that was asked to stop, and did

Anything else that escapes is a bug of ours, not the user's input.
"""

from __future__ import annotations


class CircuitError(Exception):
    """Base of the family. `str(error)` says what is wrong, where, and what to do."""


class OptionError(CircuitError, ValueError):
    """An option, or a combination of options, that has no meaning."""


class PromptError(CircuitError, ValueError):
    """Prompts or answers that cannot be used. Rows are counted from 1, as a table shows them."""


class ModelError(CircuitError):
    """A model that cannot be loaded, or whose architecture is not supported."""


class NotEnoughMemoryError(ModelError):
    """A model that does not fit into the memory that is free."""


class BatchMemoryError(CircuitError):
    """A batch that does not fit into the memory that is free, and cannot be made smaller."""


class NumericalError(CircuitError, ArithmeticError):
    """A score or output that is not finite."""


class SettingsError(CircuitError):
    """A setting of the server's owner that cannot be used. Names the file or the variable, and the key."""


class RunFileError(CircuitError):
    """A saved run that cannot be read or written."""


class LinkError(CircuitError):
    """Settings in a link or a settings file that cannot be read, or that are too long for a link."""


class JobError(CircuitError):
    """A job that did not finish. The details are in the server's log."""


class WorkerLostError(JobError):
    """A job whose worker process ended under it. Another worker may well finish it."""


class JobCancelled(CircuitError):
    """A job that was asked to stop, and did."""
