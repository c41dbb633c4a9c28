"""Where the program lies, how another takes its place, and how all of it is removed again."""
