"""`panscope` and `python -m panscope` are the command line."""

import signal
import sys


def main() -> None:
    """Run the command line; ctrl-c while it is read is answered as within a command."""
    try:
        from panscope.cli import main as command  # a quarter of a second

        command()
    except KeyboardInterrupt:
        sys.stderr.write("error: panscope: was stopped; run the same command again\n")
        sys.exit(130)
    finally:
        # All is said and written; libraries' farewells would answer another one with tracebacks.
        if signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:
            signal.signal(signal.SIGINT, signal.SIG_DFL)


if __name__ == "__main__":
    main()
