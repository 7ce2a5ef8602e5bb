"""At the door: what an item will cost, whether it may come in at all, and when its turn is."""
