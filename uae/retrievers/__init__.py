"""One kind of retriever a file, and the forms it is served in."""

import os

# Before ONNX Runtime is loaded: from then on it would send its maker events of each session, with an identifier of the machine.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
