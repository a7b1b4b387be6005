"""``python -m implicitlayers.models``: see `implicitlayers.models.cli`."""

from .cli import main

if __name__ == "__main__":
    main()
