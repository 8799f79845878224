"""The look-ahead audit: does anything in an experiment know what came after its origins?

It proves by experiment, not by reading code: it changes the future and looks whether the past moves.
"""

from btcbt.audit.experiment import SAMPLE, audit_experiment
from btcbt.audit.findings import LIMITS, STAGES, AuditReport, Finding
from btcbt.audit.stages import Stages

__all__ = ["LIMITS", "SAMPLE", "STAGES", "AuditReport", "Finding", "Stages", "audit_experiment"]
