"""What the package promises in figures: scripts that measure, print a bar each, and fail by it."""
