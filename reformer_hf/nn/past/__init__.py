"""What a layer remembers of the tokens before, and how it attends to them."""
