"""What a test does on the page."""

from playwright.sync_api import Page, expect

expect.set_options(timeout=30_000)  # the machine may be busy


def ask(page: Page, question: str) -> None:
    expect(page.locator("#question")).to_be_focused()  # the browser sees to that a moment after the page is there
    page.keyboard.type(question)
    page.keyboard.press("Enter")
    marked(page)


def marked(page: Page) -> None:
    """Wait until all is there, the marks too."""
    expect(page.locator("#results")).not_to_have_attribute("aria-busy", "true")
    expect(page.locator("#results mark").first).to_be_visible()


def shown(page: Page, system: str) -> list[str | None]:
    return [item.get_attribute("data-passage") for item in page.locator(f".{system} li").all()]
