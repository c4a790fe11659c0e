"""The parts of 1 · Prompts: where pairs come from, the table, and what is said of them."""
