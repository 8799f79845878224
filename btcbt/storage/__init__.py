"""What is kept on disk: forecasts by content, runs, the ledger of trials, audit verdicts."""
