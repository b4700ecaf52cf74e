"""A conversion by several processes, as torchrun starts them: who they are, what they share, and who has gone."""
