"""The Bento: one process that serves one release over HTTP. BentoML runs it; the application answers.

There is no ``@bentoml.api`` here: such methods take pickled bodies from other Bentos, and have errors and limits of their own.
"""

import gc
import os
from pathlib import Path

import bentoml
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Receive, Scope, Send

from deploy.app import create_app
from deploy.config import read_config
from deploy.logs import open_log

_BUNDLED = Path(__file__).resolve().parent.parent / "release"


class _NoTimeout:
    """Takes the place of BentoML's timeout, which never cancels its timers.

    With them, each request's context and trace would stay in memory for as long as the request might have taken. Under load these
    are ten thousands, and everything stands still for a few tenths of a second while Python's collector goes through them. What
    takes too long is ended by deploy/limits.py and deploy/sending.py.
    """

    def __init__(self, app: ASGIApp, timeout: float):
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self._app(scope, receive, send)


_log = open_log()
# BentoML has no setting that takes its timeout out, so a private name is replaced: the only one. Where a version has renamed it,
# the service runs with the timeout, and says so; tests/serving/test_bento.py fails.
try:
    from bentoml._internal.server.http import traffic

    vars(traffic)["TimeoutMiddleware"]  # KeyError where it has another name
    vars(traffic)["TimeoutMiddleware"] = _NoTimeout
except (ImportError, KeyError):
    _log.warning("BentoML's timeout could not be taken out: a request may end in its 504, and memory grows under load")
_config, _others = read_config(os.environ)
for _name in _others:
    _log.warning("unknown variable", name=_name)
if not _config.store and not _config.release and _BUNDLED.is_dir():
    _config = _config.model_copy(update={"release": _BUNDLED})
_app = create_app(_config, _log)


@bentoml.asgi_app(_app)
@bentoml.service(
    name="uae-retriever",
    workers=1,  # a second process would hold a second copy of everything, and swap at another moment
    metrics={"enabled": False},  # /metrics is the application's: see deploy/metrics.py
    logging={"access": {"enabled": False}},  # one line a request is enough: see deploy/logs.py
)
class Retriever:
    """Vector search over the promoted corpus, ranked by usefulness."""

    @bentoml.on_startup  # type: ignore[untyped-decorator]
    def settle(self) -> None:
        """Take what the imports made out of the collector's way: it stays until the end anyway."""
        gc.collect()
        gc.freeze()

    def __is_ready__(self) -> bool:
        if reason := _app.state.retrieval.why_not_ready():
            raise HTTPException(503, reason)  # BentoML's own answer would not say why
        return True
