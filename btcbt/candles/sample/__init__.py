"""The bundled samples of real candles, and the script that builds them."""
