"""What every other package needs: errors, random numbers, processes, progress, and where things lie."""
