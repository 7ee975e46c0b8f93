"""``python -m beeline``: the command line, for programs that start modules, such as torchrun."""

from beeline.cli.main import main

if __name__ == "__main__":
    main()
