"""Whether a JPEG's header is one unbroken chain of segments, which DALI needs and Pillow does not.

Pillow skips rubbish between two segments. DALI 2.4 fails at it, and in failing sometimes ends the process
(SIGSEGV in about one of ten such failures), so such an image must never reach it.
"""

from viewmill.shards.jpeg_header import START, segments


def check_markers(data: bytes) -> None:
    """Follow the segments of a JPEG up to its first scan; other formats pass.

    Raises:
        ImageError: something else than a marker follows a segment, or there is no scan.
    """
    if data.startswith(START):
        for _ in segments(data):
            pass
