"""What changes one artifact into another: written by `diff`, carried out by `apply`."""
