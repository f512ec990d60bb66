"""``python -m sandbox_anyio`` is the ``sandbox`` command."""

from .cli import main

if __name__ == "__main__":
    main()
