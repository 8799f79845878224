"""Where forecasts are computed: this process, processes beside it, or a cluster."""
