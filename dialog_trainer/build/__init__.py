"""Configuration becomes objects; from here on code takes plain arguments."""
