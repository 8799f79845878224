"""The walk-forward: the stages that runs and audits execute, one file per stage."""
