"""A range of a file on a web server: fsspec would take the whole file where a server ignores ranges."""

from typing import Any

from viewmill.shards.errors import StorageError
from viewmill.shards.storage.retry import Incomplete

_PARTIAL = 206


async def web_range(filesystem: Any, url: str, offset: int, size: int) -> bytes:
    """Exactly `size` bytes, of an answer that says that it is this range; never more of it is read.

    Raises:
        FileNotFoundError: status 404 or 410; StorageError: the server ignores ranges; others: as aiohttp.
    """
    session = await filesystem.set_session()
    wanted = f"bytes {offset}-{offset + size - 1}/"
    headers = {"Range": wanted.replace(" ", "=").rstrip("/")}
    async with session.get(filesystem.encode_url(url), headers=headers) as answer:
        if answer.status in (404, 410):
            raise FileNotFoundError(url)
        answer.raise_for_status()
        stated = answer.headers.get("Content-Range", "")
        if answer.status == _PARTIAL and not stated.startswith(wanted):
            raise Incomplete(f"'{wanted}' was asked, '{stated[:100]}' came")
        # A whole file that begins where the range does is as good.
        if answer.status != _PARTIAL and offset:
            raise StorageError(
                f"{url.partition('?')[0]}: the server answers with the whole file where bytes from {offset} "
                "on were asked; copy it to a server that knows ranges"
            )
        data: bytes = await answer.content.readexactly(size)
        return data
