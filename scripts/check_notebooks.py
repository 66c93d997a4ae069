"""Dice qué cuadernos están a medio fundir o rotos, y cómo se acaba; con cualquiera de ellos, termina con error."""
import sys

from notebooks import find_faults


def main() -> None:
    """Una frase por cuaderno."""
    faults = find_faults()
    if faults:
        sys.exit("\n".join(faults))


if __name__ == "__main__":
    main()
