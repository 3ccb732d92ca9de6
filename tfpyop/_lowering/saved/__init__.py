"""What saved models hold of calls and gradients, and how it is read."""
