"""Read and write what other libraries read and write. Foreign formats ↔ Suite, Atlas."""

from panscope.stages.exchange.foreign import Ends
from panscope.stages.exchange.formats import WRITABLE
from panscope.stages.exchange.run import read, write

__all__ = ["WRITABLE", "Ends", "read", "write"]
