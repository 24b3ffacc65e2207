"""What a user can mend. The command line prints these as one line, without a traceback.

A message says what is wrong, where, and what to do about it.
"""


class EdgetinyError(Exception):
    """Base of every error that a user can mend; `exit_code` is what the process ends with."""

    exit_code = 2


class ConfigError(EdgetinyError):
    """A setting, flag or recipe that cannot be."""


class DataError(EdgetinyError):
    """A text, tokenizer or shard folder that cannot be used."""


class CheckpointError(EdgetinyError):
    """A checkpoint folder that is missing, damaged or of an unsupported kind."""


class ArtefactError(EdgetinyError):
    """An exported artefact that is missing, damaged or cannot do what was asked."""


class DeviceError(EdgetinyError):
    """A device, or the software for one, that is not there or too small."""


class CheckFailed(EdgetinyError):
    """A verification or gate that ran and said no."""

    exit_code = 1
