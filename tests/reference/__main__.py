"""Write the API reference anew: ``python -m tests.reference``."""

from __future__ import annotations

from .page import PAGE, Page

PAGE.write_text(Page().render())
