"""The look-ahead audit: does anything in an experiment depend on candles after its origins?

It does not read code: it changes the candles after an origin and checks that nothing at or before it changes.
"""

from btcbt.audit.experiment import SAMPLE, audit_experiment
from btcbt.audit.findings import LIMITS, AuditReport, Finding
from btcbt.walkforward.stages import STAGE_NAMES, Stages

__all__ = ["LIMITS", "SAMPLE", "STAGE_NAMES", "AuditReport", "Finding", "Stages", "audit_experiment"]
