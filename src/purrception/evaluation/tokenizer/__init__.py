"""How good a tokenizer is for given images."""
