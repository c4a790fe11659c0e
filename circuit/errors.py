"""Every error this package raises on purpose, as one family.

    CircuitError          base class: the message is a sentence that a user can act on
      OptionError         an option, or a combination of options, that has no meaning
      PromptError         prompts or answers that cannot be used; names the row
      ModelError          a model that cannot be loaded, or is not supported
        NotEnoughMemoryError  ... because it does not fit into memory
      NumericalError      a number that is not finite came out of the model
      RunFileError        a saved run that cannot be read or written
      JobError            a job that did not finish
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


class NumericalError(CircuitError, ArithmeticError):
    """A score or output that is not finite."""


class RunFileError(CircuitError):
    """A saved run that cannot be read or written."""


class JobError(CircuitError):
    """A job that did not finish. The details are in the server's log."""


class JobCancelled(CircuitError):
    """A job that was asked to stop, and did."""
