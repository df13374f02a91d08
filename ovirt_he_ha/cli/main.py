"""hosted-engine: the program."""

import sys

from ovirt_he_ha.cli import interruption


def main(argv: "list[str] | None" = None) -> int:
    """Exit status: 0 done, 1 refused or failed, and what ``--help`` of a verb says beyond that."""
    if argv is None:
        interruption.at_once()
    from ovirt_he_ha.cli import program  # 0.1 s on a cold disk, in which somebody may press Ctrl-C

    return program.run(sys.argv[1:] if argv is None else argv)


if __name__ == "__main__":
    sys.exit(main())
