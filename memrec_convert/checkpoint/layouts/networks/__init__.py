"""Parts of networks that several layouts share."""
