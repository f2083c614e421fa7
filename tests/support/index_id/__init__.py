"""Models that differ in one thing each, with their index ids and their vectors."""
