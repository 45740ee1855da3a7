"""Whether a JPEG's header is one unbroken chain of segments, which DALI needs and Pillow does not.

Pillow skips rubbish between two segments. DALI 2.4 fails at it, and in failing sometimes ends the process
(SIGSEGV in about one of ten such failures), so such an image must never reach it.
"""

from viewmill.shards.errors import ImageError

START, END, SCAN = b"\xff\xd8", 0xD9, 0xDA
WITHOUT_LENGTH = {0x01, *range(0xD0, 0xD8)}  # TEM and the restart markers


def check_markers(data: bytes) -> None:
    """Follow the segments of a JPEG up to its first scan; other formats pass.

    Source: ITU-T T.81, B.1.1.

    Raises:
        ImageError: something else than a marker follows a segment, or there is no scan.
    """
    if not data.startswith(START):
        return
    at = len(START)
    while at + 4 <= len(data):
        if data[at] != 0xFF:
            raise ImageError(f"broken JPEG header: byte {at} is no marker, {data[at]:#04x}")
        code = data[at + 1]
        if code == SCAN:
            return
        if code == END:
            break
        if code == 0xFF:  # fill bytes may precede a marker
            at += 1
        elif code in WITHOUT_LENGTH:
            at += 2
        else:
            at += 2 + int.from_bytes(data[at + 2 : at + 4], "big")
    raise ImageError("broken JPEG header: it ends before the first scan")
