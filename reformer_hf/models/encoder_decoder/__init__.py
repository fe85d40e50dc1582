"""What encoder-decoders have beside the parts of a plain model."""
