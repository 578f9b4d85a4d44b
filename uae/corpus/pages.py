"""The pages in which an S3 store lists its objects, read by the column.

botocore makes a dictionary of each object, and s3fs works on it: for 100,000 objects that is most of a look. Here botocore gets
each page without its entries. All else stays botocore's and s3fs's: keys, address, signatures, retries, redirects, errors.
"""

import re
from collections.abc import Iterator
from datetime import datetime
from typing import Any, NamedTuple

# ListObjectsV2 in Amazon's S3 API reference: each entry has each of these once.
_COLUMNS = [
    re.compile(f"<{name}>{value}</{name}>")
    for name, value in (
        ("Key", "([^<]*)"),
        ("Size", r"(\d+)"),
        ("ETag", '(?:"|&quot;|&#34;)([^<&"]*)(?:"|&quot;|&#34;)'),
        ("LastModified", "([^<]*)"),
    )
]
_BEGIN, _END = "<Contents>", "</Contents>"
_ENTRIES = "uae.entries"


class Entries(NamedTuple):
    """Objects of a store, a column each."""

    keys: list[str]
    sizes: list[int]  # bytes
    etags: list[str]  # without quotes
    times: list[float]  # of the last change, seconds since 1970


def entries(store: Any, bucket: str, prefix: str) -> Iterator[Entries]:
    """The objects of a bucket whose keys begin with ``prefix``, by the page.

    Args:
        store: an s3fs.S3FileSystem.

    Raises:
        What s3fs raises where it lists.
    """
    # By this name it is called before botocore itself parses the body in search of errors. Later would do, and take longer.
    store.s3.meta.events.register("before-parse.*.ListObjectsV2", _set_apart)
    token: dict[str, str] = {}
    while True:
        page = store.call_s3("list_objects_v2", Bucket=bucket, Prefix=prefix, **token)
        if (found := page.get(_ENTRIES)) is None:
            yield _told(page.get("Contents", []))
        else:
            yield found._replace(keys=_decoded(found.keys)) if page.get("EncodingType") == "url" else found
        if not page.get("IsTruncated"):
            return
        token = {"ContinuationToken": page["NextContinuationToken"]}


def read_page(body: bytes) -> tuple[Entries, bytes] | None:
    """The entries of a page, and the page without them; None where it is not as Amazon's are, and botocore has to read it."""
    try:
        text = body.decode()
    except UnicodeDecodeError:
        return None
    start, end = text.find(_BEGIN), text.rfind(_END) + len(_END)
    middle = text[start:end] if 0 <= start < end else ""
    number = middle.count(_BEGIN)
    if not number or middle.count(_END + _BEGIN) != number - 1:
        return None
    keys, sizes, etags, times = (column.findall(middle) for column in _COLUMNS)
    if {len(keys), len(sizes), len(etags), len(times)} != {number} or any("&" in key for key in keys):
        return None
    try:
        seconds = {time: datetime.fromisoformat(time).timestamp() for time in set(times)}
    except ValueError:
        return None
    found = Entries(keys, [int(size) for size in sizes], etags, [seconds[time] for time in times])
    return found, (text[:start] + text[end:]).encode()


def _set_apart(response_dict: dict[str, Any], customized_response_dict: dict[str, Any], **_: Any) -> None:
    """A handler of botocore's event ``before-parse``."""
    if response_dict["status_code"] == 200 and (read := read_page(response_dict["body"])) is not None:
        customized_response_dict[_ENTRIES], response_dict["body"] = read


def _decoded(keys: list[str]) -> list[str]:
    from botocore.compat import unquote_str  # what it asks stores to encode, it decodes

    return [unquote_str(key) if "%" in key or "+" in key else key for key in keys]


def _told(objects: list[dict[str, Any]]) -> Entries:
    """Of what botocore says of each object."""
    return Entries(
        [each["Key"] for each in objects],
        [int(each["Size"]) for each in objects],
        [str(each["ETag"]).strip('"') for each in objects],
        [each["LastModified"].timestamp() for each in objects],
    )
