"""What a conversion starts from: the model and its tables, the log and its profile, fits that were kept."""
