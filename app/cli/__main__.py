"""`python -m app.cli`: the command line without its script."""

from app.cli import main

if __name__ == "__main__":
    main()
