"""What a recipe will cost before it runs: tokens, disk, memory, operations, hours, dollars."""

from panscope.plan.run import Plan, plan

__all__ = ["Plan", "plan"]
