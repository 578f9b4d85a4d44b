"""The source of a run: where what is known of it lies in the run's folder."""

from uae.corpus.watch import Watch
from uae.pipeline.settings import Settings
from uae.pipeline.workspace import Workspace


def watch_source(path: str, format: str, max_lost_share: float, workspace: Workspace) -> Watch:
    return Watch(path, format, workspace.path("source"), workspace.cache, max_lost_share)


def source_of(settings: Settings, workspace: Workspace) -> Watch:
    """The source that the parameters name. A relative path counts from the current folder, as it does for the stages."""
    return watch_source(settings.ingest.path, settings.ingest.format, settings.source.max_lost_share, workspace)
