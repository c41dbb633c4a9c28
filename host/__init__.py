"""Everything that runs on the user's machine, trusted. ARCHITECTURE.md draws its floors."""
