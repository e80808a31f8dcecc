"""Pages as a user sees them: Debian's Chromium, driven by Playwright; tests skip where one of them is absent."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from playwright.sync_api import Page

BROWSERS = ('chromium', 'chromium-browser', 'google-chrome')
QUIET = (  # nothing of its own goes over the network
    '--no-sandbox', '--disable-gpu', '--disable-quic', '--no-first-run', '--disable-background-networking',
    '--disable-component-update', '--disable-sync')


def browser_path() -> str:
    """The browser of this machine; skips the test where there is none."""
    pytest.importorskip('playwright', reason='Playwright is not installed: pip install playwright')
    path = next((path for name in BROWSERS if (path := shutil.which(name))), None)
    if path is None:
        pytest.skip(f'no browser: none of {", ".join(BROWSERS)} is installed')
    return path


@contextlib.contextmanager
def open_page(
    address: str | Path, width: int = 1280, height: int = 900, dark: bool = False, offline: bool = True
) -> Iterator[tuple[Page, list[str]]]:
    """Open a file or an address; gives the page and the list, still growing, of what went wrong on it.

    Args:
        address: of a page, or the path of a file.
        width: of the window, in CSS pixels.
        height: of the window.
        dark: the theme that the reader prefers.
        offline: a file must not ask for anything beyond itself: each request is one of the complaints.
    """
    path = browser_path()
    from playwright.sync_api import sync_playwright

    is_file = not str(address).startswith('http')
    url = Path(address).resolve().as_uri() if is_file else str(address)
    complaints: list[str] = []
    with sync_playwright() as play, contextlib.closing(
            play.chromium.launch(executable_path=path, args=list(QUIET))) as browser:
        page = browser.new_page(
            viewport=dict(width=width, height=height), color_scheme='dark' if dark else 'light')
        page.on('pageerror', lambda error: complaints.append(f'error: {error}'))
        page.on('console', lambda message: complaints.append(f'{message.type}: {message.text}')
                if message.type in ('error', 'warning') else None)
        page.on('requestfailed', lambda request: complaints.append(f'request failed: {request.url[:200]}'))
        if is_file and offline:
            page.on('request', lambda request: complaints.append(f'request: {request.url[:200]}')
                    if not request.url.startswith(('file:', 'data:', 'blob:')) else None)
        page.goto(url)
        yield page, complaints
