"""Written by ``python -m sandbox_anyio.blocking.generate``; nothing here is edited by hand."""
