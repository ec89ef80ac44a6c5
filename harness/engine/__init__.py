"""What runs a model: prompts in, completions and times out."""
