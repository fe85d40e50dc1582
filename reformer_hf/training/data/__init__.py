"""From files and datasets to rows and batches."""
