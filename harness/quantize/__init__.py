"""One file a method: a frozen dataclass that reads a model directory and writes a compressed one."""
