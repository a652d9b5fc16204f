"""Tables of results, written between markers of benchmarks/README.md with their machine's name."""

import os
import platform
from pathlib import Path

README = Path(__file__).with_name("README.md")


def machine() -> str:
    """Name processor, cores and Python."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    model = next(line.split(": ")[1] for line in lines if line.startswith("model name"))
    flags = next(line for line in lines if line.startswith("flags"))
    wide = [name for name in ("avx2", "avx512f", "avx512_bf16") if name in flags]
    return (
        f"{model} ({', '.join(wide)}), {os.cpu_count()} cores, Python {platform.python_version()}"
    )


def write_table(name: str, table: str) -> None:
    """Replace what stands between the markers of `name`, and print it."""
    begin, end = f"<!-- {name}: begin -->", f"<!-- {name}: end -->"
    before, _, rest = README.read_text(encoding="utf-8").partition(begin)
    _, _, after = rest.partition(end)
    README.write_text(f"{before}{begin}\n{table}\n{end}{after}", encoding="utf-8")
    print(table)
