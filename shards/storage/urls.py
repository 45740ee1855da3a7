"""Which texts are URLs, which of them are read, and which library reads them."""

import re
from typing import Any
from urllib.parse import urlsplit

_URL = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+)://")
# Forms of other tools that run a command or code; as plain file names they do not occur.
_COMMANDS = re.compile(r"(pipe|python|exec|shell|data|javascript):", re.IGNORECASE)
LOCAL = ("file", "local")
# Stores of files. Left out are what wraps another file system (reference, zip, cached, ...), what asks for a
# login or starts a process (ssh, sftp, git, ...), and what nobody has asked for.
STORES = (
    "s3",
    "s3a",
    "gs",
    "gcs",
    "http",
    "https",
    "abfs",
    "az",
    "oss",
    "oci",
    "hf",
    "hdfs",
    "webhdfs",
    "memory",
)
_EXTRAS = {"s3": "s3", "s3a": "s3", "gs": "gcs", "gcs": "gcs", "http": "http", "https": "http"}
_CONNECT_S = 20


def is_url(text: object) -> bool:
    """Whether this is a URL, or another text that names no file of this machine (pipe:..., a::b)."""
    return isinstance(text, str) and bool(_URL.match(text) or _COMMANDS.match(text) or "::" in text)


def local_path(url: str) -> str | None:
    """The path that a file:// URL names; None for a URL of another kind.

    Raises:
        ValueError: not a URL that is read here.
    """
    protocol = protocol_of(url)
    return url.partition("://")[2] if protocol in LOCAL else None


def protocol_of(url: str) -> str:
    """The URL's protocol, one of `STORES` and `LOCAL`.

    Raises:
        ValueError: chained, a command, credentials in the text, or a protocol that is not read.
    """
    match = _URL.match(url)
    protocol = match[1].lower() if match else url.partition(":")[0]
    if not match or "::" in url or protocol not in (*STORES, *LOCAL):
        raise ValueError(f"{url}: '{protocol}' is not read; give a path or one of {', '.join(STORES)}://")
    if "@" in url.partition("://")[2].partition("/")[0]:
        # Messages and manifests would repeat it.
        raise ValueError(f"{protocol}://...: holds a user or a password; give those by the environment")
    return protocol


def split_url(url: str) -> tuple[str, str]:
    """A file's URL as its folder's and its name, empty for a whole bucket; a query belongs to the name."""
    place, mark, query = url.partition("?") if is_http(url) else (url, "", "")
    folder, _, name = place.rpartition("/")
    if folder.endswith(":/"):  # a bucket, or a server
        return url, ""
    return folder, name + mark + query


def suffix_of(url: str) -> str:
    """The ending of the last part of a URL's path, as '.tar'."""
    path = urlsplit(url).path if is_http(url) else url
    name = path.rpartition("/")[2]
    return "." + name.rpartition(".")[2].lower() if "." in name else ""


def is_http(url: str) -> bool:
    """Whether this is a URL of a web server, which has no folders."""
    return url.lower().startswith(("http://", "https://"))


def filesystem_of(url: str) -> Any:
    """fsspec's file system for a URL; it remembers no listing, and leaves trying again to the caller.

    Raises:
        ImportError: the library for this protocol is not installed; names the extra.
        ValueError: see `protocol_of`.
    """
    import fsspec

    protocol = protocol_of(url)
    try:
        filesystem = fsspec.filesystem(protocol, use_listings_cache=False, **_options(protocol))
    except ImportError as error:
        extra = _EXTRAS.get(protocol)
        remedy = f"pip install 'viewmill[{extra}]'" if extra else "install that library"
        raise ImportError(f"{protocol}:// needs another library ({error}): {remedy}") from error
    if _EXTRAS.get(protocol) == "s3":
        filesystem.retries = 1
    return filesystem


def _options(protocol: str) -> dict[str, Any]:
    if _EXTRAS.get(protocol) == "s3":
        # Its own tries, times those of the client below it, times ours would be hours.
        return {"config_kwargs": {"retries": {"total_max_attempts": 1}, "connect_timeout": _CONNECT_S}}
    if _EXTRAS.get(protocol) == "http":
        import aiohttp

        # A body that was compressed on its way would not have the size that is stated.
        headers = {"Accept-Encoding": "identity"}
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=_CONNECT_S)
        return {"client_kwargs": {"headers": headers, "timeout": timeout}}
    return {}
