"""The metrics, one in a file, and the statistics and intervals they share."""
