"""What every other package builds on: errors, random numbers, processes, devices, progress and settings."""
