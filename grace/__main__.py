"""`python -m grace`: one command a stage."""

from grace.cli import main

if __name__ == "__main__":
    main()
