"""Write docs/cli.md: every command's --help, as a terminal of 100 columns shows it."""

import argparse
import contextlib
import io
import os
import sys
from pathlib import Path

from edgetiny.cli import COMMANDS, main

PAGE = Path(__file__).with_name("cli.md")

HEAD = """\
# Commands

Generated from `--help` by `docs/generate_cli.py`; do not edit.

Every stage takes its settings from flags, from the table of its name in a TOML recipe
(`--recipe FILE`, for example `[train]` or `[data_build]`), and from its defaults, in this order.
Exit codes: 0 done, 1 a check failed, 2 you can mend it, 3 inconclusive (gate),
130 interrupted.
"""


def help_text(words: list[str]) -> str:
    """Return what `edgetiny WORDS --help` prints."""
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        code = main([*words, "--help"])
    assert code == 0, words
    return "\n".join(line.rstrip() for line in printed.getvalue().splitlines())


def page() -> str:
    """Return the whole page as Markdown."""
    os.environ["COLUMNS"] = "100"
    parts = [HEAD, f"```\n{help_text([])}\n```\n"]
    for command in COMMANDS:
        parts.append(f"## {command.words}\n\n```\n{help_text(command.words.split())}\n```\n")
    return "\n".join(parts)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="exit 1 if the page is out of date")
    if not parser.parse_args().check:
        PAGE.write_text(page(), encoding="utf-8")
    elif not PAGE.is_file() or PAGE.read_text(encoding="utf-8") != page():
        sys.exit(f"{PAGE} is out of date; run: make docs")
