"""Networks. Only this package and `btcbt.forecasters` import torch."""
