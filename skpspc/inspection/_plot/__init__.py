"""Displays of the instruments; matplotlib is imported when a display is drawn."""
