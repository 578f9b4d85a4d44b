"""The evaluation as one HTML page: its names, words, tables, single questions and plots, put together by ``build``."""

from uae.evaluation.page.build import evaluation_page, page

__all__ = ["evaluation_page", "page"]
