"""The service's settings: every ``UAE_`` variable of the environment, its unit and its default. Read once, at the start."""

import difflib
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Self

from pydantic import BaseModel, ConfigDict, Field, SecretStr, ValidationError, model_validator

from uae.io.errors import ConfigError

_PREFIX = "UAE_"
# Kubernetes sets these in every container for a service whose name begins with "uae". They are not ours.
_KUBERNETES = re.compile(r"UAE_(.+_)?(SERVICE_HOST|SERVICE_PORT(_.+)?|PORT(_\d+_(TCP|UDP|SCTP)(_.+)?)?)")
# Whoever sets such a variable believes that it locks the service. The labelling's key is for another service.
_LOOKS_LIKE_A_KEY = re.compile(r"UAE_(?!TEACHER_API_KEY$)(.+_)?(API)?(KEYS?|SECRETS?|PASSWORDS?|TOKEN|AUTH)(_.+)?")

Count = Annotated[int, Field(ge=1)]
Seconds = Annotated[float, Field(gt=0, allow_inf_nan=False)]


class Config(BaseModel):
    """Field ``max_k`` is the variable ``UAE_MAX_K``."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    # What is served: one of the two. With neither it is the release inside the Bento.
    store: Path | None = None  # a folder that `uae release` acts on; followed
    release: Path | None = None  # a release folder
    watch_seconds: Seconds = 1.0  # how often the store is looked at
    # A database with pgvector that vectors are searched in. With a store: what is active in the collection is served, not in the
    # store, which has its files.
    database: SecretStr | None = (
        None  # postgresql://user@host:port/database; what is missing, libpq takes from PGPASSFILE and such
    )
    collection: str = "uae"  # that `uae release publish` wrote to
    database_seconds: Seconds = 5.0  # in which the database has to answer a search
    drain_seconds: Seconds = 60.0  # after a swap, how long until the log says that the old release still has requests

    # The model.
    device: str = "auto"  # of a release that torch serves: auto, cpu, cuda, cuda:1 ...
    threads: Annotated[int, Field(ge=0)] = 0  # that compute one batch; 0: all cores
    model_workers: Count = 1  # batches computed at once, each with `threads`
    find_threads: Count = 2  # searches of the index at once

    # Batches, and the queue in front of the model.
    batch_texts: Count = 64  # most texts in a batch
    batch_tokens: Count = 16384  # most tokens in a batch, padding included
    batch_padding: Annotated[float, Field(ge=0)] = 0.5  # padded tokens that a batch may hold for each real one
    queue_texts: Count = 1024  # most texts that wait; a request that finds no room is answered with 429
    queue_finds: Count = 128  # most searches of the index that wait for a thread; the same

    # Limits of one request. What exceeds them is refused with 4xx before it costs anything.
    max_body_bytes: Count = 8_000_000  # 2,048 texts of nearly 4,000 characters each
    max_queries: Count = 64  # in one /v1/search
    max_query_characters: Count = 4000
    max_inputs: Count = 2048  # in one /v1/embeddings: as many as OpenAI takes
    max_input_characters: Count = 32_000
    max_k: Count = 100
    max_filters: Count = 8  # fields in one filter
    max_filter_values: Count = 256  # of one field
    max_filter_characters: Count = 512  # of a field's name, and of a value

    # Limits of all requests together.
    max_concurrency: Count = 256  # requests at work; one more is answered with 429
    max_buffered_bytes: Count = 64_000_000  # in memory: bodies, half-sent ones included, and answers that are not read yet
    body_seconds: Seconds = 10.0  # from a request's head to the last byte of its body; a slower client gets 408
    request_seconds: Seconds = 10.0  # from there to the answer, for each `batch_texts` texts of the request; then 503
    send_seconds: Seconds = 60.0  # in which a client has to read each 64 KB of its answer; then the connection is broken

    # Who may ask, and what is told.
    keys_file: Path | None = None  # API keys, one a line; re-read when it changes. None: open to all
    metrics_open: bool = True  # whether /metrics answers without a key
    log_queries: bool = False  # whether the log holds the texts of queries

    # A log of queries and what was found for them, for `uae drift`; see uae/serving/query_log.py.
    query_log: Path | None = None  # its folder; None: there is none
    query_log_days: Count = 30  # how long a query is kept
    query_log_bytes: Annotated[int, Field(ge=1_000_000)] = 1_000_000_000  # beyond it the oldest queries go

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        if self.store and self.release:
            raise ValueError("UAE_STORE and UAE_RELEASE are both set: a store is followed, a release is fixed; set one")
        if "collection" in self.model_fields_set and self.database is None:
            raise ValueError("UAE_COLLECTION is set, and UAE_DATABASE is not: name the database that the collection is in")
        piece = self.batch_texts * self.model_workers
        if self.queue_texts < min(piece, max(self.max_queries, self.max_inputs)):
            raise ValueError(f"UAE_QUEUE_TEXTS is smaller than {piece}, a batch for each worker: a long request never finds room")
        if self.max_buffered_bytes < self.max_body_bytes:
            raise ValueError("UAE_MAX_BUFFERED_BYTES is smaller than UAE_MAX_BODY_BYTES: such a request never finds room")
        return self


def read_config(environment: Mapping[str, str]) -> tuple[Config, list[str]]:
    """The configuration, and the ``UAE_`` variables that are none of it.

    An empty value is the default, but not where that would open the service to all.

    Raises:
        ConfigError: a value does not fit, a name is nearly one of ours, or it looks as if it locked the service and does not.
    """
    names = {_PREFIX + field.upper(): field for field in Config.model_fields}
    others = [name for name in environment if name.startswith(_PREFIX) and name not in names and not _KUBERNETES.fullmatch(name)]
    known = {name.removeprefix(_PREFIX): name for name in names}
    for name in others:
        # Compared without the prefix, which would make any two names alike.
        if near := difflib.get_close_matches(name.removeprefix(_PREFIX), known, n=1, cutoff=0.8):
            raise ConfigError(f"{name} is no setting of the service; did you mean {known[near[0]]}?")
        if _LOOKS_LIKE_A_KEY.fullmatch(name):
            raise ConfigError(
                f"{name} is no setting of the service: keys are read from a file, and UAE_KEYS_FILE says where it is"
            )
    if not environment.get("UAE_KEYS_FILE", "unset").strip():
        raise ConfigError("UAE_KEYS_FILE is set, but empty: name a file, or leave it unset to let everybody ask")
    try:
        config = Config(**{field: environment[name] for name, field in names.items() if environment.get(name)})
    except ValidationError as error:
        first = error.errors()[0]
        variable = f"{_PREFIX}{str(first['loc'][0]).upper()}: " if first["loc"] else ""
        raise ConfigError(f"{variable}{first['msg'].removeprefix('Value error, ')}") from None
    return config, others
