"""Several symbols at once: each walked as by itself, then compared, ranked and traded together."""
