"""`python -m podling.cli`"""

from podling.cli.main import main

if __name__ == "__main__":
    main()
