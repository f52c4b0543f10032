"""`python -m grace`, the same as the console command `grace`: one command per stage."""

from grace.cli import main

if __name__ == "__main__":
    main()
