"""Retriever classes that ask a running service, for LangChain, Haystack and LlamaIndex (the extra ``clients``)."""

from typing import NoReturn


def missing(error: ModuleNotFoundError) -> NoReturn:
    """Say which extra brings a package that is not installed.

    Raises:
        ModuleNotFoundError: always.
    """
    message = f"{error.name} is not installed: the clients need the extra 'clients' (pip install 'uae[clients]')"
    raise ModuleNotFoundError(message, name=error.name) from error
