"""The pickle reader that runs nothing: a closed list of names, each with an inert stand-in."""
