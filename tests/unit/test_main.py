"""Ctrl-c before a command is read, and after all is said."""

import subprocess
import sys

WHILE_READING = """
import sys

class Interrupts:
    def find_spec(name, path=None, target=None):
        if name == "panscope.cli":
            raise KeyboardInterrupt

sys.meta_path.insert(0, Interrupts)
from panscope.__main__ import main
main()
"""
AT_THE_END = """
import atexit, os, signal, sys
atexit.register(os.kill, os.getpid(), signal.SIGINT)
signal.signal(signal.SIGINT, {handler})
sys.argv = ["panscope", "--version"]
from panscope.__main__ import main
main()
"""


def run(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)


def test_who_interrupts_while_the_command_line_is_read_is_told_one_sentence() -> None:
    done = run(WHILE_READING)
    said = "error: panscope: was stopped; run the same command again\n"
    assert (done.returncode, done.stdout, done.stderr) == (130, "", said)


def test_who_interrupts_farewells_ends_them_without_a_word() -> None:
    done = run(AT_THE_END.format(handler="signal.default_int_handler"))
    assert (done.returncode, done.stderr) == (-2, "") and done.stdout.startswith("panscope")


def test_who_ignores_interrupts_goes_on_ignoring_them() -> None:
    done = run(AT_THE_END.format(handler="signal.SIG_IGN"))
    assert (done.returncode, done.stderr) == (0, "")
