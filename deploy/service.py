"""The Bento: one process that serves one release over HTTP. BentoML runs it; the application answers.

There is no ``@bentoml.api`` here: such methods take pickled bodies from other Bentos, and have errors and limits of their own.
"""

import os
from pathlib import Path

import bentoml

from deploy.app import create_app
from deploy.config import read_config
from deploy.logs import open_log

_BUNDLED = Path(__file__).resolve().parent.parent / "release"

_log = open_log()
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
    # BentoML's timeout answers in a shape of its own: it stands behind ours, for what ours cannot see.
    traffic={"timeout": _config.body_seconds + _config.request_seconds + 30},
    metrics={"enabled": False},  # /metrics is the application's: see deploy/metrics.py
    logging={"access": {"enabled": False}},  # one line a request is enough: see deploy/logs.py
)
class Retriever:
    """Vector search over the promoted corpus, ranked by usefulness."""

    def __is_ready__(self) -> bool:
        return _app.state.retrieval.switch.current is not None
