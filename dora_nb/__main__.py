"""``python -m dora_nb`` is ``dora-nb``."""

from __future__ import annotations

from dora_nb.cli import main

if __name__ == "__main__":
    main()
