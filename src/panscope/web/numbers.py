"""How numbers and tokens are written, the same in pages and notebooks (in `numbers.js` too)."""

import math

THIN = "\u202f"  # a narrow blank at which no line breaks
NOTHING = "–"


def number(value: float | None, digits: int = 3) -> str:
    """Three significant digits, thin blanks in thousands; small and large ones by power of ten.

    >>> number(0.123456), number(1234.5), number(2e-7), number(None)
    ('0.123', '1\u202f230', '2.00e-7', '–')
    """
    if value is None:
        return NOTHING
    if value == 0:
        return "0"
    power = math.floor(math.log10(abs(float(f"{value:.{digits - 1}e}"))))
    if not -4 < power < 9:
        mantissa, exponent = f"{value:.{digits - 1}e}".split("e")
        return f"{mantissa}e{int(exponent)}"
    shown = f"{round(value, digits - 1 - power):,.{max(0, digits - 1 - power)}f}"
    return shown.replace(",", THIN)


def count(value: float | None) -> str:
    """A whole number with thin blanks in thousands.

    >>> count(1234567)
    '1\u202f234\u202f567'
    """
    return NOTHING if value is None else f"{round(value):,}".replace(",", THIN)


def density(value: float | None) -> str:
    """A share of tokens in per cent; under 0.01 % as one in so many.

    >>> density(0.0123), density(1 / 23456), density(0)
    ('1.23\u202f%', '1 in 23\u202f500 tokens', 'never')
    """
    if value is None:
        return NOTHING
    if value == 0:
        return "never"
    return percent(value) if value >= 1e-4 else f"1 in {number(1 / value)} tokens"


def percent(share: float) -> str:
    """A share in per cent.

    >>> percent(0.4123)
    '41.2\u202f%'
    """
    return f"{number(100 * share)}{THIN}%"


def visible(piece: str) -> str:
    """A piece with its blanks made visible, for plain text.

    >>> visible(" a\\n")
    '·a↵'
    """
    return piece.replace(" ", "·").replace("\n", "↵").replace("\t", "→")
