"""The one place that joins everything: read -> profile -> fit -> plan -> code -> fine-tune -> evaluate -> write."""
