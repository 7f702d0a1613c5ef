"""The terminal's encoding. Needs only the standard library: the noxfile uses it before there is any environment."""

import io
import sys


def replace_unknown_characters() -> None:
    """Show `?` for each character of the output that the terminal's encoding lacks, such as `✓`, instead of failing."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")
