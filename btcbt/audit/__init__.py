"""The look-ahead audit: does anything in an experiment know what came after its origins?

It proves by experiment, not by reading code: it changes the future and looks whether the past moves.
"""

from btcbt.audit.experiment import SAMPLE, audit_experiment
from btcbt.audit.findings import LIMITS, AuditReport, Finding
from btcbt.walkforward.stages import STAGE_NAMES, Stages

__all__ = ["LIMITS", "SAMPLE", "STAGE_NAMES", "AuditReport", "Finding", "Stages", "audit_experiment"]
