"""What a conversion is worth: figures on the evaluation data, and predictions for other sizes."""
