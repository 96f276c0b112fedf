"""How good a tokenizer is for somebody's images."""
