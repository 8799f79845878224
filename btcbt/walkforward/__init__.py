"""The walk-forward: the loop that every run and every audit drives, one file a stage."""
