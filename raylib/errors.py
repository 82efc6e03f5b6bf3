"""The errors of this package: one base class, a child where a caller must tell kinds apart."""


class RaylibError(Exception):
    """Base of every error that this package raises on purpose; its text is one sentence for a person."""


class ConfigError(RaylibError):
    """A setting, path or model file is wrong; names the value, what was expected, and where."""


class StorageError(RaylibError, OSError):
    """Results cannot be written where they should go: a full disk, a bucket out of reach; the run can go on later."""


class ImageError(RaylibError):
    """One image cannot be used; carries the row status that says why.

    Args:
        status: value for the row's `status` column (`decode_error`, `too_large`, `out_of_memory`).
        message: one sentence for the row's `error_message` column.
    """

    def __init__(self, status: str, message: str):
        super().__init__(message)
        self.status = status
        self.message = message

    def __reduce__(self) -> tuple[type, tuple[str, str]]:
        return type(self), (self.status, self.message)
