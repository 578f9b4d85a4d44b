"""The form in which stores list: what is read quickly, and what is left to botocore."""

import pytest

from uae.corpus.pages import Entries, read_page

HEAD = '<?xml version="1.0" encoding="UTF-8"?>\n<ListBucketResult xmlns="http://s3.amazonaws.com/doc/2006-03-01/"><Name>b</Name>'
TAIL = "<IsTruncated>true</IsTruncated><NextContinuationToken>t</NextContinuationToken></ListBucketResult>"
FIRST = (
    "<Contents><Key>a%26b.md</Key><LastModified>2026-11-30T07:59:41.000Z</LastModified><ETag>&quot;e1&quot;</ETag><Size>9</Size>"
    "<Owner><ID>o</ID><DisplayName>Key</DisplayName></Owner><StorageClass>STANDARD</StorageClass></Contents>"
)
SECOND = (
    '<Contents><Key>c</Key><ETag>"e2-3"</ETag><Size>0</Size><LastModified>2026-11-30T08:59:41+01:00</LastModified></Contents>'
)


def test_what_stands_between_the_entries_is_left_for_botocore():
    read = read_page((HEAD + FIRST + SECOND + TAIL).encode())
    assert read == (Entries(["a%26b.md", "c"], [9, 0], ["e1", "e2-3"], [1796025581.0] * 2), (HEAD + TAIL).encode())


@pytest.mark.parametrize(
    "body",
    [
        HEAD + TAIL,
        HEAD + FIRST + "<Prefix>p</Prefix>" + SECOND + TAIL,
        HEAD + FIRST + "\n" + SECOND + TAIL,
        HEAD + FIRST + SECOND.replace("c</Key>", "c&amp;d</Key>") + TAIL,
        HEAD + FIRST + SECOND.replace("<Key>c</Key>", "<Key><![CDATA[c]]></Key>") + TAIL,
        HEAD + FIRST + SECOND.replace('<ETag>"e2-3"</ETag>', "") + TAIL,
        HEAD + FIRST + SECOND.replace("2026-11-30T08:59:41+01:00", "Mon, 30 Nov 2026 07:59:41 GMT") + TAIL,
        (HEAD + FIRST + SECOND + TAIL).replace("<", "<s3:").replace("<s3:/", "</s3:"),
        "<Error><Code>SlowDown</Code></Error>",
        "",
    ],
)
def test_another_form_is_left_to_botocore(body):
    assert read_page(body.encode()) is None


def test_no_text_is_left_to_botocore():
    assert read_page((HEAD + FIRST + TAIL).encode("utf-16")) is None


def test_a_page_that_breaks_off_stays_broken():
    """botocore sees that, and asks once more."""
    read = read_page((HEAD + FIRST + SECOND[:20]).encode())
    assert read is not None
    assert read[1] == (HEAD + SECOND[:20]).encode()
