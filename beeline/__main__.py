"""``python -m beeline``: the command line, for programs that start modules, such as torchrun."""

from beeline.apps.cli import main

if __name__ == "__main__":
    main()
