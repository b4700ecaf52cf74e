"""A plan's tables coded: which rows go to which level, then the codes of all rows, shared by a crew."""
