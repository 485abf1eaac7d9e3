"""What every other part may use: it imports none of them."""
