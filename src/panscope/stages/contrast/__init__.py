"""Find which features tell two sets of prompts apart, and what ablating them changes."""

from panscope.stages.contrast.prompts import read_prompts, refuse_few
from panscope.stages.contrast.run import Config, run

__all__ = ["Config", "read_prompts", "refuse_few", "run"]
