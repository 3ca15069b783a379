"""One script per claim; what they printed, with hardware and date, is in ``results/``."""
