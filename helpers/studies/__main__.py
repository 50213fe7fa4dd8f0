"""`make study`: see `making`."""

from .making import main

if __name__ == "__main__":
    main()
