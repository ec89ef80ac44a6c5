"""One file an adaptation: a frozen dataclass that reads a base model directory and writes an adapted one."""
