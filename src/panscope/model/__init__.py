"""A frozen language model whose sites can be read and edited, and the text it reads."""
