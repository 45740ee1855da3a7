"""What this room raises beside ValueError (a setting or a path) and RuntimeError (the machine)."""


class ShardError(RuntimeError):
    """Bytes of a data set are not what was written: the message names file, place and remedy."""


class ImageError(ValueError):
    """Bytes are no usable image: the message is the reason, as quarantine.parquet records it.

    The part before the first colon is the kind of fault, the rest its details.
    """


class ConvertError(ValueError):
    """A source or a destination that cannot be converted: the message names the path and the remedy."""


class StorageError(RuntimeError):
    """A remote store refuses, or gives no good answer however often it is asked: names the URL and the cause.

    It is never the fault of an image.
    """
