"""The networks of Kronos in plain torch.

Read `btcbt.models.kronos.shapes`, then `layers` (norm, rotary positions, attention, feed-forward, block), `quantizer`,
`tokenizer` and `model`.
"""
