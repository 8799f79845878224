"""The networks of Kronos, plain: tokenizer and decoder-only transformer."""
