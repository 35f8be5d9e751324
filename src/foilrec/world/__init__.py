"""An invented shop: goods that can be described and drawn, customers whose true tastes are known."""
