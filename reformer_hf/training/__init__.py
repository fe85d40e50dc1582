"""Training: corpora, windows, the Trainer set up for resumable runs, evaluation and reports."""
